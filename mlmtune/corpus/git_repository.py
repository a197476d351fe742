"""A bare repository that git fetches into: file lists of commits, and the contents of some files.

Everything that runs git is here. Git asks no questions, runs no program that a repository names,
and uses the network only to fetch.
"""

import errno
import os
import re
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

from mlmtune.corpus.listing import PassedOver
from mlmtune.errors import ConfigError, HubError, ResourceError

_REMOTE = "mlmtune"
FETCHED_AT_ONCE = 10_000
"""The number of files per request, and so the most that an interrupted fetch loses."""

_LFS_MARK = b"version https://git-lfs.github.com/spec/"
_MAX_LFS_POINTER_BYTES = 1024
_PIECE_BYTES = 1 << 20
_STOP_SECONDS = 5.0


class Entry(NamedTuple):
    """A file in the list of a commit."""

    mode: str
    id: str
    path: str


# Settings that must not depend on what the user has set for other work.
_SETTINGS = (
    f"core.hooksPath={os.devnull}",
    "core.fsmonitor=false",
    "fetch.writeCommitGraph=false",
    "gc.auto=0",
    # Give up if a server sends nothing for a minute.
    "http.lowSpeedLimit=1",
    "http.lowSpeedTime=60",
    "maintenance.auto=false",
    # Only with this version do servers send any object by its id.
    "protocol.version=2",
)

# Variables that point git to another repository, as in `git rev-parse --local-env-vars`. Variables
# that hold settings (GIT_CONFIG_COUNT) are the user's own, and are kept.
_LOCAL_NAMES = frozenset((
    "GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_COMMON_DIR", "GIT_CONFIG", "GIT_DIR",
    "GIT_GRAFT_FILE", "GIT_IMPLICIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_NAMESPACE",
    "GIT_NO_REPLACE_OBJECTS", "GIT_OBJECT_DIRECTORY", "GIT_PREFIX", "GIT_QUARANTINE_PATH",
    "GIT_REPLACE_REF_BASE", "GIT_SHALLOW_FILE", "GIT_WORK_TREE",
))  # fmt: skip

# Git and ssh have no terminal to ask on either, because they run in a session of their own. For ssh
# this replaces BatchMode, which would take a GIT_SSH_COMMAND instead of the user's core.sshCommand,
# and that may name a key or a jump host.
_NO_QUESTIONS = {
    "GIT_ASKPASS": "",  # empty, because git would use core.askPass if it were unset
    "GIT_TERMINAL_PROMPT": "0",
    "GCM_INTERACTIVE": "never",
    "SSH_ASKPASS": "false",
    "SSH_ASKPASS_REQUIRE": "never",
}
_PROTOCOLS = "https:ssh:file"
_NO_PROTOCOL = "none"
"""For commands that read: git would otherwise fetch missing objects one by one."""


class GitRepository:
    """A bare repository that holds file lists of commits, and some of their files.

    It is created in its folder if it is not there.
    """

    def __init__(self, folder: Path, url: str) -> None:
        self._folder = folder
        self._url = url
        # Left by a git that was killed; none is at work now, because the caller has the lock.
        for leftover in (*folder.glob("*.lock"), *folder.glob("objects/pack/tmp_*")):
            leftover.unlink(missing_ok=True)
        self._read("init", "--quiet", "--bare", "--template=", "--object-format=sha1")
        self._read("config", f"remote.{_REMOTE}.url", url)

    def holds(self, commit: str) -> bool:
        """Whether a commit and its list of files are in the repository."""
        return self._run(_NO_PROTOCOL, "cat-file", "-e", f"{commit}^{{tree}}").returncode == 0

    def fetch_commit(self, revision: str) -> tuple[str, bool]:
        """Fetch the file list of a commit; return its id, and whether contents were left out."""
        ended = self._fetch([revision], "--depth=1")
        if ended.returncode != 0:
            if _IS_NO_REVISION.search(ended.stderr):
                raise self._no_revision(revision)
            raise self._failure(ended.stderr)
        name = "FETCH_HEAD^{commit}"
        parsed = self._run(_NO_PROTOCOL, "rev-parse", "--verify", "--quiet", name)
        if parsed.returncode != 0:  # a tag of something other than a commit
            raise self._no_revision(revision)
        return parsed.stdout.decode().strip(), b"filtering not recognized" not in ended.stderr

    def entries(self, commit: str) -> list[Entry]:
        """List the files of a commit, in all its folders."""
        entries = []
        for record in self._read("ls-tree", "-r", "-z", "--full-tree", commit).split(b"\0")[:-1]:
            described, _, path = record.partition(b"\t")
            mode, _, id_ = described.decode().split()
            entries.append(Entry(mode, id_, os.fsdecode(path)))
        return entries

    def missing(self, files: list[Entry]) -> list[str]:
        """Return the ids of contents that are not in the repository yet, each once."""
        # List everything, because to ask for a missing object would fetch it, one by one.
        listed = self._read(
            "cat-file", "--batch-all-objects", "--unordered", "--batch-check=%(objectname)"
        )
        present = set(listed.decode().split())
        return [id_ for id_ in dict.fromkeys(file.id for file in files) if id_ not in present]

    def fetch_blobs(self, ids: list[str]) -> None:
        """Fetch contents by their ids, as git itself does in a partial clone."""
        for start in range(0, len(ids), FETCHED_AT_ONCE):
            ended = self._fetch(ids[start : start + FETCHED_AT_ONCE], "--no-write-fetch-head")
            if ended.returncode != 0:
                raise self._failure(ended.stderr)

    def write(self, files: list[Entry], target: Path) -> list[PassedOver]:
        """Write files below a folder; return those that cannot be written or hold no text."""
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
        """Fetch revisions or objects, named on standard input, where no name is an option."""
        # Without negotiation, because git would claim to have the objects that it left out.
        setting = () if option == "--depth=1" else ("-c", "fetch.negotiationAlgorithm=noop")
        return self._run(
            _PROTOCOLS, *setting, "fetch", "--quiet", "--filter=blob:none", "--no-tags",
            "--recurse-submodules=no", option, "--stdin", _REMOTE,
            typed="".join(f"{name}\n" for name in wanted),
        )  # fmt: skip

    def _read(self, *command: str) -> bytes:
        """Return the output of a command that does not use the network."""
        ended = self._run(_NO_PROTOCOL, *command)
        if ended.returncode != 0:
            raise self._damage(_last_words(ended.stderr))
        return ended.stdout

    def _run(
        self, protocols: str, *command: str, typed: str = ""
    ) -> subprocess.CompletedProcess[bytes]:
        arguments = self._arguments(*command)
        with _running(arguments, protocols, stdin=subprocess.PIPE) as process:
            said, errors = process.communicate(typed.encode("utf-8"))
        if process.returncode == 129:  # git does not know an option
            raise ConfigError("git is too old to fetch single files; install git 2.29 or newer")
        for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            if process.returncode != 0 and os.strerror(number).encode() in errors:
                raise OSError(number, os.strerror(number), str(self._folder))
        return subprocess.CompletedProcess(arguments, process.returncode, said, errors)

    def _arguments(self, *command: str) -> list[str]:
        settings = [part for setting in _SETTINGS for part in ("-c", setting)]
        # Git trusts a repository of another user if it is named by --git-dir.
        return ["git", f"--git-dir={self._folder}", *settings, *command]

    def _no_revision(self, revision: str) -> HubError:
        missing = f"revision {revision!r}; give a branch, a tag, or all 40 digits of a commit"
        if revision == "HEAD":
            missing = "default branch; give a revision"
        return HubError(f"{self._url}: the repository has no {missing}")

    def _failure(self, errors: bytes) -> HubError | ResourceError:
        said = errors.decode("utf-8", "replace")
        if str(self._folder) in said:  # the fault is in this repository
            return self._damage(_last_words(errors))
        likely = next((words for pattern, words in _CAUSES if re.search(pattern, said)), _OTHERWISE)
        return HubError(f"{self._url}: {likely} ({_last_words(errors)})")

    def _damage(self, what: str) -> ResourceError:
        return ResourceError(
            f"{self._folder}: cannot be used ({what}); delete the folder and it is fetched again"
        )


_IS_NO_REVISION = re.compile(rb"find remote ref|not our ref|unadvertised|invalid refspec")

# Patterns of git's messages, and what the user can do.
_CAUSES = (
    (
        r"could not read (Username|Password)|Authentication failed|returned error: 40[13]"
        r"|Permission denied|Host key verification failed",
        "there is no such repository, or git may not read it; set up a credential helper or ssh "
        "so that `git ls-remote` works without a question",
    ),
    (
        r"[Nn]ot found|does not exist|not appear to be a git repository|no such repository",
        "there is no such repository; check the URL",
    ),
)
_OTHERWISE = "git cannot fetch from it; check the URL and the network"

_CREDENTIALS = re.compile(r"(?<=://)[^\s/]*@")
_IS_MARKED = re.compile(r"(?:fatal|error|ERROR|ssh|curl|remote): ?\S")
_IS_UNINFORMATIVE = re.compile(
    r"\s*$|warning:|Please make sure you have|and the repository exists"
    r"|fatal: (?:Could not read from remote|the remote end hung up|early EOF)"
)


def without_credentials(text: str) -> str:
    return _CREDENTIALS.sub("***@", text)


def _last_words(errors: bytes) -> str:
    """Return the most informative line of git's messages, without passwords."""
    lines = errors.decode("utf-8", "replace").splitlines()
    informative = [line for line in lines if not _IS_UNINFORMATIVE.match(line)]
    marked = [line for line in informative if _IS_MARKED.match(line)]
    line = (marked or informative or lines or ["it does not say why"])[-1]
    return without_credentials(line.strip())


@contextmanager
def _running(
    arguments: list[str], protocols: str, *, stdin: int | IO[bytes], stderr: int = subprocess.PIPE
) -> Iterator[subprocess.Popen[bytes]]:
    """Run git, which may fetch by some protocols, and end it with this block."""
    environment = {name: value for name, value in os.environ.items() if name not in _LOCAL_NAMES}
    environment |= _NO_QUESTIONS | {
        "GIT_ALLOW_PROTOCOL": protocols,
        "GIT_NO_LAZY_FETCH": "1",
        "LC_ALL": "C",  # because its messages are parsed
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
    """End git and its children, which Ctrl-C does not reach because they have their own session."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


def _read_size(stream: IO[bytes], id_: str) -> int:
    """Read the size of the next object, which must be the one that was requested."""
    line = stream.readline()
    if not line.startswith(f"{id_} blob ".encode()):
        raise EOFError(f"{id_} is missing")
    return int(line.split()[2])


# A file system raises these for names that are too long, exist in other letters, or clash.
_BAD_NAMES = (
    errno.ENAMETOOLONG, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.EILSEQ, errno.EINVAL,
)  # fmt: skip


def _write_file(stream: IO[bytes], file: Entry, target: Path) -> PassedOver | None:
    """Write the next object of a stream to a new file; return why if that is impossible."""
    size = _read_size(stream, file.id)
    pieces = _pieces(stream, size)
    first = next(pieces)
    fault = None
    if size <= _MAX_LFS_POINTER_BYTES and first.startswith(_LFS_MARK):
        detail = "its content is in Git LFS, which is not fetched"
        fault = PassedOver(file.path, "lfs_pointer", detail)
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
            fault = PassedOver(file.path, "unsafe_path", detail)
    for _ in pieces:
        pass
    return fault


def _pieces(stream: IO[bytes], size: int) -> Iterator[bytes]:
    """Yield an object in pieces, at least one, and skip the line end behind it."""
    for start in range(0, max(size, 1), _PIECE_BYTES):
        piece = stream.read(min(size - start, _PIECE_BYTES))
        if len(piece) < min(size - start, _PIECE_BYTES):
            raise EOFError("an object is cut short")
        yield piece
    stream.read(1)
