"""A bare repository that git fetches into: file lists of commits, and the contents of some files.

Everything that runs git is here. It asks nothing, obeys no setting that would run a program of the
repository's, and never goes to the network but where it is told to.
"""

import errno
import os
import re
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

from mlmtune.errors import ConfigError, HubError, ResourceError

_REMOTE = "mlmtune"
FETCHED_AT_ONCE = 10_000
"""Files in a request: what is lost when a fetch is interrupted."""

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


class Entry(NamedTuple):
    """A file in the list of a commit."""

    mode: str
    id: str
    path: str


# Ours to decide, whatever the user has set for work of his own.
_SETTINGS = (
    f"core.hooksPath={os.devnull}",
    "core.fsmonitor=false",
    "fetch.writeCommitGraph=false",
    "gc.auto=0",
    # A server that is silent for a minute is given up.
    "http.lowSpeedLimit=1",
    "http.lowSpeedTime=60",
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


class GitRepository:
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

    def entries(self, commit: str) -> list[Entry]:
        """All files of a commit, with those in its folders."""
        entries = []
        for record in self._read("ls-tree", "-r", "-z", "--full-tree", commit).split(b"\0")[:-1]:
            described, _, path = record.partition(b"\t")
            mode, _, id_ = described.decode().split()
            entries.append(Entry(mode, id_, os.fsdecode(path)))
        return entries

    def missing(self, files: list[Entry]) -> list[str]:
        """Ids of the contents that are not here yet, each once."""
        # All that is here is listed, for asking after what is not would fetch it, one by one.
        listed = self._read(
            "cat-file", "--batch-all-objects", "--unordered", "--batch-check=%(objectname)"
        )
        here = set(listed.decode().split())
        return [id_ for id_ in dict.fromkeys(file.id for file in files) if id_ not in here]

    def fetch_blobs(self, ids: list[str]) -> None:
        """Fetch contents by their ids, as git does itself for a partial clone."""
        for start in range(0, len(ids), FETCHED_AT_ONCE):
            ended = self._fetch(ids[start : start + FETCHED_AT_ONCE], "--no-write-fetch-head")
            if ended.returncode != 0:
                raise self._failure(ended.stderr)

    def write(self, files: list[Entry], target: Path) -> list[NotFetched]:
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


def without_credentials(text: str) -> str:
    return _CREDENTIALS.sub("***@", text)


def _last_words(errors: bytes) -> str:
    """The line that tells most of what git wrote, without anyone's password."""
    lines = errors.decode("utf-8", "replace").splitlines()
    telling = [line for line in lines if not _SAYS_NOTHING.match(line)]
    marked = [line for line in telling if _SAYS_WHAT.match(line)]
    line = (marked or telling or lines or ["it does not say why"])[-1]
    return without_credentials(line.strip())


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


def _write_file(stream: IO[bytes], file: Entry, target: Path) -> NotFetched | None:
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
