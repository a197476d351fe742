"""A stage of work on a cluster: its folder, and the task that a node runs.

    stage.json               what is done, how many tasks there are, the versions and the probes
    shared.pickle            the function, and the second argument of all calls
    items/00007.pickle       the first arguments of task 7, one after the other
    started/00007.json       where and when task 7 was last started
    results/00007.pickle     what the calls returned; written whole, so that a task with results is
                             done
    errors/00007.pickle      an error that another attempt would meet again
    engine/                  datatrove's own records and logs

Everything goes through this folder, which all machines see. The engine is only asked to run the
tasks.
"""

import json
import os
import pickle
import platform
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from mlmtune.cluster.versions import versions
from mlmtune.corpus.engine import Work
from mlmtune.errors import ConfigError, MlmtuneError
from mlmtune.files import read_json, whole_file, write_json

_RECORD = "stage.json"


@dataclass(frozen=True)
class Stage:
    """The folder of a stage."""

    folder: Path

    @property
    def lock(self) -> Path:
        """The lock of the command that waits for the stage."""
        return self.folder / "lock"

    @property
    def engine_folder(self) -> Path:
        """The folder of datatrove's records."""
        return self.folder / "engine"

    def write(
        self,
        function: Callable[[Any, Any], Any],
        tasks: Sequence[Sequence[Any]],
        shared: Any,
        work: Work,
        sizes: Sequence[int],
        folders: Sequence[Path],
    ) -> None:
        """Write what the tasks need.

        Args:
            function: A function at the top of a module.
            tasks: The items of each task.
            shared: The second argument of all calls.
            work: What is done.
            sizes: The size of each task.
            folders: Other folders that all machines must see.
        """
        for name in ("items", "started", "results", "errors", "engine"):
            (self.folder / name).mkdir(parents=True)
        _dump(self.folder / "shared.pickle", [(function, shared)])
        for number, items in enumerate(tasks):
            _dump(self._path("items", number), items)
        probes = [str(folder / f".probe-{self.folder.name}") for folder in folders]
        record = {
            "work": vars(work), "sizes": list(sizes), "versions": versions(), "probes": probes,
        }  # fmt: skip
        write_json(self.folder / _RECORD, record)
        for probe in probes:
            Path(probe).touch()

    def record(self) -> dict[str, Any]:
        """Read what `write` recorded.

        Raises:
            OSError: The folder is not there.
        """
        record: dict[str, Any] = json.loads((self.folder / _RECORD).read_text(encoding="utf-8"))
        return record

    @property
    def work(self) -> Work:
        """What is done."""
        return Work(**self.record()["work"])

    @property
    def sizes(self) -> list[int]:
        """The size of each task."""
        return list(self.record()["sizes"])

    def run(self, number: int) -> None:
        """Run a task, on a node. Errors that would come again are kept for the submitting command.

        Raises:
            Exception: The task failed, and may succeed elsewhere or later.
        """
        os.environ["TOKENIZERS_PARALLELISM"] = "false"  # each processor has a task
        record = {"host": _host(), "time": time.time()}
        write_json(self._path("started", number, "json"), record)
        try:
            self._check_node()
            [(function, shared)] = _load(self.folder / "shared.pickle")
            results = (function(item, shared) for item in _load(self._path("items", number)))
            _dump(self._path("results", number), results)
        except MlmtuneError as error:
            _dump(self._path("errors", number), [error])

    def _check_node(self) -> None:
        """Refuse a node that would make other bits, or that does not see the folders.

        Raises:
            ConfigError: The node differs.
        """
        record, own, host = self.record(), versions(), _host()
        for name, expected in record["versions"].items():
            if own[name] != expected:
                raise ConfigError(
                    f"{host} has {name} {own[name]}, and the machine that submitted the work has "
                    f"{expected}, so their results could differ; use one environment on all "
                    "machines (engine.setup can activate it)"
                )
        for probe in record["probes"]:
            if not Path(probe).exists():
                raise ConfigError(
                    f"{Path(probe).parent}: {host} does not see the files that the submitting "
                    "machine writes there; set tokenization.cache_dir and tokenization.store to "
                    "folders that all machines share"
                )

    def has_logs(self) -> bool:
        """Whether a task has begun."""
        return any((self.engine_folder / "logs").glob("task_*"))

    def finished(self) -> set[int]:
        """Return the tasks that have results."""
        return {int(path.stem) for path in (self.folder / "results").glob("[0-9]*.pickle")}

    def hosts(self, numbers: set[int]) -> dict[str, int]:
        """Return on which machines some tasks were last started, and how many on each."""
        hosts: dict[str, int] = {}
        for number in sorted(numbers):
            record = read_json(self._path("started", number, "json"))
            if record is not None:
                hosts[record["host"]] = hosts.get(record["host"], 0) + 1
        return hosts

    def error(self) -> MlmtuneError | None:
        """Return the error of the first task that has one."""
        for path in sorted((self.folder / "errors").glob("[0-9]*.pickle")):
            error: MlmtuneError = next(_load(path))
            return error
        return None

    def results(self, num_tasks: int) -> Iterator[Any]:
        """Yield the results of all items, in order."""
        for number in range(num_tasks):
            yield from _load(self._path("results", number))

    def delete(self) -> None:
        """Delete the folder and the probes; what the tasks have written elsewhere stays."""
        for probe in self.record()["probes"]:
            Path(probe).unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, kind: str, number: int, ending: str = "pickle") -> Path:
        return self.folder / kind / f"{number:05d}.{ending}"


@dataclass(frozen=True)
class Task:
    """What datatrove runs on a node, with the number of a task."""

    folder: Path

    def __call__(self, _: Any, rank: int, world_size: int) -> None:
        Stage(self.folder).run(rank)


def divide(sizes: Sequence[int], num_tasks: int) -> list[slice]:
    """Divide consecutive items into tasks of about the same size, each with one item or more."""
    # Something for each item, because an unknown size is 0.
    weights = np.asarray(sizes, dtype=np.float64) + max(sum(sizes), 1) / len(sizes) / 100
    middles = np.cumsum(weights) - weights / 2
    num_tasks = min(num_tasks, len(sizes))
    borders = np.searchsorted(middles, weights.sum() * np.arange(1, num_tasks) / num_tasks)
    distinct = sorted({0, *borders.tolist(), len(sizes)})
    return [slice(begin, end) for begin, end in pairwise(distinct)]


def _host() -> str:
    """Return the name of this machine, as its cluster calls it."""
    return os.environ.get("SLURMD_NODENAME") or platform.node()


def _dump(path: Path, values: Any) -> None:
    with whole_file(path, shared=True) as temporary, temporary.open("wb") as file:
        for value in values:
            pickle.dump(value, file)


def _load(path: Path) -> Iterator[Any]:
    with path.open("rb") as file:
        while file.peek(1):
            yield pickle.load(file)
