"""SIGTERM, SIGHUP, Ctrl-C and a second Ctrl-C in the middle of a step."""

import signal
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from child import waiting_in_step
from runs import Run, Runs, assert_same_end
from scenario import SECTIONS, whole_steps


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129), (signal.SIGUSR1, 138)],
)
def test_the_first_ends_the_step_and_saves_it(
    start: Callable[..., Any], runs: Runs, expected: Run, number: signal.Signals, code: int
) -> None:
    run = runs.at()
    child = start(fault=partial(waiting_in_step, 3, 1))
    assert child.tells() == "waiting"
    child.send_signal(number)
    assert child.tells() == number
    assert child.exit_code() == code
    status = run.json("status.json")
    assert (status["state"], status["exit_code"]) == ("interrupted", code)
    [line] = child.err.splitlines()
    assert f"stopped by {number.name} after step 3; saved {run.checkpoint(3)}" in line
    assert "--resume auto" in line
    assert whole_steps(run) == [2, 3]
    assert_same_end(runs.train(**SECTIONS, resume="auto"), expected)


def test_the_second_stops_at_once(start: Callable[..., Any], runs: Runs, expected: Run) -> None:
    run = runs.at()
    child = start(fault=partial(waiting_in_step, 5, 3))  # waits for one more than it gets
    assert child.tells() == "waiting"
    for _ in range(2):
        child.send_signal(signal.SIGINT)
        assert child.tells() == signal.SIGINT
    assert child.exit_code() == 130
    status = run.json("status.json")
    assert (status["state"], status["exit_code"]) == ("interrupted", 130)
    [line] = child.err.splitlines()
    assert "nothing more was saved" in line
    assert run.checkpoint_steps == whole_steps(run) == [2, 4]
    assert_same_end(runs.train(**SECTIONS, resume="auto"), expected)
