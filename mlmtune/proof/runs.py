"""Finished runs, read from their directories."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from mlmtune.config import Config
from mlmtune.config_loading import load_config
from mlmtune.errors import ConfigError
from mlmtune.proof.findings import Run
from mlmtune.training.run_dir import LOCK_FILE, RunDir

RECORDS = (
    "corpus.json", "train_results.json", "eval_results.json", "environment.json",
)  # fmt: skip


@dataclass(frozen=True)
class FinishedRun:
    """A run that has come to its end.

    Attributes:
        path: its directory, as the user gave it.
        config: its config with every `auto` decided.
        record: how it went, as a report shows it; its name is that of the directory.
    """

    path: Path
    config: Config
    record: Run

    @property
    def model(self) -> Path:
        """Where its result lies."""
        return self.path / "model"


def open_run(path: Path) -> FinishedRun:
    """Read a run's directory.

    Raises:
        ConfigError: there is no run, it goes on still, it did not come to its end, or its files are
            not whole.
    """
    run = RunDir(path)
    status = run.read_json("status.json")
    if status is None:
        raise ConfigError(f"{path}: there is no run in it (no status.json); give a run.output_dir")
    _check_is_finished(path, status)
    if not (run.model / "config.json").is_file():
        raise ConfigError(f"{path}: there is no model in it; train again with --overwrite")
    if run.read_json("data.json") is not None:
        raise ConfigError(
            f"{path}: a classifier's run; reports are on masked language models. To compare models "
            "on a task: mlmtune probe"
        )
    records = {name.removesuffix(".json"): run.read_json(name) for name in RECORDS}
    missing = [f"{name}.json" for name, content in records.items() if content is None]
    if missing:
        raise ConfigError(
            f"{path}: {missing[0]} is missing or broken; put it back, or train again with "
            "--overwrite"
        )
    resolved = path / "config.resolved.yaml"
    metrics = _read_metrics(run.metrics)
    return FinishedRun(
        path=path,
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


def _check_is_finished(path: Path, status: dict[str, Any]) -> None:
    if status.get("state") == "finished":
        return
    where = f"step {status['step']} of {status['max_steps']}" if "step" in status else "the start"
    if _is_held(path):
        raise ConfigError(
            f"{path}: the run is in progress (process {status.get('pid')}, at {where}); wait for it"
        )
    raise ConfigError(
        f"{path}: the run did not come to its end (it stopped at {where}); go on with the command "
        "that started it and --resume auto"
    )


def _is_held(path: Path) -> bool:
    """Whether a process is writing there."""
    if not (path / LOCK_FILE).exists():
        return False
    try:
        with FileLock(path / LOCK_FILE, timeout=0):
            return False
    except Timeout:
        return True


def _read_metrics(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
