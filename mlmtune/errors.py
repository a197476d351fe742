"""Every error that a user can cause or meet, with one exit code per branch.

An error's message is one line: what is wrong, where, and how to fix it. Every module
raises errors; `mlmtune.cli` catches them, and `mlmtune.exits` prints the line and ends the process.
"""

import errno
import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlmtune.redaction import without_queries


class MlmtuneError(Exception):
    """The base of all errors that are reported as one line. Only its branches are raised."""

    exit_code: int = 1


class ConfigError(MlmtuneError):
    """The config or the command line is wrong."""

    exit_code = 2


class DataError(MlmtuneError):
    """The corpus holds no usable text, or a record in it is broken."""

    exit_code = 3


class CheckpointError(MlmtuneError):
    """A checkpoint cannot be used, or does not belong to this run."""

    exit_code = 4


class DivergedError(MlmtuneError):
    """The loss or its gradient is no longer a finite number."""

    exit_code = 5


class ResourceError(MlmtuneError):
    """Memory or disk is exhausted, or a location cannot be written."""

    exit_code = 6


class HubError(MlmtuneError):
    """A hub cannot be reached, refuses access, or has no such model or dataset."""

    exit_code = 7


class NetworkError(MlmtuneError):
    """Another machine or a cluster cannot be reached, or a machine of the run has not come."""

    exit_code = 7


class Interrupted(MlmtuneError):
    """A signal stopped the run; its state is saved if there was any.

    Args:
        message: What was saved, and how to resume.
        signal_number: The signal; the exit code is 128 + signal_number.
    """

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


class StoppedAtOnce(BaseException):
    """A signal ends the process at once; nothing is saved.

    It is not an Exception, because a library that is loading something would take it for a failure,
    and not a KeyboardInterrupt, because Typer handles that itself.

    Args:
        signal_number: The signal; the exit code is 128 + signal_number.
    """

    def __init__(self, signal_number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signal_number).name}; nothing more was saved")
        self.exit_code = 128 + signal_number


class NobodyReads(BaseException):
    """The reader of standard output has left, as `| head` does. This is not an error.

    It is not an Exception, for the same reason as `StoppedAtOnce`.
    """


OUT_OF_MEMORY = re.compile(
    "out of memory|can't allocate memory|CUBLAS_STATUS_ALLOC_FAILED"
    "|could not create a primitive(?! descriptor)"
)
"""The messages of backends, whose errors have no type of their own: CUDA, PyTorch's CPU allocator,
oneDNN (which has the descriptor of a primitive if it can compute it at all)."""


_NOT_DETERMINISTIC = re.compile("(.+) does not have a deterministic implementation, but you set")
"""The message of PyTorch for an operation that `use_deterministic_algorithms` forbids."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device or this machine has no memory left."""
    message = str(error) if isinstance(error, RuntimeError) else ""
    return isinstance(error, MemoryError) or OUT_OF_MEMORY.search(message) is not None


def first_line(error: BaseException) -> str:
    """Return the first line of the message of an error, or the name of its type."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def named(error: BaseException) -> str:
    """Return the type of an error and the first line of its message, without queries of URLs."""
    # The queries go before the line is cut, because half a URL may not be recognised.
    message = without_queries((str(error).strip().splitlines() or [""])[0])[:200]
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


_DISK_REMEDIES = {
    errno.ENOSPC: "make room",
    errno.EDQUOT: "make room",
    errno.EFBIG: "make room",
    errno.EROFS: "name a location that can be written",
    errno.EIO: "the disk, or the connection to it, is faulty: see the log of the system",
}
_ERRNO_IN_TEXT = re.compile(r"\b(?:os error|errno) (\d+)\b", re.IGNORECASE)
"""How pyarrow and libraries in Rust (tokenizers, safetensors) write the number of an error."""


def errno_of(error: BaseException) -> int | None:
    """Return the error number of the operating system; None if the error has another cause.

    It is looked up in the error, in those that caused it, and in their messages, because other
    libraries and programs only quote it.
    """
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        if isinstance(cause, OSError) and cause.errno is not None:
            return cause.errno
        text = str(cause)
        if match := _ERRNO_IN_TEXT.search(text):
            return int(match[1])
        for number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO):
            if os.strerror(number) in text:
                return number
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    return None


def is_fault_of_disk(error: BaseException) -> bool:
    """Whether the disk is full, faulty or not writable, whichever library reports it."""
    return errno_of(error) in _DISK_REMEDIES


def is_fault_of_machine(error: BaseException) -> bool:
    """Whether memory or a disk is at fault, rather than the content that a library reads."""
    return is_out_of_memory(error) or is_fault_of_disk(error)


def was_taken_away(error: BaseException) -> bool:
    """Whether a folder has disappeared: it was deleted, moved, or replaced by a file."""
    return errno_of(error) in (errno.ENOENT, errno.ENOTDIR, errno.ESTALE)


def why_not_written(error: BaseException) -> tuple[str, str]:
    """Return why something could not be written, and what to do about it."""
    number = errno_of(error)
    if number is None:
        return " ".join(str(error).split()), "make room"
    return os.strerror(number), _DISK_REMEDIES.get(number, "name a location that can be written")


@contextmanager
def explaining_failures(folder: Path, setting: str) -> Iterator[None]:
    """Turn a failure to write to a folder into one line that says what to do.

    Args:
        folder: The folder, which is named if the failure itself names no path.
        setting: The config key that names another folder.

    Raises:
        ResourceError: The folder cannot be written.
    """
    try:
        yield
    except OSError as error:
        path = error.filename or folder
        if was_taken_away(error):
            raise ResourceError(
                f"{path} was deleted or moved while it was written; start again"
            ) from error
        why, _ = why_not_written(error)
        raise ResourceError(
            f"{path}: cannot be written ({why}); make room, or set {setting} to another folder"
        ) from error


def explain(error: BaseException) -> tuple[str, int]:
    """Return the message of any error in one line, and its exit code."""
    if isinstance(error, HubError | DataError | CheckpointError) and is_fault_of_disk(error):
        why, remedy = why_not_written(error)
        message = str(error) if why in str(error) else f"{error} ({why}); {remedy}"
        return message, ResourceError.exit_code
    if isinstance(error, MlmtuneError | StoppedAtOnce):
        return str(error), error.exit_code
    if type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
        why = first_line(error)
        message = f"training.compile: the model cannot be compiled here ({why}); set it to false"
        return message, ConfigError.exit_code
    if operation := _NOT_DETERMINISTIC.match(str(error)):
        message = (
            f"on this device, PyTorch computes {operation[1]} with other bits each time, so a run "
            "could not be repeated or resumed; set model.attn_implementation: eager if it is part "
            "of attention, or train on a CPU (ACCELERATE_USE_CPU=true)"
        )
        return message, ConfigError.exit_code
    if is_out_of_memory(error):
        message = (
            "out of memory; lower training.micro_batch_size and evaluation.batch_size, set "
            "training.gradient_checkpointing: true, or use a smaller model"
        )
        return message, ResourceError.exit_code
    if is_fault_of_disk(error):
        why, remedy = why_not_written(error)
        where = f"{error.filename}: " if isinstance(error, OSError) and error.filename else ""
        verb = "read or written" if errno_of(error) == errno.EIO else "written"
        return f"{where}cannot be {verb} ({why}); {remedy}", ResourceError.exit_code
    if isinstance(error, UnicodeEncodeError) and sys.getfilesystemencoding() != "utf-8":
        return (
            f"{error.object}: this locale has no such characters in the names of files; set "
            "PYTHONUTF8=1",
            ConfigError.exit_code,
        )
    message = " ".join(str(error).split())
    return f"unexpected {type(error).__name__}: {message}; --debug shows where it happened", 1
