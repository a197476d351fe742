"""The files of a git repository that a source wants, at one commit.

A repository of our own asks the server for the file list of one commit, then for the contents of
the files that match, without history, and these are written as plain bytes. Nothing is ever checked
out, so no hook, filter, attribute or link of the repository takes effect. In the cache:

    azure-docs-0123456789abcdef/     one URL
      revisions.json                 the commit of a branch or tag when it was looked up
      repository/                    a bare repository with the objects that were fetched
      checkouts/COMMIT-SELECTION/    the files of one selection, once all of them are written
        files/                       the files, below their paths in the repository
        checkout.json                their number and size, and what was passed over
"""

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from mlmtune.corpus.git_repository import Entry, GitRepository, without_credentials
from mlmtune.corpus.listing import PassedOver
from mlmtune.errors import ConfigError
from mlmtune.files import read_json, sweep, whole_folder, write_bytes
from mlmtune.locks import waiting_lock
from mlmtune.printable import counted
from mlmtune.redaction import public_location

_URL = re.compile(
    r"(?P<scheme>https|ssh|file)://(?:(?P<user>[^-/][^/]*)@)?(?:[^-/@][^/@]*)?/.+", re.DOTALL
)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_REVISION = re.compile(r"\w[\w./+@-]*")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_MAX_FOLDERS = 256


@dataclass(frozen=True, slots=True)
class WantedFiles:
    """The files of a repository that are wanted.

    Attributes:
        url: `https://`, `ssh://` or `file://`, without credentials.
        revision: A branch, a tag, or all 40 digits of a commit; None for the default branch.
        matches: Whether a path in the repository is wanted.
        selection: Names what `matches` selects; it becomes part of a file name.
    """

    url: str
    revision: str | None
    matches: Callable[[str], bool]
    selection: str


@dataclass(frozen=True, slots=True)
class GitCheckout:
    """The wanted files of one commit.

    Attributes:
        folder: Contains exactly these files, below their paths in the repository.
        commit: 40 hexadecimal digits.
        passed_over: What matches but cannot be read, sorted by path.
    """

    folder: str
    commit: str
    passed_over: tuple[PassedOver, ...]


def fetch(
    wanted: WantedFiles, cache: Path, say: Callable[[str], None], *, refresh: bool = False
) -> GitCheckout:
    """Fetch the files of a repository, unless they are in the cache.

    Other processes that want files of the same URL wait meanwhile, on a file lock.

    Args:
        wanted: The repository and its files.
        cache: The folder of all repositories.
        say: Is called with a line about what takes time.
        refresh: Whether to look up again the commit of a branch or tag, which is otherwise the one
            that was first seen.

    Raises:
        ConfigError: The URL or revision is refused, or git is missing or too old.
        HubError: The repository cannot be reached, or has no such revision.
        ResourceError: The cache is damaged.
    """
    url, selection = wanted.url, wanted.selection
    revision = "HEAD" if wanted.revision is None else wanted.revision
    _check(url, revision)
    if _COMMIT.fullmatch(revision.lower()):
        revision, refresh = revision.lower(), False
    cached = _CachedRepository(cache, url)
    if not refresh and (checkout := cached.find(revision, selection)):
        return checkout
    with cached.opened(say) as repository:
        if not refresh and (checkout := cached.find(revision, selection)):
            return checkout  # another process has fetched it meanwhile
        commit = cached.fetch_file_list(repository, revision, say, refresh=refresh)
        if checkout := cached.find(revision, selection):
            return checkout  # the branch has not moved
        files, passed_over = _select(repository.entries(commit), wanted.matches)
        missing = repository.missing(files)
        if missing:
            say(f"fetching {counted(len(missing), 'file')} of {url}")
        repository.fetch_blobs(missing)
        num_files, num_bytes = cached.write(repository, commit, selection, files, passed_over)
        megabytes = num_bytes / 1e6
        say(f"{url}: {counted(num_files, 'file')}, {megabytes:,.1f} MB, of commit {commit[:12]}")
        checkout = cached.find(revision, selection)
        assert checkout is not None
        return checkout


def list_files(
    url: str, revision: str | None, cache: Path, say: Callable[[str], None]
) -> list[str]:
    """Return the paths of the files of a repository, whose contents are not fetched.

    Args:
        url: `https://`, `ssh://` or `file://`, without credentials.
        revision: A branch, a tag, or all 40 digits of a commit; None for the default branch.
        cache: The folder of all repositories.
        say: Is called with a line about what takes time.

    Raises:
        MlmtuneError: See `fetch`.
    """
    revision = "HEAD" if revision is None else revision
    _check(url, revision)
    cached = _CachedRepository(cache, url)
    with cached.opened(say) as repository:
        commit = cached.fetch_file_list(repository, revision, say, refresh=False)
        files, _ = _select(repository.entries(commit), lambda path: True)
    return [file.path for file in files]


def _check(url: str, revision: str) -> None:
    """Refuse what git could take for an option, a command, or another kind of transport."""
    match = _URL.fullmatch(url)
    # A user alone is no secret with ssh, which asks for `git@`.
    has_credentials = match and match["user"] and (match["scheme"] != "ssh" or ":" in match["user"])
    if has_credentials or public_location(url) != url:
        raise ConfigError(
            "git: the URL holds credentials; remove them, and let git's credential helper or ssh "
            "provide them"
        )
    if not match or _CONTROL.search(url):
        raise ConfigError(
            f"git: {without_credentials(url)!r} is not the URL of a repository, which begins with "
            "https://, ssh:// or file://"
        )
    if not _REVISION.fullmatch(revision):
        raise ConfigError(f"revision: {revision!r} is not the name of a branch, tag or commit")


# The modes of entries that are not files, and why they are passed over.
_NOT_FILES = {
    "120000": ("link", "a link, which is not followed"),
    "160000": ("submodule", "a submodule, which is not fetched"),
}


def _select(
    entries: list[Entry], matches: Callable[[str], bool]
) -> tuple[list[Entry], list[PassedOver]]:
    """Return the files to fetch, and what matches but cannot be fetched."""
    files, passed_over = [], []
    for entry in entries:
        if not matches(entry.path):
            continue
        if entry.mode in _NOT_FILES:
            passed_over.append(PassedOver(entry.path, *_NOT_FILES[entry.mode]))
        elif fault := _fault_of(entry.path):
            passed_over.append(PassedOver(entry.path, "unsafe_path", fault))
        else:
            files.append(entry)
    return files, passed_over


def _fault_of(path: str) -> str | None:
    names = path.split("/")
    if any(name in ("", ".", "..") or name.lower() == ".git" for name in names):
        return "a path that could lead out of its folder"
    if len(names) > _MAX_FOLDERS:
        return f"nested in more than {_MAX_FOLDERS} folders"
    return None


class _CachedRepository:
    """The part of the cache that belongs to one URL."""

    def __init__(self, cache: Path, url: str) -> None:
        last = url.rstrip("/").removesuffix(".git").rstrip("/").rpartition("/")[2]
        name = re.sub(r"[^\w.-]+", "_", last)
        digest = hashlib.sha256(url.encode("utf-8", "surrogateescape")).hexdigest()[:16]
        self._folder = cache.absolute() / f"{name[:40]}-{digest}"
        self._url = url
        self._revisions = self._folder / "revisions.json"

    @contextmanager
    def opened(self, say: Callable[[str], None]) -> Iterator[GitRepository]:
        """Open the repository, and keep other processes out during the block."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with waiting_lock(self._folder / "lock", say, f"fetches {self._url}"):
            yield GitRepository(self._folder / "repository", self._url)

    def commit_of(self, revision: str) -> str | None:
        """Return the commit of a revision when it was last looked up; None if it never was."""
        recorded = read_json(self._revisions) or {}
        if any(revision == entry["commit"] for entry in recorded.values()):
            return revision
        return str(recorded[revision]["commit"]) if revision in recorded else None

    def fetch_file_list(
        self, repository: GitRepository, revision: str, say: Callable[[str], None], *, refresh: bool
    ) -> str:
        """Return the commit of a revision, whose list of files is then in the repository."""
        known = None if refresh else self.commit_of(revision)
        if known is not None and repository.holds(known):
            return known
        at_revision = "" if revision == "HEAD" else f" at {revision}"
        say(f"fetching the file list of {self._url}{at_revision}")
        commit, is_partial = repository.fetch_commit(known or revision)
        if not is_partial:
            say(f"{self._url}: its server cannot send single files, so it sent all of that commit")
        if known is None:
            looked_up = datetime.now(UTC).isoformat(timespec="seconds")
            recorded = read_json(self._revisions) or {}
            recorded[revision] = {"commit": commit, "looked_up": looked_up}
            write_bytes(self._revisions, json.dumps(recorded, indent=2).encode())
        return commit

    def find(self, revision: str, selection: str) -> GitCheckout | None:
        """Return a finished checkout, unless some of its files were deleted or cut since."""
        commit = self.commit_of(revision)
        if commit is None:
            return None
        folder = self._checkout(commit, selection)
        manifest = read_json(folder / "checkout.json")
        files = folder / "files"
        if not manifest or _measure(files) != (manifest["num_files"], manifest["num_bytes"]):
            return None
        passed_over = tuple(PassedOver(*entry) for entry in manifest["passed_over"])
        return GitCheckout(str(files), commit, passed_over)

    def write(
        self,
        repository: GitRepository,
        commit: str,
        selection: str,
        files: list[Entry],
        passed_over: list[PassedOver],
    ) -> tuple[int, int]:
        """Write a checkout, whole or not at all, and return the number of files and bytes."""
        checkout = self._checkout(commit, selection)
        checkout.parent.mkdir(exist_ok=True)
        sweep(checkout.parent)
        with whole_folder(checkout) as temporary:
            (temporary / "files").mkdir()
            passed_over = [*passed_over, *repository.write(files, temporary / "files")]
            num_files, num_bytes = _measure(temporary / "files")
            manifest = {
                "url": self._url,
                "commit": commit,
                "num_files": num_files,
                "num_bytes": num_bytes,
                "passed_over": sorted(passed_over),
            }
            write_bytes(temporary / "checkout.json", json.dumps(manifest, indent=2).encode())
        return num_files, num_bytes

    def _checkout(self, commit: str, selection: str) -> Path:
        return self._folder / "checkouts" / f"{commit}-{selection}"


def _measure(folder: Path) -> tuple[int, int]:
    """Return the number of files below a folder, and of their bytes."""
    sizes = [
        os.lstat(os.path.join(inside, name)).st_size
        for inside, _, names in os.walk(folder)
        for name in names
    ]
    return len(sizes), sum(sizes)
