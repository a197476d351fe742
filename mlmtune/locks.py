"""Locks between the processes of one machine, or of machines that share a folder."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from filelock import FileLock, Timeout


def waiting_lock(
    path: Path, say: Callable[[str], None], what: str
) -> AbstractContextManager[object]:
    """Take a file lock for a block; a process that must wait says what it waits for.

    Args:
        path: The file of the lock; it is created if it does not exist.
        say: Called with one line, only if another process has the lock.
        what: What the process with the lock does, such as `builds PATH`.
    """
    # A collective of torch would time out, and this lock ends with the process that holds it.
    lock = FileLock(path)
    try:
        return lock.acquire(timeout=0)
    except Timeout:
        say(f"waiting for another process that {what}")
        return lock.acquire()
