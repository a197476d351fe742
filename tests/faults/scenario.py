"""The run that meets the faults."""

from typing import Any

from runs import Run

from mlmtune.training.checkpoint import find_fault

SECTIONS: dict[str, dict[str, Any]] = {
    # Three micro-batches per step; epochs end in steps 4 and 7.
    "model": {"dropout": 0.1},
    "training": {"max_steps": 7, "global_batch_size": 32, "micro_batch_size": 12, "log_every": 1},
    "evaluation": {"every": 3},
    "checkpoint": {"every": 2, "keep": 2, "export": "last"},
}
FILES = ["config.json", "model.safetensors", "optimizer.safetensors", "state.json",
         "tokenizer.json", "tokenizer_config.json", "MANIFEST.json"]  # fmt: skip
"""Of a checkpoint."""


def whole_steps(run: Run) -> list[int]:
    """Steps whose checkpoints are whole."""
    return [step for step in run.checkpoint_steps if find_fault(run.checkpoint(step)) is None]
