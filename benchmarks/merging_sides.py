"""The two sides of merging.py: ours, and the usual script, which loads both models."""

import time
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForMaskedLM

from interleaved import Block
from mlmtune.config import ModelConfig
from mlmtune.merging.interpolation import Interpolation
from mlmtune.modeling.loading import LoadedModel, ModelRequest, load_pretrained
from mlmtune.training.checkpoint import save_model
from mlmtune.training.environment import peak_memory_bytes

ALPHA = 0.5
CPU = torch.device("cpu")


def load(folder: Path) -> LoadedModel:
    request = ModelRequest(ModelConfig(name_or_path=str(folder)), 128, CPU, "fp32", seed=0)
    return load_pretrained(request, "mlm")


def adapt(base: Path, workspace: Path) -> Path:
    """Write what a run could have made of a model."""
    loaded = load(base)
    with torch.no_grad():
        for parameter in loaded.model.parameters():
            parameter.add_(0.01)
    save_model(workspace / "adapted", loaded)
    return workspace / "adapted"


class Side:
    """Merges two models into a folder.

    Args:
        base: The folder of one model.
        adapted: The folder of the other.
        target: The folder to write, which is made.
    """

    def __init__(self, base: Path, adapted: Path, target: Path) -> None:
        self.base, self.adapted, self.target = base, adapted, target
        target.mkdir()

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
        Interpolation(load(self.base), str(self.base), [self.adapted]).write(self.target, ALPHA)


class Peer(Side):
    """Loads both models, and saves the mean of their state dicts."""

    def merge(self) -> None:
        model, other = (
            AutoModelForMaskedLM.from_pretrained(folder, dtype=torch.float32)
            for folder in (self.base, self.adapted)
        )
        weights = other.state_dict()
        mean = {name: t.lerp(weights[name], ALPHA) for name, t in model.state_dict().items()}
        model.load_state_dict(mean)
        model.save_pretrained(self.target)
