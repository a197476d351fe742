"""What a child process of these tests does: run a command, and meet a fault on the way.

The functions that prepare a fault are called in the child before the command. They take the
place of nothing: the signals, limits and files are real; only the moment is chosen.
"""

import ctypes
import os
import resource
import signal
import struct
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from mlmtune.cli import main
from mlmtune.tokens import marks, tokenization
from mlmtune.tokens.store_writer import ShardWriter, UnfinishedStore
from mlmtune.training import loop
from mlmtune.training.checkpoint import TrainState
from mlmtune.training.checkpointer import Checkpointer
from mlmtune.training.interrupts import StopRequest

Prepare = Callable[[Connection], None]


def run(
    arguments: list[str],
    prepare: Prepare | None,
    connection: Connection,
    output: Path,
    variables: dict[str, str],
) -> None:
    """Run `mlmtune ARGUMENTS`; the exit code is this process's, its text goes into files."""
    os.environ.update(variables)
    for number, name in ((1, "out"), (2, "err")):
        with (output / name).open("wb") as file:
            os.dup2(file.fileno(), number)
    sys.argv = ["mlmtune", *arguments]
    if prepare is not None:
        prepare(connection)
    main()


# ------------------------------------------------------------------- killed at some moment


def killed_in_saving(step: int, when: Callable[[], bool], connection: Connection) -> None:
    """Kill this process in saving `step` as soon as `when()`; asked at each call and return."""
    save = Checkpointer.save

    def save_watched(checkpointer: Checkpointer, state: TrainState) -> Path:
        if state.step == step:
            _watch(when)
        try:
            return save(checkpointer, state)
        finally:
            sys.setprofile(None)

    Checkpointer.save = save_watched


def killed_in_exporting(when: Callable[[], bool], connection: Connection) -> None:
    """The same while model/ is written."""
    export = loop.export

    def export_watched(*arguments: Any) -> Any:
        _watch(when)
        return export(*arguments)

    loop.export = export_watched


def killed_in_tokenizing(when: Callable[[], bool], connection: Connection) -> None:
    """The same while the token store is written, from its first file on."""
    begin = UnfinishedStore.begin

    def begin_watched(store: UnfinishedStore) -> None:
        _watch(when)
        begin(store)

    UnfinishedStore.begin = begin_watched


def killed_in_marking(when: Callable[[], bool], connection: Connection) -> None:
    """The same while marks are found beside the store."""
    find_marks = marks.find_marks

    def find_watched(*arguments: Any) -> None:
        _watch(when)
        find_marks(*arguments)

    marks.find_marks = find_watched


def killed_after_shards(count: int, num_characters: int, connection: Connection) -> None:
    """Kill this process as soon as so many shards, of so many characters each, are finished."""
    finish_shard, finished = ShardWriter.finish, []

    def finish_unless_enough(writer: ShardWriter) -> None:
        if len(finished) == count:
            os.kill(os.getpid(), signal.SIGKILL)
        finish_shard(writer)
        finished.append(writer)

    tokenization.SHARD_CHARACTERS = num_characters
    ShardWriter.finish = finish_unless_enough


def _watch(when: Callable[[], bool]) -> None:
    def look(_: Any, event: str, called: Any) -> None:
        # Functions of built-in types write no files, and loops call them a million times.
        if event in ("c_call", "c_return") and called.__module__ in (None, "builtins"):
            return
        if when():
            os.kill(os.getpid(), signal.SIGKILL)

    sys.setprofile(look)


def has_entries(folder: Path, count: int) -> bool:
    """Whether a folder is there and has so many entries."""
    try:
        return len(os.listdir(folder)) == count
    except FileNotFoundError:
        return False


def is_building(cache: Path, count: int) -> bool:
    """Whether a token store is being written and has so many files."""
    return any(has_entries(path, count) for path in (cache / "tokens").glob(".writing-*"))


def is_marking(cache: Path, count: int) -> bool:
    """Whether marks are being written and have so many files."""
    return any(has_entries(path, count) for path in (cache / "tokens").glob("*/.writing-*"))


def is_there(path: Path) -> bool:
    return path.exists()


def is_gone(path: Path) -> bool:
    return not path.exists()


# ------------------------------------------------------------------ waiting for a signal


def waiting_in_step(step: int, num_signals: int, connection: Connection) -> None:
    """Stand still in the second micro-batch of a step, until so many signals were received.

    The test is told of the moment, and of each signal.
    """
    signals: list[int] = []
    receive, backward = StopRequest.receive, Accelerator.backward
    num_backward = [0]

    def receive_and_tell(request: StopRequest, number: int, frame: Any) -> None:
        signals.append(number)
        connection.send(number)
        receive(request, number, frame)

    def wait(accelerator: Accelerator, loss: Any) -> None:
        num_backward[0] += 1
        if num_backward[0] == step * 3 - 1:  # three micro-batches per step
            connection.send("waiting")
            while len(signals) < num_signals:
                time.sleep(0.002)
        backward(accelerator, loss)

    StopRequest.receive = receive_and_tell
    Accelerator.backward = wait


# ---------------------------------------------------------------------------- a full disk


def full_disk_in_saving(step: int, num_bytes: int, connection: Connection) -> None:
    """From saving `step` on, no file can grow over so many bytes; Python ignores SIGXFSZ."""
    save = Checkpointer.save

    def save_on_full_disk(checkpointer: Checkpointer, state: TrainState) -> Path:
        if state.step == step:
            resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, num_bytes))
        return save(checkpointer, state)

    Checkpointer.save = save_on_full_disk


def full_disk(num_bytes: int, connection: Connection) -> None:
    """The same from the start on."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, num_bytes))


# ------------------------------------------------------------------------- lost streams


def streams_closed(descriptors: tuple[int, ...], connection: Connection) -> None:
    """Close standard streams, as `>&-` does."""
    for descriptor in descriptors:
        os.close(descriptor)


def streams_full(descriptors: tuple[int, ...], connection: Connection) -> None:
    """Let standard streams lead to a full disk."""
    for descriptor in descriptors:
        os.dup2(os.open("/dev/full", os.O_WRONLY), descriptor)


def streams_without_reader(descriptors: tuple[int, ...], connection: Connection) -> None:
    """Let standard streams lead to a pipe whose reader has left, as `| head` does."""
    reader, writer = os.pipe()
    os.close(reader)
    for descriptor in descriptors:
        os.dup2(writer, descriptor)


# ----------------------------------------------------------------- permissions and programs


def without_privileges(connection: Connection) -> None:
    """Give up what lets root read every file: all capabilities of this process."""
    header = struct.pack("Ii", 0x20080522, 0)  # version 3 of the call, this process
    assert ctypes.CDLL(None).capset(header, bytes(24)) == 0


def with_programs_of(folder: Path, connection: Connection) -> None:
    """Find programs in this folder first."""
    os.environ["PATH"] = f"{folder}{os.pathsep}{os.environ['PATH']}"
