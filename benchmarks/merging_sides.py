"""The sides of merging.py: ours, with and without measuring, and the usual script."""

import time
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import AutoModelForMaskedLM

from interleaved import Block
from mlmtune.commands.merge import merge_runs
from mlmtune.commands.merge_grid import plan_merge
from mlmtune.config import ModelConfig
from mlmtune.config_loading import load_config
from mlmtune.console import Console
from mlmtune.merging.interpolation import Interpolation
from mlmtune.modeling.loading import ModelRequest, load_pretrained
from mlmtune.report.runs import read_finished_run
from mlmtune.training.environment import peak_memory_bytes
from mlmtune.training.loop import train
from mlmtune.training.masked_lm import build_masked_lm
from mlmtune.training.run_options import RunOptions

ALPHA = 0.5
CPU = torch.device("cpu")
TOPICS = {
    "format": "python", "path": "package://pydoc_data/topics.py", "text_field": "topics",
    "max_documents": 60,
}  # fmt: skip
"""Pages that come with Python; half of them suffice to measure retrieval."""


def adapt(base: Path, workspace: Path) -> Path:
    """Train a model for one step, and return the directory of the run."""
    run = workspace / "run"
    config = workspace / "config.yaml"
    settings = {
        "run": {"output_dir": str(run)},
        "model": {"name_or_path": str(base)},
        "corpus": {"sources": [TOPICS], "validation_fraction": 0.5},
        "tokenization": {"cache_dir": str(workspace / "cache")},
        "chunking": {"chunk_length": 128},
        "training": {"max_steps": 1, "global_batch_size": 2, "precision": "fp32"},
        "evaluation": {"max_chunks": 32, "mask_draws": 1},
    }
    config.write_text(yaml.safe_dump(settings), encoding="utf-8")
    options = RunOptions("never", False, False, config_text=config.read_text(encoding="utf-8"))
    train(load_config(config), options, build_masked_lm)
    return run


class Side:
    """Merges a run with its base into a folder.

    Args:
        base: The folder of the base.
        run: The directory of the run.
        target: The folder to write.
    """

    def __init__(self, base: Path, run: Path, target: Path) -> None:
        self.base, self.of_run, self.target = base, run, target

    def run(self, num_steps: int) -> Block:
        start = time.perf_counter()
        self.merge()
        return Block(num_steps, num_steps, time.perf_counter() - start)

    def facts(self) -> dict[str, Any]:
        return {"peak_memory_bytes": peak_memory_bytes(CPU)}

    def merge(self) -> None:
        raise NotImplementedError


class Ours(Side):
    """Reads one tensor at a time."""

    def merge(self) -> None:
        request = ModelRequest(ModelConfig(name_or_path=str(self.base)), 128, CPU, "fp32", seed=0)
        loaded = load_pretrained(request, "mlm")
        weights = Interpolation(loaded, "base", [self.of_run / "model"], self.target / "base")
        del loaded
        weights.write(self.target, ALPHA)


class Measured(Side):
    """Is the whole command, which measures three models before it writes one."""

    def merge(self) -> None:
        plan = plan_merge([self.of_run], [], None, ALPHA, self.target)
        runs = [read_finished_run(self.of_run)]
        merge_runs(runs, [], [], plan, Console(is_quiet=True))


class Peer(Side):
    """Loads both models, and saves the mean of their state dicts."""

    def merge(self) -> None:
        model, other = (
            AutoModelForMaskedLM.from_pretrained(folder, dtype=torch.float32)
            for folder in (self.base, self.of_run / "model")
        )
        weights = other.state_dict()
        mean = {name: t.lerp(weights[name], ALPHA) for name, t in model.state_dict().items()}
        model.load_state_dict(mean)
        model.save_pretrained(self.target)
