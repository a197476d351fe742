"""Engine: where the slow work of preparing a corpus is done, on this machine or on a cluster.

The work is a function and many items, such as "clean this part". Its results come in the order of
the items, and nothing else depends on where they were computed. `mlmtune.cluster` has the engine of
clusters.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, TypeVar

from mlmtune.console import Console
from mlmtune.corpus.parallel import num_processors, ordered_map

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Work:
    """What a person reads about some work.

    Attributes:
        what: What is done: "reading and cleaning".
        unit: What the sizes of the items count: "B" for bytes.
        is_small: Whether the work is done before other processes of this machine have started.
        is_ours: Whether only this process can do it.
        keeps_bar: Whether the progress bar stays on the screen at the end.
    """

    what: str
    unit: str
    is_small: bool = False
    is_ours: bool = False
    keeps_bar: bool = False


class Engine(ABC):
    """Calls functions for many items."""

    is_remote: bool
    """Whether the work is done elsewhere, and so is worth cutting into few large items."""

    @abstractmethod
    def map(
        self,
        function: Callable[[Item, Any], Result],
        items: Sequence[Item],
        shared: Any,
        work: Work,
        *,
        sizes: Sequence[int],
    ) -> Generator[Result, None, None]:
        """Yield `function(item, shared)` for each item, in order.

        Args:
            function: A function at the top of a module, which may be called again for an item, and
                in another process or on another machine.
            items: The first argument of each call.
            shared: The second argument of all calls.
            work: What is done.
            sizes: The sizes of the items, by which they are divided and progress is shown.

        Raises:
            MlmtuneError: The function raised it, or a process or a machine failed.
        """


@dataclass(frozen=True)
class ThisMachine(Engine):
    """Processes of this machine."""

    console: Console
    is_remote = False

    def map(
        self,
        function: Callable[[Item, Any], Result],
        items: Sequence[Item],
        shared: Any,
        work: Work,
        *,
        sizes: Sequence[int],
    ) -> Generator[Result, None, None]:
        """Yield the results as they come; see `parallel.ordered_map`.

        Raises:
            ResourceError: A process died.
        """
        num_processes = 1 if work.is_small or work.is_ours else num_processors()
        results = ordered_map(function, items, shared, num_processes=num_processes)
        progress = self.console.bar(total=sum(sizes), unit=work.unit, what=work.what)
        with closing(results), progress as bar:
            bar.leave = work.keeps_bar
            for result, size in zip(results, sizes, strict=True):
                yield result
                bar.update(size)
