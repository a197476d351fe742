"""How many processes --nproc starts, and whose ending is the launch's; without real processes."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from mlmtune.errors import ConfigError
from mlmtune.training import launch as launch_module
from mlmtune.training.interrupts import STOP_SIGNALS
from mlmtune.training.launch import Ending, count_processes, launch
from mlmtune.training.launched import report_end
from mlmtune.training.rendezvous import Address
from mlmtune.training.run_dir import RunDir

PID = 4242


@pytest.fixture(autouse=True)
def as_it_was(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A launch sets variables and signal handlers for good: its process has nothing else to do."""
    for name in ("WORLD_SIZE", "RANK", "ACCELERATE_USE_CPU"):
        monkeypatch.delenv(name, raising=False)
    variables = dict(os.environ)
    handlers = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    yield
    os.environ.clear()
    os.environ.update(variables)
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("asked", "num_gpus", "expected"),
    [("1", 0, 1), ("3", 0, 3), ("auto", 0, 1), ("auto", 4, 4), ("4", 4, 4), ("1", 4, 1)],
)
def test_the_number_of_processes(
    monkeypatch: pytest.MonkeyPatch, asked: str, num_gpus: int, expected: int
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: num_gpus)
    assert count_processes(asked) == expected


@pytest.mark.parametrize("asked", ["0", "-1", "two", "", "1.5", "\u00b2"])
def test_what_is_no_number_of_processes(asked: str) -> None:
    with pytest.raises(ConfigError, match="give a number of processes, or auto"):
        count_processes(asked)


def test_each_process_has_a_gpu_unless_cpus_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ConfigError, match="and 2 can be seen here"):
        count_processes("3")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    assert count_processes("3") == 3


def test_a_launch_inside_a_launch_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="another launcher"):
        count_processes("2")


def launch_that_ends(
    monkeypatch: pytest.MonkeyPatch,
    reported: list[tuple[int, int, str]],
    exit_codes: list[tuple[int, int, int]] = [],  # noqa: B006
    signal_number: signal.Signals | None = None,
    run: Path | None = None,
    nodes: Any = None,
) -> Ending:
    """A launch of processes that report (rank, exit code, message) and end so.

    The launcher notices (rank, exit code, second): minus a signal's number where one killed it.
    """

    def elastic_launch(*_: Any) -> Any:
        def go(*_: str) -> None:
            for rank, code, message in reported:
                os.environ["RANK"] = str(rank)
                report_end(code, message)
            if signal_number is not None:
                raise SignalException("told to stop", signal_number)
            failures = {rank: ProcessFailure(rank, PID, code, "") for rank, code, _ in exit_codes}
            for rank, _, second in exit_codes:
                failures[rank].timestamp = second
            if failures:
                raise ChildFailedError("mlmtune", failures)

        return go

    monkeypatch.setattr(launch_module, "elastic_launch", elastic_launch)
    return launch(2, run, nodes, is_quiet=False)


STOPPED = "stopped by SIGTERM; nothing more was saved"


@pytest.mark.parametrize(
    ("reported", "exit_codes", "code", "rank", "part"),
    [
        # All meet the same error; the launcher reaches the main process by SIGTERM all the same.
        ([(1, 2, "wrong"), (0, 2, "wrong")], [(1, 2, 0), (0, 2, 0)], 2, 0, "wrong"),
        ([(1, 3, "no text"), (0, 143, STOPPED)], [(1, 3, 0), (0, 143, 0)], 3, 1, "no text"),
        # One alone is out of memory; the other cannot reach it any more.
        ([(0, 1, "peer"), (1, 6, "memory")], [(0, 1, 0), (1, 6, 0)], 6, 1, "memory"),
        ([(0, 1, "peer")], [(0, 1, 0), (1, -9, 0)], 137, 0, "process 1 was killed by SIGKILL"),
        (
            [(0, 143, STOPPED)],
            [(1, -11, 0), (0, 143, 0)],
            139,
            0,
            "process 1 was killed by SIGSEGV and",
        ),
        # The launcher itself kills those that hang.
        ([(0, 1, "a bug")], [(0, 1, 0), (1, -9, 31)], 1, 0, "a bug"),
        ([(1, 5, "nan")], [(1, 5, 0), (0, -9, 30)], 5, 1, "nan"),
        # Nothing was reported: Python could not even start the command.
        ([], [(1, 1, 0), (0, -15, 0)], 1, 0, "process 1 failed"),
        ([], [(0, 1, 0), (1, 1, 0)], 1, 0, "process 0 failed"),
        # All was done; a library fell over while Python ended.
        ([(0, 0, ""), (1, 0, "")], [(1, -11, 0)], 0, 0, ""),
        # The one that was told first knows what was saved.
        ([(1, 143, "saved"), (0, 143, STOPPED)], [(1, 143, 0), (0, 143, 0)], 143, 1, "saved"),
    ],
)
def test_the_cause_decides(
    monkeypatch: pytest.MonkeyPatch,
    reported: list[tuple[int, int, str]],
    exit_codes: list[tuple[int, int, int]],
    code: int,
    rank: int,
    part: str,
) -> None:
    ending = launch_that_ends(monkeypatch, reported, exit_codes)
    assert (ending.exit_code, ending.rank) == (code, rank)
    assert part in ending.message


@pytest.mark.parametrize(
    ("reported", "code", "message"),
    [
        ([(0, 130, "saved"), (1, 130, "saved")], 130, "saved"),
        ([(0, 129, "saved"), (1, 129, "saved")], 130, "saved"),
        ([(0, 143, "saved"), (1, 130, "saved")], 130, "saved"),  # another signal came first
        ([(0, 6, "disk full"), (1, 6, "disk full")], 6, "disk full"),
        ([(0, 0, ""), (1, 0, "")], 0, ""),
        ([], 130, "stopped by SIGINT; nothing more was saved"),
    ],
)
def test_a_signal_to_the_launcher(
    monkeypatch: pytest.MonkeyPatch, reported: list[tuple[int, int, str]], code: int, message: str
) -> None:
    ending = launch_that_ends(monkeypatch, reported, signal_number=signal.SIGINT)
    assert (ending.exit_code, ending.message) == (code, message)


class TwoNodes:
    """This node and another one, which tells how it ended, or tells nothing."""

    names = ("here", "there")
    address = Address("127.0.0.1", 1)

    def __init__(self, index: int, other: Ending | None, *, has_lost_it: bool = False) -> None:
        self.index = index
        self._other = other
        self._has_lost_it = has_lost_it

    @contextmanager
    def watched(self) -> Iterator[threading.Event]:
        is_lost = threading.Event()
        if self._has_lost_it:
            is_lost.set()
        yield is_lost

    def exchange(self, ending: Ending) -> list[Ending | None]:
        return [ending, self._other] if self.index == 0 else [self._other, ending]


PEER = Ending(1, "peer", 2)


@pytest.mark.parametrize(
    ("index", "reported", "other", "expected"),
    [
        # The node of process 0 prints what happened on the other one.
        (0, [(0, 1, "peer")], Ending(3, "no text", 2), Ending(3, "no text", 2)),
        (1, [(2, 3, "no text")], PEER, Ending(3, "", 2)),
        # One that was killed tells nothing.
        (0, [(0, 1, "peer")], None, "there ended without a word"),
        (1, [(2, 1, "peer")], None, "here ended without a word"),
        (0, [(0, 143, "saved")], None, Ending(143, "saved")),
        (0, [(0, 0, "")], None, Ending(0)),
    ],
)
def test_two_nodes_end_with_the_same_cause(
    monkeypatch: pytest.MonkeyPatch,
    index: int,
    reported: list[tuple[int, int, str]],
    other: Ending | None,
    expected: Ending | str,
) -> None:
    failed = [(rank, code, 0) for rank, code, _ in reported if code]
    ending = launch_that_ends(monkeypatch, reported, failed, nodes=TwoNodes(index, other))
    if isinstance(expected, str):
        assert ending.message.startswith(expected)
        assert (ending.exit_code, ending.rank) == (1, 0)
    else:
        assert ending == expected


def test_a_process_that_was_killed_because_of_another_node_is_not_the_cause(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run = RunDir(tmp_path)
    run.write_json("status.json", {"state": "running", "pid": PID})
    nodes = TwoNodes(0, Ending(6, "memory", 2), has_lost_it=True)
    ending = launch_that_ends(monkeypatch, [], [(0, -9, 0)], run=tmp_path, nodes=nodes)
    assert ending == Ending(6, "memory", 2)
    status = run.read_json("status.json") or {}
    assert (status["exit_code"], status["message"]) == (6, "memory")


@pytest.mark.parametrize("is_of_this_launch", [True, False])
def test_status_is_set_right_if_it_is_of_this_launch(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, is_of_this_launch: bool
) -> None:
    before = {"state": "running", "pid": PID if is_of_this_launch else PID + 1}
    run = RunDir(tmp_path)
    run.write_json("status.json", before)
    launch_that_ends(monkeypatch, [(1, 1, "peer")], [(0, -9, 0), (1, 1, 0)], run=tmp_path)
    status = run.read_json("status.json")
    assert status is not None
    if is_of_this_launch:
        assert (status["state"], status["exit_code"]) == ("failed", 137)
        assert "process 0 was killed" in status["message"]
    else:
        assert status == before
