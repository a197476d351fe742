"""Files of a git repository: those that are wanted, at one commit, without history or working tree.

A repository of our own asks the server for the file list of one commit, then for the contents of
the files that match, and these are written out as plain bytes. Nothing is ever checked out, so no
hook, filter, attribute or link of the repository takes effect. In the cache:

    azure-docs-0123456789abcdef/     one URL
      revisions.json                 which commit a branch or tag stood at when it was looked up
      repository/                    what was fetched, bare; not even the objects of other files
      checkouts/COMMIT-SELECTION/    one finished choice of files, or none
        files/                       the files, below their paths in the repository
        checkout.json                how many there are, how large, and what was passed over
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
from typing import Any

from filelock import FileLock, Timeout

from mlmtune.corpus.git_repository import Entry, GitRepository, NotFetched, without_credentials
from mlmtune.errors import ConfigError
from mlmtune.files import sweep, whole_folder, write_bytes
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
class GitCheckout:
    """The wanted files of one commit.

    Attributes:
        folder: holds exactly these files, below their paths in the repository.
        commit: 40 hexadecimal digits.
        passed_over: what matches and is no file that can be read, by path.
    """

    folder: str
    commit: str
    passed_over: tuple[NotFetched, ...]


def fetch(
    url: str,
    revision: str | None,
    matches: Callable[[str], bool],
    selection: str,
    cache: Path,
    say: Callable[[str], None],
    *,
    refresh: bool = False,
) -> GitCheckout:
    """The files of a repository that match, from the cache where they are in it.

    Other processes that want files of the same URL wait meanwhile, on a file lock.

    Args:
        url: `https://`, `ssh://` or `file://`, without credentials.
        revision: branch, tag or whole commit; the default branch for None.
        matches: whether a path in the repository is wanted.
        selection: names the choice that `matches` makes, fit for a file name.
        cache: folder of all repositories.
        say: told in one line what takes time.
        refresh: look up again where a branch or tag stands; else it stays where it was first seen.

    Raises:
        ConfigError: the URL or revision is none, or git is missing or too old.
        HubError: the repository cannot be reached, or has no such revision.
        ResourceError: what the cache holds is damaged.
    """
    _check(url, revision)
    wanted = revision or "HEAD"
    if _COMMIT.fullmatch(wanted.lower()):
        wanted, refresh = wanted.lower(), False
    home = _Home(cache, url)
    if not refresh and (checkout := home.find(wanted, selection)):
        return checkout
    with home.alone(say):
        if not refresh and (checkout := home.find(wanted, selection)):
            return checkout  # another process has fetched it meanwhile
        repository = GitRepository(home.folder / "repository", url)
        commit = _fetch_file_list(repository, home, url, revision, wanted, say, refresh=refresh)
        if checkout := home.find(wanted, selection):
            return checkout  # the branch has not moved
        files, passed_over = _choose(repository.entries(commit), matches)
        missing = repository.missing(files)
        if missing:
            say(f"fetching {counted(len(missing), 'file')} of {url}")
        repository.fetch_blobs(missing)
        num_files, num_bytes = home.write(repository, commit, selection, files, passed_over)
        megabytes = num_bytes / 1e6
        say(f"{url}: {counted(num_files, 'file')}, {megabytes:,.1f} MB, of commit {commit[:12]}")
        checkout = home.find(wanted, selection)
        assert checkout is not None
        return checkout


def _fetch_file_list(
    repository: GitRepository,
    home: "_Home",
    url: str,
    revision: str | None,
    wanted: str,
    say: Callable[[str], None],
    *,
    refresh: bool,
) -> str:
    """Return the commit of a revision, whose list of files is then in the repository."""
    known = None if refresh else home.commit_of(wanted)
    if known is not None and repository.holds(known):
        return known
    say(f"fetching the file list of {url}" + (f" at {revision}" if revision else ""))
    commit, is_partial = repository.fetch_commit(known or wanted)
    if not is_partial:
        say(f"{url}: its server cannot send single files, so it sent all of that commit")
    if known is None:
        home.record(wanted, commit)
    return commit


def _check(url: str, revision: str | None) -> None:
    """Refuse whatever git could take for an option, a command, or another kind of transport."""
    found = _URL.fullmatch(url)
    user = found["user"] if found else ""
    has_user = user and found and (found["scheme"] != "ssh" or ":" in user)
    if has_user or public_location(url) != url:
        raise ConfigError(
            "git: the URL holds credentials; take them out and let git's credential helper or ssh "
            "give them"
        )
    if not found or _CONTROL.search(url):
        raise ConfigError(
            f"git: {without_credentials(url)!r} is no URL of a repository that begins with "
            "https://, ssh:// or file://"
        )
    if revision is not None and not _REVISION.fullmatch(revision):
        raise ConfigError(f"revision: {revision!r} is no name of a branch, tag or commit")


# Modes of what is no file, to why it is passed over.
_NO_FILES = {
    "120000": ("link", "a link, which is not followed"),
    "160000": ("submodule", "a submodule, which is not fetched"),
}


def _choose(
    entries: list[Entry], matches: Callable[[str], bool]
) -> tuple[list[Entry], list[NotFetched]]:
    """What matches: files to fetch, and what cannot be fetched."""
    files, passed_over = [], []
    for entry in entries:
        if not matches(entry.path):
            continue
        if entry.mode in _NO_FILES:
            passed_over.append(NotFetched(entry.path, *_NO_FILES[entry.mode]))
        elif fault := _fault_of(entry.path):
            passed_over.append(NotFetched(entry.path, "unsafe_path", fault))
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


class _Home:
    """What the cache holds of one URL."""

    def __init__(self, cache: Path, url: str) -> None:
        last = url.rstrip("/").removesuffix(".git").rstrip("/").rpartition("/")[2]
        name = re.sub(r"[^\w.-]+", "_", last)
        digest = hashlib.sha256(url.encode("utf-8", "surrogateescape")).hexdigest()[:16]
        self.folder = cache.absolute() / f"{name[:40]}-{digest}"
        self._url = url
        self._revisions = self.folder / "revisions.json"

    @contextmanager
    def alone(self, say: Callable[[str], None]) -> Iterator[None]:
        """Keep other processes off it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.folder / "lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            say(f"waiting for another process that fetches {self._url}")
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def commit_of(self, revision: str) -> str | None:
        """The commit that a revision is known to stand for."""
        recorded = _read_json(self._revisions)
        if any(revision == entry["commit"] for entry in recorded.values()):
            return revision
        return str(recorded[revision]["commit"]) if revision in recorded else None

    def record(self, revision: str, commit: str) -> None:
        """Note where a revision stands now."""
        looked_up = datetime.now(UTC).isoformat(timespec="seconds")
        recorded = _read_json(self._revisions)
        recorded[revision] = {"commit": commit, "looked_up": looked_up}
        write_bytes(self._revisions, json.dumps(recorded, indent=2).encode())

    def find(self, revision: str, selection: str) -> GitCheckout | None:
        """A finished checkout, unless files of it were taken away or cut short since."""
        commit = self.commit_of(revision)
        if commit is None:
            return None
        folder = self._checkout(commit, selection)
        manifest = _read_json(folder / "checkout.json")
        files = folder / "files"
        if not manifest or _measure(files) != (manifest["num_files"], manifest["num_bytes"]):
            return None
        passed_over = tuple(NotFetched(*entry) for entry in manifest["passed_over"])
        return GitCheckout(str(files), commit, passed_over)

    def write(
        self,
        repository: "GitRepository",
        commit: str,
        selection: str,
        files: list[Entry],
        passed_over: list[NotFetched],
    ) -> tuple[int, int]:
        """Write a checkout, whole or not at all; gives the number of files and bytes."""
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
        return self.folder / "checkouts" / f"{commit}-{selection}"


def _read_json(path: Path) -> dict[str, Any]:
    """An object from a file; empty where there is none, or none that is whole."""
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return content


def _measure(folder: Path) -> tuple[int, int]:
    """Number of files below a folder, and their bytes."""
    sizes = [
        os.lstat(os.path.join(inside, name)).st_size
        for inside, _, names in os.walk(folder)
        for name in names
    ]
    return len(sizes), sum(sizes)
