"""How a process ends: lost standard streams, signals, launchers, and the exit itself.

Only this module and `mlmtune.cli` print errors and choose exit codes.
"""

import errno
import io
import os
import signal
import sys
import traceback
from types import FrameType
from typing import Any, NoReturn

from mlmtune.console import for_stream
from mlmtune.errors import NobodyReads, ResourceError, StoppedAtOnce
from mlmtune.printable import printable_text
from mlmtune.redaction import without_secrets
from mlmtune.training.interrupts import STOP_SIGNALS, answered_signals
from mlmtune.training.launched import follow_launcher, is_launched, report_end


def secure_process() -> None:
    """Prepare this process to end in an orderly way, whatever ends it; call this first."""
    secure_standard_streams()
    for number in answered_signals():
        signal.signal(number, _stop_at_once)
    if is_launched():
        follow_launcher()


def is_first_process() -> bool:
    """Whether this process is the only one, or the first of several."""
    return os.environ.get("RANK", "0") == "0"


def finish(code: int) -> NoReturn:
    """Exit with a code and without a message."""
    _report_to_launcher(code)
    sys.exit(code)


def fail(message: str, code: int, of_rank: int | None = None) -> NoReturn:
    """Print a message and exit.

    Args:
        message: The message, in one line.
        code: The exit code.
        of_rank: The rank of the process that the message is from, if a launcher prints it.
    """
    rank = int(os.environ.get("RANK", "0")) if of_rank is None else of_rank
    message = printable_text(without_secrets(message))
    # Rank 0 prints an error that all processes have; these two codes may occur in any process.
    is_printed = of_rank is not None or rank == 0 or code in (1, ResourceError.exit_code)
    if not _report_to_launcher(code, message) and is_printed:
        prefix = "mlmtune" if rank == 0 else f"mlmtune (process {rank})"
        print(for_stream(f"{prefix}: {message}", sys.stderr), file=sys.stderr)
    sys.stderr.flush()
    sys.exit(code)


def print_traceback() -> None:
    """Print the traceback of the current exception, without secrets."""
    print(printable_text(without_secrets(traceback.format_exc())), file=sys.stderr)


def shows_traceback() -> bool:
    """Whether `--debug` is anywhere on the command line, before or after the command."""
    return "--debug" in sys.argv


def _stop_at_once(signal_number: int, frame: FrameType | None) -> None:
    if "WORLD_SIZE" in os.environ:
        if sys.exc_info()[1] is not None:
            return  # it is failing already, and its launcher stops it because another one failed
        _ignore_signals()  # a signal to all processes arrives again through the launcher
    raise StoppedAtOnce(signal_number)


def _ignore_signals() -> None:
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _report_to_launcher(code: int, message: str = "") -> bool:
    """Report to the launcher; False without one, which would print the message itself."""
    if not is_launched():
        return False
    _ignore_signals()  # the launcher may stop this process, which has already reported
    return report_end(code, message)


class StandardOutput(io.FileIO):
    """Standard output or standard error, whose loss never ends a run.

    A reader may leave (`| head`), a terminal may be closed, a disk may be full. From then on the
    output goes to the null device, including what libraries write without Python.

    Args:
        descriptor: 1 or 2.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self.is_result = False
        """Whether the command has nothing left to do once this stream is lost."""

    def write(self, data: Any) -> int:
        """Write; if that fails, continue without this stream.

        Raises:
            NobodyReads: The command only prints, and its reader has left.
            OSError: The command only prints, and the stream cannot be written.
        """
        try:
            return super().write(data) or 0
        except OSError as error:
            _point_to_nothing(self.fileno())
            if self.is_result:
                if error.errno == errno.EPIPE:
                    raise NobodyReads from error
                error.filename = "standard output"
                raise
            if self.fileno() == 1 and error.errno != errno.EPIPE:
                print(
                    f"standard output is lost ({error.strerror}); the command continues",
                    file=sys.stderr,
                )
            return len(data)


def secure_standard_streams() -> None:
    """Replace standard output and standard error by streams that accept everything.

    Closed streams lead to the null device, so that no opened file gets their number. Characters
    that the encoding of the stream lacks are written as escapes.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            _point_to_nothing(descriptor)
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        stream = getattr(sys, name)
        if stream is not getattr(sys, f"__{name}__"):
            continue  # someone listens in this process, such as a test
        if stream is not None:
            stream.flush()
        raw = StandardOutput(descriptor)
        encoding = "utf-8" if stream is None else stream.encoding
        secured = io.TextIOWrapper(
            io.BufferedWriter(raw), encoding, errors="backslashreplace",
            line_buffering=descriptor == 2 or raw.isatty(),
        )  # fmt: skip
        setattr(sys, name, secured)
        setattr(sys, f"__{name}__", secured)  # some libraries write there


def end_without_reader() -> None:
    """Let the command end when nobody reads its output, because it only prints."""
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    if isinstance(raw, StandardOutput):
        raw.is_result = True


def _point_to_nothing(descriptor: int) -> None:
    nothing = os.open(os.devnull, os.O_RDWR)
    if nothing != descriptor:  # a closed descriptor is the lowest free number, which is taken first
        os.dup2(nothing, descriptor)
        os.close(nothing)
