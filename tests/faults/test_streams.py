"""Standard output or standard error is lost: no run ends; the streams are real."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from child import Prepare, streams_closed, streams_full, streams_without_reader
from runs import Run, Runs, assert_same_end


@pytest.mark.parametrize(
    ("lose", "descriptors", "said"),
    [
        (streams_closed, (1, 2), ""),
        (streams_without_reader, (1, 2), ""),
        (
            streams_full,
            (1,),
            "standard output is lost (No space left on device); the command continues\n",
        ),
    ],
)
def test_a_run_goes_on_to_its_end(
    start: Callable[..., Any],
    runs: Runs,
    expected: Run,
    lose: Callable[..., None],
    descriptors: tuple[int, ...],
    said: str,
) -> None:
    child = start("--no-report", fault=partial(lose, descriptors))
    assert child.exit_code() == 0
    assert (child.out, child.err) == ("", said)
    assert_same_end(runs.at(), expected)


@pytest.mark.parametrize(
    ("fault", "code", "said"),
    [
        (partial(streams_without_reader, (1,)), 0, ""),
        (partial(streams_full, (1,)), 6, "mlmtune: standard output: cannot be written"),
    ],
)
def test_a_command_that_only_prints_ends(
    start: Callable[..., Any], fault: Prepare, code: int, said: str
) -> None:
    child = start(command="corpus", fault=fault)
    assert child.exit_code() == code
    last = (child.err.splitlines() or [""])[-1]
    assert last.startswith(said)
    assert "Traceback" not in child.err
    assert "ignored" not in child.err
