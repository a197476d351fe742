"""Calls of a function in several processes, whose results keep the order of the items."""

import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import chain, islice
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from queue import SimpleQueue
from types import ModuleType
from typing import Any, TypeVar

from mlmtune.errors import ResourceError

Item = TypeVar("Item")
Result = TypeVar("Result")

_MAX_WAITING_PER_PROCESS = 4
"""The number of results that may wait for an earlier one, which limits their memory."""


def num_processors() -> int:
    """Return the number of processors that this process may use."""
    return len(os.sched_getaffinity(0))


def ordered_map(
    function: Callable[[Item, Any], Result],
    items: Iterable[Item],
    shared: Any,
    *,
    num_processes: int,
) -> Generator[Result, None, None]:
    """Yield `function(item, shared)` for each item, in order.

    If the caller leaves early, by an error or a signal, the processes are ended during their work.

    Args:
        function: A function at the top of a module, because it is pickled.
        items: The first argument of each call; read as far as there is work for the processes.
        shared: The second argument of all calls.
        num_processes: The number of new processes; below 2, the function is called in this one.

    Raises:
        ResourceError: A process died, most likely because memory ran out.
    """
    remaining = iter(items)
    first = list(islice(remaining, 2))
    if min(num_processes, len(first)) < 2:
        for item in chain(first, remaining):
            yield function(item, shared)
        return

    workers = _Workers(num_processes, shared)
    waiting: deque[Future[Result]] = deque()
    try:
        for item in chain(first, remaining):
            waiting.append(workers.submit(function, item))
            if len(waiting) > _MAX_WAITING_PER_PROCESS * num_processes:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        workers.end()


class _Workers:
    """Processes that call functions, and a thread for each of them, which waits for its results.

    An executor of processes waits for all of them by one queue, and for ever if a process is ended
    while it writes a result into that queue. Here each has a pipe, which ends with it.
    """

    def __init__(self, num_processes: int, shared: Any) -> None:
        # Spawned, not forked, because threads of other libraries may hold locks in this process.
        context = multiprocessing.get_context("spawn")
        self._processes: list[SpawnProcess] = []
        self._idle: SimpleQueue[Connection] = SimpleQueue()
        for _ in range(num_processes):
            pipe, pipe_of_worker = context.Pipe()
            process = context.Process(target=_work, args=(pipe_of_worker, shared), daemon=True)
            with _without_main():
                process.start()
            pipe_of_worker.close()  # so that the pipe ends with the process
            self._processes.append(process)
            self._idle.put(pipe)
        self._threads = ThreadPoolExecutor(num_processes)

    def submit(self, function: Callable[[Item, Any], Result], item: Item) -> Future[Result]:
        return self._threads.submit(self._call, function, item)

    def _call(self, function: Callable[[Item, Any], Result], item: Item) -> Result:
        """Call a function in a process that is idle.

        Raises:
            ResourceError: The process died.
        """
        pipe = self._idle.get()
        try:
            pipe.send((function, item))
            outcome: tuple[Result, Exception | None] = pipe.recv()
        except (EOFError, OSError) as ended:
            raise ResourceError(
                "a process that read the corpus was killed, most likely because memory ran out; "
                "what is finished is kept, so start again with more memory or fewer processors "
                "(taskset)"
            ) from ended
        finally:
            self._idle.put(pipe)
        result, error = outcome
        if error is not None:
            raise error
        return result

    def end(self) -> None:
        """End the processes, in the middle of their work if they have some."""
        for process in self._processes:
            process.terminate()
        self._threads.shutdown(cancel_futures=True)
        for process in self._processes:
            process.join()


@contextmanager
def _without_main() -> Iterator[None]:
    """Let a new process import mlmtune alone, and not the program that uses it.

    Each process would run a script again that does not guard its main part, and start its own.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _work(pipe: Connection, shared: Any) -> None:
    """Call functions in this new process, and write what they return, until the pipe ends."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # each processor has a process
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the parent ends this one
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_follow_parent, daemon=True).start()
    with suppress(EOFError, OSError):  # the parent has ended, and nobody reads an error
        while True:
            function, item = pipe.recv()
            try:
                pipe.send((function(item, shared), None))
            except Exception as error:
                error.add_note(traceback.format_exc())  # a traceback cannot be sent
                pipe.send((None, error))


def _follow_parent() -> None:
    """End this process when the process that started it ends, even if that is killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
