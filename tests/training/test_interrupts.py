"""When a signal counts as the second one."""

import signal
import time

import pytest

from mlmtune.errors import StoppedAtOnce
from mlmtune.training.interrupts import (
    ECHO_SECONDS,
    STOP_SIGNALS,
    StopRequest,
    answered_signals,
    listening,
)  # fmt: skip


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


def test_a_closed_terminal_is_never_the_second_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A closing terminal often sends the signal twice, and SIGTERM after it."""
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    request = StopRequest()
    for number in (signal.SIGHUP, signal.SIGHUP, signal.SIGTERM, signal.SIGHUP):
        request.receive(number, None)
    assert request.signal_number == signal.SIGTERM
    with pytest.raises(StoppedAtOnce):
        request.receive(signal.SIGTERM, None)


def test_a_signal_of_a_scheduler_is_never_the_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slurm announces by SIGUSR1 that the time of a job will be over, and ends it by SIGTERM."""
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    request = StopRequest()
    for number in (signal.SIGUSR1, signal.SIGUSR1, signal.SIGTERM, signal.SIGUSR1):
        request.receive(number, None)
    assert request.signal_number == signal.SIGTERM
    with pytest.raises(StoppedAtOnce):
        request.receive(signal.SIGTERM, None)


def test_a_process_of_nohup_does_not_answer_a_closed_terminal() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert answered_signals() == (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
        with listening():
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        assert answered_signals() == STOP_SIGNALS
    finally:
        signal.signal(signal.SIGHUP, before)
