"""Signals that stop a run: the first asks it to save and stop, the second stops it at once.

SIGHUP arrives when a terminal or a connection is closed, often twice or before SIGTERM, so it never
counts as the second. A process that ignores it, as `nohup` arranges, continues to ignore it. Nor
does SIGUSR1 count, by which schedulers announce SIGTERM.
"""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from mlmtune.errors import StoppedAtOnce

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
"""The signals that ask a run to stop; of several at once, the first in this order is answered."""

NEVER_SECOND = (signal.SIGHUP, signal.SIGUSR1)

ECHO_SECONDS = 1.0
"""Launchers pass signals on, so that a process may get the same one twice within this time."""


def answered_signals() -> tuple[signal.Signals, ...]:
    """Return the signals that ask this process to stop; without SIGHUP under `nohup`."""
    ignores_hangup = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    return tuple(n for n in STOP_SIGNALS if n != signal.SIGHUP or not ignores_hangup)


class StopRequest:
    """The signal that has asked this process to stop, if any; true as soon as there is one."""

    def __init__(self) -> None:
        self.signal_number: int | None = None
        self._received_at = 0.0

    def __bool__(self) -> bool:
        return self.signal_number is not None

    def receive(self, signal_number: int, frame: FrameType | None) -> None:
        """Keep the number of the first signal; raise `StoppedAtOnce` at the second."""
        now = time.monotonic()
        if self.signal_number is None or self.signal_number in NEVER_SECOND:
            self.signal_number, self._received_at = signal_number, now
        elif signal_number in NEVER_SECOND:
            return
        elif "WORLD_SIZE" not in os.environ or now - self._received_at > ECHO_SECONDS:
            raise StoppedAtOnce(signal_number)


@contextmanager
def listening() -> Iterator[StopRequest]:
    """Collect signals in a request, which the training loop answers between steps.

    Only the main thread of a process gets signals.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.signal(number, request.receive) for number in answered_signals()}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
