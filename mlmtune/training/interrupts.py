"""SIGINT and SIGTERM: the first asks the run to save and stop, the second stops it at once."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from mlmtune.errors import StoppedAtOnce


class StopRequest:
    """Whether, and by which signal, this process was told to stop."""

    def __init__(self) -> None:
        self.signal_number: int | None = None

    def __bool__(self) -> bool:
        return self.signal_number is not None

    def receive(self, signal_number: int, frame: FrameType | None) -> None:
        """Signal handler: note the first, give way to the second."""
        if self.signal_number is not None:
            raise StoppedAtOnce(signal_number)
        self.signal_number = signal_number


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
