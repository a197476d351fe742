"""`mlmtune runs`: the runs in a folder as a table."""

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from mlmtune.console import Console
from mlmtune.errors import ConfigError
from mlmtune.files import read_json
from mlmtune.numbers import perplexity, share
from mlmtune.tables import table
from mlmtune.training.run_dir import OWN_FOLDERS, RunDir, is_held

STATUS_FILE = "status.json"


@dataclass(frozen=True)
class ListedRun:
    """What the files of a run say about it.

    Attributes:
        run: Its directory.
        state: That of status.json, or `killed` if the run ended without writing another one.
        step: The last step that is known.
        max_steps: The step at which it ends.
        perplexity_before: That of the base on the validation text.
        perplexity: That of the result.
        accuracy: That of a classifier or of entities on its test.
        verdict: The verdict of its report, if it has one.
        num_bytes: Its size on the disk.
    """

    run: str
    state: str
    step: int | None
    max_steps: int | None
    perplexity_before: float | None
    perplexity: float | None
    accuracy: float | None
    verdict: str | None
    num_bytes: int


def list_runs(folder: Path, console: Console, *, as_json: bool) -> None:
    """Print the runs in a folder and in its folders, those that were changed last first.

    Args:
        folder: The folder.
        console: Prints the table.
        as_json: Whether to print JSON, a list of `ListedRun`.

    Raises:
        ConfigError: It is no folder, or there are no runs in it.
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder}: there is no such folder; give one that has runs in it")
    paths = sorted(_runs_in(folder), key=lambda p: -(p / STATUS_FILE).stat().st_mtime_ns)
    if not paths:
        raise ConfigError(f"{folder}: there are no runs in it; give the folder of run.output_dir")
    runs = [_listed(path) for path in paths]
    if as_json:
        console.result(json.dumps([asdict(run) for run in runs], ensure_ascii=False))
    else:
        for line in table(list(_rows(runs)), left=(0, 1, 6)):
            console.result(line)


def _runs_in(folder: Path) -> Iterator[Path]:
    """Yield the directories of runs, without looking into what runs consist of."""
    for place, folders, files in os.walk(folder):
        if STATUS_FILE in files:
            yield Path(place)
            folders[:] = [name for name in folders if name not in OWN_FOLDERS]


def _listed(path: Path) -> ListedRun:
    run = RunDir(path)
    status = run.read_status()
    state = str(status.get("state", "unknown"))
    if state in ("preparing", "running") and not is_held(path):
        state = "killed"
    results = run.read_json("eval_results.json") or {}
    tested = run.read_json("test_results.json") or {}
    verdicts = (read_json(path / "report.json") or {}).get("verdicts", [])
    sizes = (
        (Path(place) / file).lstat().st_size for place, _, files in os.walk(path) for file in files
    )
    return ListedRun(
        run=str(path),
        state=state,
        step=status.get("step", results.get("step")),
        max_steps=status.get("max_steps"),
        perplexity_before=results.get("perplexity_before"),
        perplexity=results.get("perplexity"),
        accuracy=tested.get("accuracy"),
        verdict=verdicts[0]["label"] if verdicts else None,
        num_bytes=sum(sizes),
    )


def _rows(runs: list[ListedRun]) -> Iterator[list[str]]:
    yield ["run", "state", "step", "before", "perplexity", "accuracy", "verdict", "MB"]
    for run in runs:
        step = "" if run.step is None else f"{run.step:,}"
        if run.max_steps is not None and run.step != run.max_steps:
            step = f"{step} of {run.max_steps:,}"
        yield [
            run.run,
            run.state,
            step,
            "" if run.perplexity_before is None else perplexity(run.perplexity_before),
            "" if run.perplexity is None else perplexity(run.perplexity),
            "" if run.accuracy is None else share(run.accuracy),
            run.verdict or "",
            f"{run.num_bytes / 1e6:,.0f}",
        ]
