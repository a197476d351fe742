"""Two runs that meet in one directory, and one that comes back to a finished one."""

import shutil
import signal
from collections.abc import Callable
from functools import partial
from typing import Any

from child import waiting_in_step
from runs import Run, Runs, assert_same_end
from scenario import SECTIONS, whole_steps


def test_a_second_run_is_told_of_the_first_until_that_dies(
    start: Callable[..., Any], runs: Runs, expected: Run
) -> None:
    holder = start(fault=partial(waiting_in_step, 3, 1))
    assert holder.tells() == "waiting"
    for options in (["--resume", "auto"], ["--overwrite"], []):
        second = start(*options)
        assert second.exit_code() == 2
        [line] = second.err.splitlines()
        assert f"another run (process {holder.pid}) is writing here" in line
        assert runs.at().json("status.json")["pid"] == holder.pid
        assert whole_steps(runs.at()) == [2]

    holder.send_signal(signal.SIGKILL)
    assert holder.exit_code() == -signal.SIGKILL
    assert_same_end(runs.train(**SECTIONS, resume="auto"), expected)


def test_a_finished_run_that_is_resumed_is_left_as_it_is(
    start: Callable[..., Any], runs: Runs, expected: Run
) -> None:
    run = runs.at()
    shutil.copytree(expected.path, run.path)
    before = run.times()
    child = start("--resume", "auto", "--no-report")
    assert child.exit_code() == 0
    assert "already complete" in child.out
    assert child.err == ""
    assert run.times() == before
