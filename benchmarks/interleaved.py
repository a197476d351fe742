"""Measures sides by turns in one run, each in a process of its own.

The speed of a machine drifts by more than the differences to be measured: other programs, heat,
clocks. So each round lets every side work for a moment while the others wait, and a ratio is taken
within the round. Each side has a process of its own, and so its own allocator, threads and peak
memory. The parent imports nothing heavy, because a child's peak memory starts at its parent's.
"""

import importlib
import multiprocessing
import os
import signal
import statistics
import threading
import traceback
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Protocol, Self

import psutil


@dataclass(frozen=True)
class Block:
    """The work of a side in one turn.

    Attributes:
        num_steps: The number of units of work.
        amount: The amount of data, in the benchmark's unit (tokens, samples, bytes).
        seconds: The time it took, the device's work included.
    """

    num_steps: int
    amount: float
    seconds: float

    @property
    def rate(self) -> float:
        """The amount per second."""
        return self.amount / self.seconds


class Side(Protocol):
    """One side of a comparison, which works by turns with the others."""

    def run(self, num_steps: int) -> Block: ...


class SideFailed(Exception):
    """The process of a side has died or raised an error; the message says which and how."""


class Child:
    """An object or a module in a process of its own, which ends with the context.

    It is made while the parent goes on; the first call waits for it.

    Args:
        target: `module`, or `module:Class` to make an object of.
        arguments: The arguments of the class; they are pickled.
    """

    def __init__(self, target: str, *arguments: Any) -> None:
        self._target = target
        # A spawned process inherits the environment; no side may wait for a network.
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        # Not forked: each side imports and configures its libraries itself, as a script does.
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, target, arguments))
        self._process.start()
        theirs.close()
        self._is_ready = False

    @property
    def pid(self) -> int:
        assert self._process.pid is not None  # it was started
        return self._process.pid

    def call(self, method: str, *arguments: Any) -> Any:
        """Call a method in the process, and return its result.

        Raises:
            SideFailed: The method raised an error, or the process died.
        """
        self.wait()
        self._connection.send((method, arguments))
        return self._receive()

    def wait(self) -> None:
        """Wait until the object is made.

        Raises:
            SideFailed: It could not be made, or the process died.
        """
        if not self._is_ready:
            self._receive()
            self._is_ready = True

    def run(self, num_steps: int) -> Block:
        """Let the side work; at other times it waits on a pipe."""
        block: Block = self.call("run", num_steps)
        return block

    def facts(self) -> dict[str, Any]:
        """Return what else the side reports, as JSON values."""
        facts: dict[str, Any] = self.call("facts")
        return facts

    def close(self) -> None:
        """End the process, and wait for it."""
        self._connection.close()
        self._process.join()

    def __enter__(self) -> Self:
        self.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _receive(self) -> Any:
        try:
            fault, value = self._connection.recv()
        except EOFError as error:  # the process has died without a word
            self._process.join()
            code = self._process.exitcode or 0
            how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            raise SideFailed(f"the process of {self._target} ended by {how}") from error
        if fault is not None:
            self.close()
            raise SideFailed(f"in the process of {self._target}:\n{fault}")
        return value


def _serve(connection: Connection, target: str, arguments: tuple[Any, ...]) -> None:
    """Make the object in the child, and answer calls until the parent closes the pipe."""
    threading.Thread(target=_follow_parent, daemon=True).start()
    module, _, name = target.partition(":")
    try:
        served: Any = importlib.import_module(module)
        if name:
            served = getattr(served, name)(*arguments)
        connection.send((None, None))
        while True:
            method, arguments = connection.recv()
            connection.send((None, getattr(served, method)(*arguments)))
    except (EOFError, BrokenPipeError):
        return
    except Exception:
        connection.send((traceback.format_exc(), None))


def _follow_parent() -> None:
    """End this process and its children with the parent, even if that is killed during a call.

    The pipe does not suffice: a child reads it only between calls, and a call may take an hour.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    me = psutil.Process()
    for process in (*me.children(recursive=True), me):
        with suppress(psutil.NoSuchProcess):
            process.kill()


def run_apart(target: str, *arguments: Any) -> Any:
    """Call `module:function` in a process of its own, and return its result."""
    module, _, function = target.partition(":")
    with Child(module) as child:
        return child.call(function, *arguments)


@contextmanager
def side_by_side(sides: Mapping[str, tuple[Any, ...]]) -> Iterator[dict[str, Child]]:
    """Make the arguments of several `Child`ren into children, all at the same time, by name."""
    with ExitStack() as stack:
        children = {name: Child(*arguments) for name, arguments in sides.items()}
        for child in children.values():
            stack.callback(child.close)
        for child in children.values():
            child.wait()
        yield children


def warm_up(sides: Mapping[str, Side], num_steps: int) -> dict[str, SideFailed]:
    """Let the sides work before they are measured, the last ones first, and two at once.

    Two compile in the time of one; more might not fit into a device's memory at once.

    Returns:
        The sides that failed, and why.
    """
    failed: dict[str, SideFailed] = {}

    def work(name: str) -> None:
        try:
            sides[name].run(num_steps)
        except SideFailed as error:
            failed[name] = error

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(work, reversed(list(sides))))
    return failed


def interleave(
    sides: Mapping[str, Side], num_rounds: int, num_steps: int, num_warmup_steps: int
) -> dict[str, list[Block]]:
    """Let the sides work by turns, and return the block of each side in each round.

    Args:
        sides: The sides by name.
        num_rounds: The number of rounds.
        num_steps: The units of work in a block.
        num_warmup_steps: The units of work of each side before the first round, not measured.
    """
    if num_warmup_steps:
        for side in sides.values():
            side.run(num_warmup_steps)
    blocks: dict[str, list[Block]] = {name: [] for name in sides}
    names = list(sides)
    for number in range(num_rounds):
        # Every other round backwards, so that no side always works after the same one.
        for name in names if number % 2 == 0 else reversed(names):
            blocks[name].append(sides[name].run(num_steps))
    return blocks


def rate_ratios(ours: Sequence[Block], peer: Sequence[Block]) -> list[float]:
    """Return the ratio of our rate to the peer's, by round."""
    return [a.rate / b.rate for a, b in zip(ours, peer, strict=True)]


def summary(blocks: Mapping[str, Sequence[Block]], *, to: str = "peer") -> dict[str, Any]:
    """Return all measurements as JSON values; ratios are to the side `to`."""
    return {
        "ratio": statistics.median(rate_ratios(blocks["ours"], blocks[to])),
        "ratios": {
            name: rate_ratios(of_side, blocks[to]) for name, of_side in blocks.items() if name != to
        },
        "sides": {
            name: {
                "rate": statistics.median(block.rate for block in of_side),
                "step_seconds": statistics.median(b.seconds / b.num_steps for b in of_side),
                "rates": [block.rate for block in of_side],
            }
            for name, of_side in blocks.items()
        },
    }
