"""Trains one loss curve of either side, from the same weights, chunks, rate, schedule and decay.

Neither side clips: run_mlm_no_trainer.py does not, and ours gets a bound that no gradient reaches.
The sides still differ in which tokens are masked and what replaces them (each has its own
collator), in the order of the chunks, and in all that the two loops do differently.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np

import ours
import peer
from mlmtune.config import Config
from mlmtune.modeling.device import build_accelerator
from mlmtune.tokens.chunking import ChunkView
from options import Setting

WEIGHT_DECAY = 0.01
NO_CLIPPING = 1e9


@dataclass(frozen=True)
class Curve:
    """The loss curve of one side and seed.

    Attributes:
        losses: Training loss by step.
        validation_loss: The loss of the result, by our evaluator on fixed masks.
        num_masked_tokens: The number of masked tokens behind the validation loss.
    """

    losses: list[float]
    validation_loss: float
    num_masked_tokens: int


def run(side: str, setting: Setting, learning_rate: float) -> Curve:
    """Train one side, save its model, and measure it."""
    result = setting.workspace / f"{side}-{setting.seed}"
    losses = CURVES[side](setting, learning_rate, result)
    measured = validate(replace(setting, model=result))
    return Curve(losses, measured["loss"], measured["num_masked_tokens"])


def _ours(setting: Setting, learning_rate: float, result: Path) -> list[float]:
    side = ours.Training(setting, _config(setting, learning_rate))
    losses = [side.step() for _ in range(setting.max_steps)]
    side.learner.module.save_pretrained(result)
    side.task.loaded.tokenizer.save_pretrained(result)
    return losses


def _peer(setting: Setting, learning_rate: float, result: Path) -> list[float]:
    setup = ours.load_setup(_config(setting, learning_rate), build_accelerator(setting.precision))
    view = setup.splits.train
    side = peer.Training(setting, learning_rate, WEIGHT_DECAY, chunks=as_dataset(view))
    losses = []
    for _ in range(setting.max_steps):
        side.step()
        losses.append(side.facts()["loss"])
    side.accelerator.unwrap_model(side.model).save_pretrained(result)
    side.tokenizer.save_pretrained(result)
    return losses


CURVES = {"ours": _ours, "peer": _peer}


def validate(setting: Setting) -> dict[str, Any]:
    """Measure a model's folder on all validation chunks."""
    accelerator = build_accelerator(setting.precision)
    setup = ours.load_setup(ours.config_for(setting), accelerator)
    assert not setup.loaded.new_weights, "a side left weights out"
    model = accelerator.prepare_model(setup.loaded.model, evaluation_mode=True)
    evaluation = setup.evaluator.run(accelerator, accelerator.unwrap_model(model), setup.head)
    assert evaluation is not None  # nothing stops this evaluation
    return evaluation.to_json()


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


def _config(setting: Setting, learning_rate: float) -> Config:
    return ours.config_for(
        setting,
        # Because the peer's loop drops the rest of each batch, and has whole sequences only.
        chunking={"last_chunk": "drop"},
        optimizer={
            "learning_rate": learning_rate,
            "weight_decay": WEIGHT_DECAY,
            "max_grad_norm": NO_CLIPPING,
            "schedule": "linear",
            "warmup_steps": 0,
        },
    )
