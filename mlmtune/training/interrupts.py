"""SIGINT and SIGTERM: the first asks the run to save and stop, the second stops it at once."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from mlmtune.errors import StoppedAtOnce

ECHO_SECONDS = 1.0
"""Launchers pass signals on; where all processes are signalled, each gets the same one twice."""


class StopRequest:
    """Whether, and by which signal, this process was told to stop."""

    def __init__(self) -> None:
        self.signal_number: int | None = None
        self._received_at = 0.0

    def __bool__(self) -> bool:
        return self.signal_number is not None

    def receive(self, signal_number: int, frame: FrameType | None) -> None:
        """Signal handler: note the first, give way to the second."""
        now = time.monotonic()
        if self.signal_number is None:
            self.signal_number, self._received_at = signal_number, now
        elif "WORLD_SIZE" not in os.environ or now - self._received_at > ECHO_SECONDS:
            raise StoppedAtOnce(signal_number)


@contextmanager
def listening() -> Iterator[StopRequest]:
    """Turn SIGINT and SIGTERM into a request that the training loop answers between steps."""
    request = StopRequest()
    signals = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, request.receive) for number in signals}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
