"""The processes of `--nproc`: they report how they end, and do not outlive their launcher."""

import json
import os
import signal
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from mlmtune.files import write_json
from mlmtune.training.interrupts import STOP_SIGNALS

LAUNCHER = "MLMTUNE_LAUNCHER"
"""The environment variable with the launcher's process id."""
REPORTS = "MLMTUNE_REPORTS"
"""The environment variable with the folder of the reports."""

FOLLOW_SECONDS = 0.5
"""The interval at which a process checks whether its launcher still runs."""
GRACE_SECONDS = 300
"""The time to finish a step and its checkpoint after a signal or the end of the launcher."""

STOPPED = tuple(128 + number for number in STOP_SIGNALS)
"""Exit codes of a process that was stopped by a signal which lets it save."""


@dataclass(frozen=True)
class ProcessReport:
    """A process's report of its end: the exit code, and a line that says why."""

    exit_code: int
    message: str
    pid: int


@dataclass(frozen=True)
class Ending:
    """The ending of a launch, in the words of the process that caused it.

    Attributes:
        exit_code: The exit code of the whole launch.
        message: One line; empty if all went well.
        rank: The process whose message it is; 0 for a message of a launcher itself.
    """

    exit_code: int
    message: str = ""
    rank: int = 0


def is_launched() -> bool:
    """Whether this process is one of several that `--nproc` started."""
    return LAUNCHER in os.environ and "RANK" in os.environ


def has_launcher() -> bool:
    """Whether the launcher still runs, and passes on what this process reports."""
    return os.getppid() == int(os.environ[LAUNCHER])


def follow_launcher() -> None:
    """Stop this process when its launcher has ended, even if the launcher was killed."""
    threading.Thread(target=_follow, daemon=True).start()


def _follow() -> None:
    # An orphan would keep its GPU, and wait for the others forever.
    while has_launcher():
        time.sleep(FOLLOW_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)  # a training run saves its state
    time.sleep(GRACE_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)


def report_end(exit_code: int, message: str = "") -> bool:
    """Report how this process ends, and return whether the launcher will read the report."""
    path = Path(os.environ[REPORTS]) / f"{os.environ['RANK']}.json"
    try:
        write_json(path, asdict(ProcessReport(exit_code, message, os.getpid())))
    except OSError:
        return False
    return has_launcher()


def read_reports(folder: Path) -> dict[int, ProcessReport]:
    """Read the reports by rank, in the order in which they were written."""
    reports = {}
    for path in sorted(folder.glob("[0-9]*.json"), key=lambda path: path.stat().st_mtime_ns):
        try:
            reports[int(path.stem)] = ProcessReport(**json.loads(path.read_text()))
        except (OSError, ValueError, TypeError):  # damaged, or written by something else
            continue
    return reports
