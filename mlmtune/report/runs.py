"""Finished runs, read from their directories."""

from dataclasses import dataclass
from pathlib import Path

from mlmtune.config import Config
from mlmtune.config_loading import load_config
from mlmtune.errors import ConfigError
from mlmtune.report.findings import Run
from mlmtune.training.run_dir import RESOLVED_CONFIG, finished_run_dir

RECORDS = ("corpus", "train_results", "eval_results", "environment")
"""The JSON files of a run that a report shows."""


@dataclass(frozen=True)
class FinishedRun:
    """A run that has finished.

    Attributes:
        num_broken_lines: The number of lines of metrics.jsonl that cannot be read.
        config: The config of the run with every `auto` decided.
        record: How the run went, as a report shows it; its name is that of the directory.
    """

    path: Path
    num_broken_lines: int
    config: Config
    record: Run

    @property
    def model(self) -> Path:
        """The folder of its result."""
        return self.path / "model"


def read_finished_run(path: Path) -> FinishedRun:
    """Read a run's directory.

    Raises:
        ConfigError: There is no run, or it has not finished.
        CheckpointError: A file of the run is missing or damaged.
    """
    run = finished_run_dir(path)
    path = run.path
    if run.read_json("data.json") is not None:
        raise ConfigError(
            f"{path}: a classifier's run, and not one of a masked language model; compare models "
            "on a task with mlmtune probe"
        )
    records = {name: run.read_json(f"{name}.json") for name in RECORDS}
    resolved = path / RESOLVED_CONFIG
    metrics, num_broken_lines = run.read_metrics()
    return FinishedRun(
        path=path,
        num_broken_lines=num_broken_lines,
        config=load_config(resolved),
        record=Run(
            name=path.name,
            path=str(path),
            steps=tuple(record for record in metrics if "loss" in record),
            evaluations=tuple(record for record in metrics if "eval_loss" in record),
            config=resolved.read_text(encoding="utf-8"),
            **{name: content for name, content in records.items() if content is not None},
        ),
    )
