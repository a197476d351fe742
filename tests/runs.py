"""Runs in the process of the tests, and reading what they wrote."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from mlmtune.config_loading import load_config
from mlmtune.training import loop
from mlmtune.training.checkpoint_folders import list_checkpoints, step_of
from mlmtune.training.masked_lm import build_masked_lm
from mlmtune.training.run_options import RunOptions


@dataclass(frozen=True)
class Run:
    """A run's folder, read."""

    path: Path

    def json(self, name: str) -> dict[str, Any]:
        return json.loads((self.path / name).read_text(encoding="utf-8"))

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """metrics.jsonl, without what is measured in time."""
        lines = (self.path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        records = [json.loads(line) for line in lines]
        for record in records:
            record.pop("tokens_per_second", None)
        return records

    @property
    def losses(self) -> list[float]:
        return [record["loss"] for record in self.metrics if "loss" in record]

    @property
    def evaluations(self) -> dict[int, float]:
        """Validation loss by step."""
        return {r["step"]: r["eval_loss"] for r in self.metrics if "eval_loss" in r}

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        return load_file(self.path / "model" / "model.safetensors")

    @property
    def model_bytes(self) -> bytes:
        return (self.path / "model" / "model.safetensors").read_bytes()

    def checkpoint(self, step: int) -> Path:
        return self.path / "checkpoints" / f"checkpoint-{step}"

    @property
    def checkpoint_steps(self) -> list[int]:
        return sorted(step_of(path) for path in list_checkpoints(self.path / "checkpoints"))

    def times(self) -> dict[Path, int]:
        """When each file was last written, the lock apart."""
        files = (p for p in self.path.rglob("*") if p.is_file() and p.name != ".lock")
        return {path: path.stat().st_mtime_ns for path in files}


class Runs:
    """Runs in this process, each in a folder of its own."""

    def __init__(self, folder: Path, config_file: Callable[..., Path]) -> None:
        self._folder = folder
        self._config_file = config_file

    def config(self, name: str = "run", **sections: Any) -> Path:
        output = {"output_dir": str(self._folder / name), **sections.pop("run", {})}
        return self._config_file(f"{name}.yaml", run=output, **sections)

    def at(self, name: str = "run") -> Run:
        return Run(self._folder / name)

    def train(
        self,
        name: str = "run",
        *,
        resume: str = "never",
        overwrite: bool = False,
        allow_changes: bool = False,
        **sections: Any,
    ) -> Run:
        path = self.config(name, **sections)
        options = RunOptions(
            resume, overwrite, allow_changes, config_text=path.read_text(encoding="utf-8")
        )
        loop.train(load_config(path), options, build_masked_lm)
        return self.at(name)


def assert_same_end(run: Run, expected: Run) -> None:
    """Weights, moments, metrics and results, to the bit; but not how long they took."""
    assert run.model_bytes == expected.model_bytes
    step = expected.checkpoint_steps[-1]
    for name in ("model.safetensors", "optimizer.safetensors"):
        saved = (run.checkpoint(step) / name).read_bytes()
        assert saved == (expected.checkpoint(step) / name).read_bytes(), name
    assert run.metrics == expected.metrics
    assert run.json("eval_results.json") == expected.json("eval_results.json")
    results, others = run.json("train_results.json"), expected.json("train_results.json")
    for key in ("train_loss", "num_tokens", "num_masked_tokens", "global_step", "epoch"):
        assert results[key] == others[key]


def assert_same_course_from(step: int, run: Run, expected: Run) -> None:
    """Weights and metrics after a step, to the bit, of a run that was resumed elsewhere."""
    assert run.model_bytes == expected.model_bytes
    later = [record for record in expected.metrics if record["step"] > step]
    assert later
    assert run.metrics == later
