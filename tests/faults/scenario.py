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
IN_PHASES: dict[str, Any] = {
    **SECTIONS,
    # The first phase ends in step 4, where a checkpoint is due anyway.
    "training": {**SECTIONS["training"], "max_steps": None},
    "phases": [
        {"name": "stable", "max_steps": 4, "schedule": "constant", "mlm_probability": 0.3},
        {"name": "decay", "max_steps": 3, "schedule": "one_minus_sqrt", "global_batch_size": 20,
         "strategy": "whole_word"},
    ],
}  # fmt: skip
"""The same run with a border between two phases."""

FILES = ["config.json", "model.safetensors", "optimizer.safetensors", "state.json",
         "tokenizer.json", "tokenizer_config.json", "MANIFEST.json"]  # fmt: skip
"""Of a checkpoint."""


def whole_steps(run: Run) -> list[int]:
    """Steps whose checkpoints are whole."""
    return [step for step in run.checkpoint_steps if find_fault(run.checkpoint(step)) is None]
