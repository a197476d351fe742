"""How far two forms of one model agree on text, and how fast each of them is."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from statistics import median
from typing import Any

import numpy as np
import torch

from mlmtune.evaluation.scoring import FixedMasks
from mlmtune.masking.collator import MaskedBatch
from mlmtune.modeling.evaluation_mode import in_evaluation_mode
from mlmtune.modeling.pair_head import token_logits

NUM_CHUNKS = 32
"""How many chunks are compared, at most."""

SEQUENCES = (1, 8)
"""How many sequences a batch has, when models are compared and timed."""

NUM_ROUNDS = 5
"""How often each model is timed."""


@dataclass(frozen=True)
class Agreement:
    """How far the logits of two models agree.

    Attributes:
        largest_difference: The largest absolute difference of two logits.
        largest_logit: The largest absolute value of a logit of the first model.
        same_token_share: The share of positions at which both have the same likeliest token.
        num_positions: The number of positions that were compared, without padding.
    """

    largest_difference: float
    largest_logit: float
    same_token_share: float
    num_positions: int


def measure_agreement(first: Any, second: Any, masks: FixedMasks) -> Agreement:
    """Compare two models on masked chunks of text, one by one and in batches of uneven lengths.

    Args:
        first: A masked language model on the CPU.
        second: Another form of it.
        masks: The chunks, of which the first `NUM_CHUNKS` are compared.
    """
    differences, logits, num_same, num_positions = [0.0], [0.0], 0, 0
    with in_evaluation_mode(first), torch.inference_mode():
        for inputs in _batches(masks):
            keep = inputs["attention_mask"].bool()
            one, other = (_logits(model, inputs)[keep] for model in (first, second))
            differences.append(float((one - other).abs().max()))
            logits.append(float(one.abs().max()))
            num_same += int((one.argmax(dim=-1) == other.argmax(dim=-1)).sum())
            num_positions += len(one)
    return Agreement(
        # Not max(), which may pass over what is not a number.
        float(np.max(differences)), float(np.max(logits)), num_same / num_positions, num_positions
    )  # fmt: skip


def _batches(masks: FixedMasks) -> Sequence[dict[str, torch.Tensor]]:
    chunks = masks.chunks[:NUM_CHUNKS]
    together = SEQUENCES[-1]
    batches = [_inputs(masks.batch(np.asarray([chunk]))) for chunk in chunks[:together]]
    for start in range(0, len(chunks), together):
        inputs = _inputs(masks.batch(chunks[start : start + together]))
        length = inputs["input_ids"].shape[1]
        for row, mask in enumerate(inputs["attention_mask"]):
            mask[max(length - row * length // together, 1) :] = 0
        batches.append(inputs)
    return batches


def _inputs(batch: MaskedBatch) -> dict[str, torch.Tensor]:
    """Return the inputs of a batch, with a mask where nothing is padded, too."""
    return {"attention_mask": torch.ones_like(batch.input_ids)} | batch.model_inputs()


def _logits(model: Any, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Compute (B, T, V) logits from the inputs that a model takes; FNet takes no mask."""
    taken = signature(model.forward).parameters
    return token_logits(model(**{name: of for name, of in inputs.items() if name in taken}))


def tokens_per_second(models: Mapping[str, Any], masks: FixedMasks) -> dict[str, dict[str, float]]:
    """Return the speed of each model for each number of sequences, the median of several rounds.

    The models take turns, so that what else the machine does slows all of them.

    Args:
        models: Masked language models on the CPU, by name.
        masks: Chunks of text.

    Returns:
        By the name of the model and the number of sequences: tokens per second.
    """
    speeds = {name: {str(size): [0.0] for size in SEQUENCES} for name in models}
    for size in SEQUENCES:
        inputs = _inputs(masks.batch(np.resize(masks.chunks, size)))
        num_tokens = inputs["input_ids"].numel()
        for round_number in range(NUM_ROUNDS + 1):
            for name, model in models.items():
                with in_evaluation_mode(model), torch.inference_mode():
                    began = time.perf_counter()
                    _logits(model, inputs)
                    speed = num_tokens / (time.perf_counter() - began)
                if round_number:  # the first round warms up
                    speeds[name][str(size)].append(speed)
    return {
        name: {size: median(rounds[1:]) for size, rounds in of_model.items()}
        for name, of_model in speeds.items()
    }
