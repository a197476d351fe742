"""Clusters: what a task costs on each engine, and how much faster two workers are than one.

`per stage` is the time of a stage whose only task does nothing, and `per task` what each further
task adds, one after the other. `cleaning` is reading and cleaning of Markdown, as `mlmtune prepare`
does it, by tasks that run one or two at a time. The engines take turns.

Slurm is the one that `sbatch` reaches, and Ray the one at --address.
"""

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal
from unittest.mock import patch

from mlmtune.cluster.choosing import open_engine
from mlmtune.config import CorpusConfig, EngineConfig, SourceConfig, TokenizationConfig
from mlmtune.console import Console
from mlmtune.corpus import engine
from mlmtune.corpus.engine import Work
from mlmtune.corpus.text import CorpusText
from options import CommandLine, main
from report import table, write_json
from texts import write_pages

ENGINES = ("local", "slurm", "ray")
NUM_TASKS = 8


def command_line() -> CommandLine:
    arguments = CommandLine(__doc__)
    arguments.add_argument("--on", nargs="+", choices=ENGINES, default=["local", "slurm"])
    arguments.add_argument("--text", type=Path, help="a file or folder of .md")
    arguments.add_argument("--megabytes", type=float, default=60.0, help="the size of the text")
    arguments.add_argument("--address", default="auto", help="the address of Ray")
    arguments.add_argument("--folder", type=Path, help="a folder that all machines share")
    arguments.add_argument("--rounds", type=int, default=3)
    return arguments


def benchmark() -> None:
    options: argparse.Namespace = command_line().parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        seconds = measure(options, Path(folder))
    medians = {
        name: {what: statistics.median(times) for what, times in of_engine.items()}
        for name, of_engine in seconds.items()
    }
    rows = []
    for name, of_engine in medians.items():
        ratios = [
            one / two for one, two in zip(seconds[name]["one"], seconds[name]["two"], strict=True)
        ]
        rows.append(
            [
                name, f"{of_engine['stage']:.2f} s", f"{of_engine['task']:.2f} s",
                f"{options.megabytes / of_engine['one']:.2f} MB/s",
                f"{options.megabytes / of_engine['two']:.2f} MB/s",
                f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
            ]
        )  # fmt: skip
    columns = ["engine", "per stage", "per task", "cleaning, 1 worker", "2 workers", "ratio"]
    print(table(columns, rows))
    write_json(options.json, benchmark="cluster", seconds=seconds)


def measure(options: argparse.Namespace, folder: Path) -> dict[str, dict[str, list[float]]]:
    """Return the seconds of each measurement of each engine, by rounds."""
    write_pages(options.text, folder / "pages", options.megabytes * 1e6)
    seconds: dict[str, dict[str, list[float]]] = {
        name: {"stage": [], "task": [], "one": [], "two": []} for name in options.on
    }
    for _ in range(options.rounds):
        for name, of_engine in seconds.items():
            side = Side(name, options.address, folder)
            one, many = side.seconds_of_nothing(1), side.seconds_of_nothing(1 + NUM_TASKS)
            of_engine["stage"].append(one)
            of_engine["task"].append((many - one) / NUM_TASKS)
            of_engine["one"].append(side.seconds_of_cleaning(1))
            of_engine["two"].append(side.seconds_of_cleaning(2))
    return seconds


class Side:
    """An engine that is measured, on the pages in a folder."""

    def __init__(self, kind: Literal["local", "slurm", "ray"], address: str, folder: Path) -> None:
        self.kind, self.address, self.cache = kind, address, folder / "cache"
        source = SourceConfig(format="markdown", path=str(folder / "pages"))
        self.corpus = CorpusConfig(sources=[source])

    def seconds_of_nothing(self, num_tasks: int) -> float:
        """Time a stage of tasks that do nothing, one at a time."""
        with self.opened(workers=1, num_tasks=num_tasks) as text:
            started = time.perf_counter()
            sizes = [1] * num_tasks
            work = Work("nothing", "task")
            list(text.engine.map(divmod, range(num_tasks), 1, work, sizes=sizes))
            return time.perf_counter() - started

    def seconds_of_cleaning(self, workers: int) -> float:
        """Time the reading and cleaning of the pages by so many tasks at a time."""
        with self.opened(workers, num_tasks=4 * workers) as text:
            listed = text.listed()
            started = time.perf_counter()
            listed.read()
            return time.perf_counter() - started

    @contextmanager
    def opened(self, workers: int, num_tasks: int) -> Iterator[CorpusText]:
        """Give the text with this engine and an empty cache."""
        shutil.rmtree(self.cache, ignore_errors=True)
        tokenization, console = (
            TokenizationConfig(cache_dir=str(self.cache)),
            Console(is_main=False),
        )
        config = EngineConfig(
            kind=self.kind, workers=workers, tasks=num_tasks, memory_gb=2, address=self.address
        )
        cluster = open_engine(config, self.corpus, tokenization, console)
        with patch.object(engine, "num_processors", lambda: workers):
            yield CorpusText.of(self.corpus, tokenization, console, cluster)


if __name__ == "__main__":
    main(benchmark)
