"""Trains one side for a curve of validation loss by seconds of training.

All sides start from the same weights, train on the same chunks, and are measured by the same
evaluator on the same masks, whose time does not count. `engine` has the hyperparameters of the
peer's script, and `recommended` our defaults with what `mlmtune check` says is worth a try.
"""

from dataclasses import asdict, dataclass
from typing import Any

import datasets
import numpy as np

import ours
import peer
from interleaved import Block
from mlmtune.config import Config
from mlmtune.modeling.device import build_accelerator
from mlmtune.tokens.chunking import ChunkView
from mlmtune.training.advice import faster_settings
from options import Setting

WARMUP_STEPS = 2
"""The first steps allocate memory; they are taken by a learner that is then discarded."""

NO_CLIPPING = 1e9

SCRIPT = {
    "weight_decay": 0.0,
    "max_grad_norm": NO_CLIPPING,
    "schedule": "linear",
    "warmup_steps": 0,
}
"""The optimizer of run_mlm_no_trainer.py, by the names of our config."""


@dataclass(frozen=True)
class Point:
    """A point of a curve: the steps and seconds of training so far, and the validation loss."""

    step: int
    seconds: float
    loss: float


class Validation:
    """Measures the weights of any side in a model of its own."""

    def __init__(self, config: Config) -> None:
        self.accelerator = build_accelerator(config.training.precision)
        self.setup = ours.load_setup(config, self.accelerator)
        self.model = self.accelerator.prepare_model(self.setup.loaded.model, evaluation_mode=True)

    def loss(self, module: Any) -> float:
        """Return the mean loss of the masked validation tokens with the weights of a model."""
        model = self.accelerator.unwrap_model(self.model)
        model.load_state_dict(module.state_dict())
        evaluation = self.setup.evaluator.run(self.accelerator, model, self.setup.head)
        assert evaluation is not None  # nothing stops this evaluation
        return evaluation.loss


class Side:
    """Takes steps, and measures the validation loss after each turn and before the first.

    Args:
        name: `peer`, `engine` or `recommended`.
        setting: The setting; `max_steps` is where the side's schedule ends, after which it does
            nothing.
        learning_rate: The peak of the peer and of the engine.
    """

    def __init__(self, name: str, setting: Setting, learning_rate: float) -> None:
        sections = {"optimizer": {**SCRIPT, "learning_rate": learning_rate}}
        if name == "recommended":
            task = ours.Training(setting).task
            sections = faster_settings(task.config, task.loaded, task.plan)
        # Because the peer's loop takes whole sequences only.
        config = ours.config_for(setting, chunking={"last_chunk": "drop"}, **sections)
        self.validation = Validation(config)
        chunks = as_dataset(self.validation.setup.splits.train) if name == "peer" else None
        self.max_steps = setting.max_steps

        def begin() -> Any:
            if chunks is None:
                return ours.Training(setting, config)
            return peer.Training(setting, config.optimizer.learning_rate, chunks=chunks)

        begin().run(WARMUP_STEPS)
        self.training = begin()
        self.curve = [Point(0, 0.0, self._measure())]

    def _measure(self) -> float:
        return self.validation.loss(self.training.module)

    def run(self, num_steps: int) -> Block:
        """Train for a turn, and then measure."""
        last = self.curve[-1]
        num_steps = min(num_steps, self.max_steps - last.step)
        block: Block = self.training.run(num_steps)
        if num_steps:
            point = Point(last.step + num_steps, last.seconds + block.seconds, self._measure())
            self.curve.append(point)
        return block

    def facts(self) -> dict[str, Any]:
        return {"curve": [asdict(point) for point in self.curve]}


def as_dataset(view: ChunkView) -> datasets.Dataset:
    """Return our chunks as the rows that the peer's loop takes."""
    chunks = view.batch(np.arange(len(view)))
    return datasets.Dataset.from_dict(
        {
            "input_ids": chunks.input_ids.tolist(),
            "token_type_ids": np.zeros_like(chunks.input_ids).tolist(),
            "attention_mask": np.ones_like(chunks.input_ids).tolist(),
            "special_tokens_mask": chunks.special_tokens_mask.astype(int).tolist(),
        }
    )
