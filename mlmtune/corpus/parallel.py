"""Calls of a function in several processes, whose results keep the order of the items."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import chain, islice
from typing import Any, TypeVar

from mlmtune.errors import ResourceError

Item = TypeVar("Item")
Result = TypeVar("Result")

_MAX_WAITING_PER_PROCESS = 4
"""The number of results that may wait for an earlier one, which limits their memory."""

_shared: Any = None
"""In a worker, the argument `shared` of `ordered_map`, which is sent only once."""


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

    before = set(multiprocessing.active_children())
    # Spawned, not forked, because threads of other libraries may hold locks in this process.
    executor = ProcessPoolExecutor(
        num_processes, multiprocessing.get_context("spawn"), _start_worker, (shared,)
    )
    waiting: deque[Future[Result]] = deque()
    try:
        for item in chain(first, remaining):
            waiting.append(executor.submit(_call, function, item))
            if len(waiting) > _MAX_WAITING_PER_PROCESS * num_processes:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool as error:
        raise ResourceError(
            "a process that read the corpus was killed, most likely because memory ran out; what "
            "is finished is kept, so start again with more memory or fewer processors (taskset)"
        ) from error
    finally:
        if waiting:  # the caller left early and needs no further results
            for process in set(multiprocessing.active_children()) - before:
                process.terminate()
        executor.shutdown(cancel_futures=True)


def _start_worker(shared: Any) -> None:
    global _shared
    _shared = shared
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # each processor has a process
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the parent ends this one
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_follow_parent, daemon=True).start()


def _follow_parent() -> None:
    """End this process when the process that started it ends, even if that is killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _call(function: Callable[[Item, Any], Result], item: Item) -> Result:
    return function(item, _shared)
