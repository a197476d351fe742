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

import errno
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, NamedTuple

from filelock import FileLock, Timeout

from mlmtune.errors import ConfigError, HubError, ResourceError

_URL = re.compile(
    r"(?P<scheme>https|ssh|file)://(?:(?P<user>[^-/][^/]*)@)?(?:[^-/@][^/@]*)?/.+", re.DOTALL
)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_REVISION = re.compile(r"\w[\w./+@-]*")
_COMMIT = re.compile(r"[0-9a-f]{40}")

_REMOTE = "mlmtune"
_FETCHED_AT_ONCE = 10_000
"""Files in a request: what is lost when a fetch is interrupted."""

_MAX_FOLDERS = 256
_LFS_MARK = b"version https://git-lfs.github.com/spec/"
_MAX_LFS_POINTER_BYTES = 1024
_PIECE_BYTES = 1 << 20
_STOP_SECONDS = 5.0


class NotFetched(NamedTuple):
    """A file that is wanted and cannot be had.

    Attributes:
        path: in the repository.
        reason: `link`, `submodule`, `lfs_pointer`, `unsafe_path`.
        detail: the reason in words.
    """

    path: str
    reason: str
    detail: str


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
        repository = _Repository(home.folder / "repository", url)
        known = None if refresh else home.commit_of(wanted)
        if known is not None and repository.holds(known):
            commit = known
        else:
            say(f"fetching the file list of {url}" + (f" at {revision}" if revision else ""))
            commit, is_partial = repository.fetch_commit(known or wanted)
            if not is_partial:
                say(f"{url}: its server cannot send single files, so it sent all of that commit")
        if known is None:
            home.record(wanted, commit)
            if checkout := home.find(wanted, selection):
                return checkout  # it has not moved
        files, passed_over = _choose(repository.entries(commit), matches)
        missing = repository.missing(files)
        if missing:
            say(f"fetching {_counted(len(missing))} of {url}")
        repository.fetch_blobs(missing)
        num_files, num_bytes = home.write(repository, commit, selection, files, passed_over)
        megabytes = num_bytes / 1e6
        say(f"{url}: {_counted(num_files)}, {megabytes:,.1f} MB, of commit {commit[:12]}")
        checkout = home.find(wanted, selection)
        assert checkout is not None
        return checkout


def _counted(num_files: int) -> str:
    return f"{num_files:,} file" + ("" if num_files == 1 else "s")


def _check(url: str, revision: str | None) -> None:
    """Refuse whatever git could take for an option, a command, or another kind of transport."""
    found = _URL.fullmatch(url)
    user = found["user"] if found else ""
    if found and user and (found["scheme"] != "ssh" or ":" in user):
        raise ConfigError(
            "git: the URL holds credentials; take them out and let git's credential helper or ssh "
            "give them"
        )
    if not found or _CONTROL.search(url):
        raise ConfigError(
            f"git: {_without_credentials(url)!r} is no URL of a repository that begins with "
            "https://, ssh:// or file://"
        )
    if revision is not None and not _REVISION.fullmatch(revision):
        raise ConfigError(f"revision: {revision!r} is no name of a branch, tag or commit")


class _Entry(NamedTuple):
    """A file in the list of a commit."""

    mode: str
    id: str
    path: str


# Modes of what is no file, to why it is passed over.
_NO_FILES = {
    "120000": ("link", "a link, which is not followed"),
    "160000": ("submodule", "a submodule, which is not fetched"),
}


def _choose(
    entries: list[_Entry], matches: Callable[[str], bool]
) -> tuple[list[_Entry], list[NotFetched]]:
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
        temporary = self._revisions.with_suffix(".partial")
        temporary.write_text(json.dumps(recorded, indent=2), encoding="utf-8")
        temporary.replace(self._revisions)

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
        repository: "_Repository",
        commit: str,
        selection: str,
        files: list[_Entry],
        passed_over: list[NotFetched],
    ) -> tuple[int, int]:
        """Write a checkout, whole or not at all; gives the number of files and bytes."""
        partial = self.folder / "partial"
        shutil.rmtree(partial, ignore_errors=True)
        (partial / "files").mkdir(parents=True)
        passed_over = [*passed_over, *repository.write(files, partial / "files")]
        num_files, num_bytes = _measure(partial / "files")
        manifest = {
            "url": self._url,
            "commit": commit,
            "num_files": num_files,
            "num_bytes": num_bytes,
            "passed_over": sorted(passed_over),
        }
        (partial / "checkout.json").write_text(json.dumps(manifest, indent=2), encoding="utf-8")
        checkout = self._checkout(commit, selection)
        checkout.parent.mkdir(exist_ok=True)
        shutil.rmtree(checkout, ignore_errors=True)
        partial.rename(checkout)
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


# Ours to decide, whatever the user has set for work of his own.
_SETTINGS = (
    f"core.hooksPath={os.devnull}",
    "core.fsmonitor=false",
    "fetch.writeCommitGraph=false",
    "gc.auto=0",
    "maintenance.auto=false",
    # Only with this one does a server give any object by its id.
    "protocol.version=2",
)

# What ties git to a repository other than ours, as in `git rev-parse --local-env-vars`. Settings
# that the environment holds (GIT_CONFIG_COUNT) are the user's own and stay.
_TIES = frozenset((
    "GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_COMMON_DIR", "GIT_CONFIG", "GIT_DIR",
    "GIT_GRAFT_FILE", "GIT_IMPLICIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_NAMESPACE",
    "GIT_NO_REPLACE_OBJECTS", "GIT_OBJECT_DIRECTORY", "GIT_PREFIX", "GIT_QUARANTINE_PATH",
    "GIT_REPLACE_REF_BASE", "GIT_SHALLOW_FILE", "GIT_WORK_TREE",
))  # fmt: skip

# No questions: git and ssh have no terminal either, as they run in a session of their own. That
# does for ssh what BatchMode would, without a GIT_SSH_COMMAND of ours in place of the user's
# core.sshCommand, which may name a key or a jump host.
_NO_QUESTIONS = {
    "GIT_ASKPASS": "",  # empty, not unset: git would go on to core.askPass
    "GIT_TERMINAL_PROMPT": "0",
    "GCM_INTERACTIVE": "never",
    "SSH_ASKPASS": "false",
    "SSH_ASKPASS_REQUIRE": "never",
}
_PROTOCOLS = "https:ssh:file"
_NO_PROTOCOL = "none"
"""Objects that are missing would else be fetched one by one, where git is asked for them."""


class _Repository:
    """A bare repository that holds file lists of commits, and some of their files.

    Args:
        folder: where it is, or is to be.
        url: where it fetches from.
    """

    def __init__(self, folder: Path, url: str) -> None:
        self._folder = folder
        self._url = url
        # Left by a git that was killed; no other is at work here, as the lock is ours.
        for leftover in (*folder.glob("*.lock"), *folder.glob("objects/pack/tmp_*")):
            leftover.unlink(missing_ok=True)
        self._read("init", "--quiet", "--bare", "--template=", "--object-format=sha1")
        self._read("config", f"remote.{_REMOTE}.url", url)

    def holds(self, commit: str) -> bool:
        """Whether a commit is here, with its list of files."""
        return self._run(_NO_PROTOCOL, "cat-file", "-e", f"{commit}^{{tree}}").returncode == 0

    def fetch_commit(self, revision: str) -> tuple[str, bool]:
        """Fetch the file list of a commit; gives its id, and whether contents were left out."""
        ended = self._fetch([revision], "--depth=1")
        if ended.returncode != 0:
            if _IS_NO_REVISION.search(ended.stderr):
                raise self._no_revision(revision)
            raise self._failure(ended.stderr)
        name = "FETCH_HEAD^{commit}"
        named = self._run(_NO_PROTOCOL, "rev-parse", "--verify", "--quiet", name)
        if named.returncode != 0:  # a tag of something else
            raise self._no_revision(revision)
        return named.stdout.decode().strip(), b"filtering not recognized" not in ended.stderr

    def entries(self, commit: str) -> list[_Entry]:
        """All files of a commit, with those in its folders."""
        entries = []
        for record in self._read("ls-tree", "-r", "-z", "--full-tree", commit).split(b"\0")[:-1]:
            described, _, path = record.partition(b"\t")
            mode, _, id_ = described.decode().split()
            entries.append(_Entry(mode, id_, os.fsdecode(path)))
        return entries

    def missing(self, files: list[_Entry]) -> list[str]:
        """Ids of the contents that are not here yet, each once."""
        # All that is here is listed, for asking after what is not would fetch it, one by one.
        listed = self._read(
            "cat-file", "--batch-all-objects", "--unordered", "--batch-check=%(objectname)"
        )
        here = set(listed.decode().split())
        return [id_ for id_ in dict.fromkeys(file.id for file in files) if id_ not in here]

    def fetch_blobs(self, ids: list[str]) -> None:
        """Fetch contents by their ids, as git does itself for a partial clone."""
        for start in range(0, len(ids), _FETCHED_AT_ONCE):
            ended = self._fetch(ids[start : start + _FETCHED_AT_ONCE], "--no-write-fetch-head")
            if ended.returncode != 0:
                raise self._failure(ended.stderr)

    def write(self, files: list[_Entry], target: Path) -> list[NotFetched]:
        """Write files below a folder; gives those that cannot be written or hold no text."""
        with tempfile.TemporaryFile() as ids:
            ids.writelines(f"{file.id}\n".encode() for file in files)
            ids.seek(0)
            arguments = self._arguments("cat-file", "--batch", "--buffer")
            with _running(arguments, _NO_PROTOCOL, stdin=ids, stderr=subprocess.DEVNULL) as process:
                assert process.stdout is not None
                try:
                    written = [_write_file(process.stdout, file, target) for file in files]
                except EOFError as error:
                    raise self._damage(str(error)) from error
        return [fault for fault in written if fault is not None]

    def _fetch(self, wanted: list[str], option: str) -> subprocess.CompletedProcess[bytes]:
        """Fetch revisions or objects, named on standard input, where nothing is an option."""
        # Objects are asked for as if nothing were here: nothing then builds on what is not.
        settings = () if option == "--depth=1" else ("fetch.negotiationAlgorithm=noop",)
        return self._run(
            _PROTOCOLS, "fetch", "--quiet", "--filter=blob:none", "--no-tags",
            "--recurse-submodules=no", option, "--stdin", _REMOTE,
            settings=settings, typed="".join(f"{name}\n" for name in wanted),
        )  # fmt: skip

    def _read(self, *command: str) -> bytes:
        """What git says of the repository itself, off the network."""
        ended = self._run(_NO_PROTOCOL, *command)
        if ended.returncode != 0:
            raise self._damage(_last_words(ended.stderr))
        return ended.stdout

    def _run(
        self, protocols: str, *command: str, settings: Sequence[str] = (), typed: str = ""
    ) -> subprocess.CompletedProcess[bytes]:
        arguments = self._arguments(*command, settings=settings)
        with _running(arguments, protocols, stdin=subprocess.PIPE) as process:
            said, errors = process.communicate(typed.encode("utf-8"))
        if process.returncode == 129:  # it does not know an option
            raise ConfigError("git is too old to fetch single files; install git 2.29 or newer")
        for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            if process.returncode != 0 and os.strerror(number).encode() in errors:
                raise OSError(number, os.strerror(number), str(self._folder))
        return subprocess.CompletedProcess(arguments, process.returncode, said, errors)

    def _arguments(self, *command: str, settings: Sequence[str] = ()) -> list[str]:
        pairs = [part for setting in (*_SETTINGS, *settings) for part in ("-c", setting)]
        # Named outright, it is also trusted where it belongs to another user.
        return ["git", f"--git-dir={self._folder}", *pairs, *command]

    def _no_revision(self, revision: str) -> HubError:
        if revision == "HEAD":
            return HubError(f"{self._url}: the repository has no default branch; give a revision")
        return HubError(
            f"{self._url}: the repository has no revision {revision!r}; give a branch, a tag, or "
            "all 40 digits of a commit"
        )

    def _failure(self, errors: bytes) -> HubError | ResourceError:
        said = errors.decode("utf-8", "replace")
        if str(self._folder) in said:  # what it trips over lies here
            return self._damage(_last_words(errors))
        likely = next((words for pattern, words in _CAUSES if re.search(pattern, said)), _OTHERWISE)
        return HubError(f"{self._url}: {likely} ({_last_words(errors)})")

    def _damage(self, what: str) -> ResourceError:
        return ResourceError(
            f"{self._folder}: cannot be used ({what}); delete the folder and it is fetched again"
        )


_IS_NO_REVISION = re.compile(rb"find remote ref|not our ref|unadvertised|invalid refspec")

# What else git says, to what a user can do about it.
_CAUSES = (
    (
        r"could not read (Username|Password)|Authentication failed|returned error: 40[13]"
        r"|Permission denied|Host key verification failed",
        "there is no such repository, or git may not read it; `git ls-remote` has to work without "
        "a question, so let a credential helper or ssh know who you are",
    ),
    (
        r"[Nn]ot found|does not exist|not appear to be a git repository|no such repository",
        "there is no such repository; check the URL",
    ),
)
_OTHERWISE = "git cannot fetch from it; check the URL and the network"

_CREDENTIALS = re.compile(r"(?<=://)[^\s/]*@")
_SAYS_WHAT = re.compile(r"(?:fatal|error|ERROR|ssh|curl|remote): ?\S")
_SAYS_NOTHING = re.compile(
    r"\s*$|warning:|Please make sure you have|and the repository exists"
    r"|fatal: (?:Could not read from remote|the remote end hung up|early EOF)"
)


def _without_credentials(text: str) -> str:
    return _CREDENTIALS.sub("***@", text)


def _last_words(errors: bytes) -> str:
    """The line that tells most of what git wrote, without anyone's password."""
    lines = errors.decode("utf-8", "replace").splitlines()
    telling = [line for line in lines if not _SAYS_NOTHING.match(line)]
    marked = [line for line in telling if _SAYS_WHAT.match(line)]
    line = (marked or telling or lines or ["it does not say why"])[-1]
    return _without_credentials(line.strip())


@contextmanager
def _running(
    arguments: list[str], protocols: str, *, stdin: int | IO[bytes], stderr: int = subprocess.PIPE
) -> Iterator[subprocess.Popen[bytes]]:
    """A running git that may fetch by some protocols, and does not outlive this block."""
    environment = {name: value for name, value in os.environ.items() if name not in _TIES}
    environment |= _NO_QUESTIONS | {
        "GIT_ALLOW_PROTOCOL": protocols,
        "GIT_NO_LAZY_FETCH": "1",
        "LC_ALL": "C",  # what it says is read
    }
    try:
        process = subprocess.Popen(
            arguments, stdin=stdin, stdout=subprocess.PIPE, stderr=stderr, env=environment,
            start_new_session=True,
        )  # fmt: skip
    except FileNotFoundError as error:
        raise ConfigError("git: the program is not installed; install git") from error
    with process:
        try:
            yield process
        except BaseException:
            _stop(process)
            raise


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End git and all that it started: in a session of its own, no key of the terminal does."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


def _read_size(stream: IO[bytes], id_: str) -> int:
    """Bytes of the object that follows, which has to be the one that was asked for."""
    match stream.readline().split():
        case [name, b"blob", size] if name == id_.encode():
            return int(size)
        case _:
            raise EOFError(f"{id_} is missing")


# What a file system makes of names that are too long, are there in other letters, or clash.
_BAD_NAMES = (
    errno.ENAMETOOLONG, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.EILSEQ, errno.EINVAL,
)  # fmt: skip


def _write_file(stream: IO[bytes], file: _Entry, target: Path) -> NotFetched | None:
    """Write the next object of a stream to a new file; says why where that cannot be."""
    size = _read_size(stream, file.id)
    pieces = _pieces(stream, size)
    first = next(pieces)
    fault = None
    if size <= _MAX_LFS_POINTER_BYTES and first.startswith(_LFS_MARK):
        detail = "its content is in Git LFS, which is not fetched"
        fault = NotFetched(file.path, "lfs_pointer", detail)
    else:
        try:
            path = os.path.join(target, file.path)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "xb") as written:
                written.write(first)
                written.writelines(pieces)
        except OSError as error:
            if error.errno not in _BAD_NAMES:
                raise
            detail = f"cannot be a file here ({error.strerror})"
            fault = NotFetched(file.path, "unsafe_path", detail)
    for _ in pieces:
        pass
    return fault


def _pieces(stream: IO[bytes], size: int) -> Iterator[bytes]:
    """An object, a piece at a time (an empty one, too), and past the line end behind it."""
    for start in range(0, max(size, 1), _PIECE_BYTES):
        piece = stream.read(min(size - start, _PIECE_BYTES))
        if len(piece) < min(size - start, _PIECE_BYTES):
            raise EOFError("an object is cut short")
        yield piece
    stream.read(1)
