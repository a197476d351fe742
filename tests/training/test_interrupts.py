"""When a signal counts as the second one."""

import signal
import time

import pytest

from mlmtune.errors import StoppedAtOnce
from mlmtune.training.interrupts import ECHO_SECONDS, StopRequest


def test_what_a_launcher_passes_on_is_the_same_signal_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    request = StopRequest()
    request.receive(signal.SIGTERM, None)
    request.receive(signal.SIGTERM, None)
    assert request.signal_number == signal.SIGTERM
    now += ECHO_SECONDS + 0.1
    with pytest.raises(StoppedAtOnce):
        request.receive(signal.SIGINT, None)


def test_nothing_is_passed_on_to_a_process_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    request = StopRequest()
    request.receive(signal.SIGINT, None)
    with pytest.raises(StoppedAtOnce):
        request.receive(signal.SIGINT, None)
