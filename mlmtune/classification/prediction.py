"""What a classifier says of every example of a side."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from numpy.typing import NDArray

from mlmtune.classification.batches import EncodedExamples, ExampleBatch
from mlmtune.errors import DivergedError
from mlmtune.evaluation.scoring import FittingBatches, any_should_stop


def predict(
    accelerator: Accelerator,
    model: Any,
    examples: EncodedExamples,
    batch_size: int,
    should_stop: Callable[[], bool] = lambda: False,
) -> NDArray[np.float32] | None:
    """The logits of all examples; the model's training mode is put back as it was.

    Args:
        accelerator: shares the examples over its processes.
        model: on the accelerator's device, prepared by it.
        examples: of one side.
        batch_size: how many at once; those of like length go together.
        should_stop: asked between batches; True in any process gives up in all of them.

    Returns:
        (n, K) in every process; None if it was told to stop.

    Raises:
        DivergedError: a logit is not a finite number.
        ResourceError: memory does not suffice for one example.
    """

    def logits(batch: ExampleBatch) -> torch.Tensor:
        found: torch.Tensor = model(**batch.inputs).logits
        return found

    return _of_each(accelerator, model, examples, batch_size, logits, should_stop)


def mean_pooled(
    accelerator: Accelerator, model: Any, examples: EncodedExamples, batch_size: int
) -> NDArray[np.float32]:
    """The mean of the encoder's last hidden states over the tokens of each example.

    Args:
        accelerator: shares the examples over its processes.
        model: a classifier of transformers, on the accelerator's device.
        examples: of one side.
        batch_size: how many at once.

    Returns:
        (n, H) in every process.

    Raises:
        DivergedError: one is not a finite number.
        ResourceError: memory does not suffice for one example.
    """

    def pooled(batch: ExampleBatch) -> torch.Tensor:
        with accelerator.autocast():
            states: torch.Tensor = model.base_model(**batch.inputs)[0]
        mask = batch.inputs["attention_mask"][..., None]
        return (states.float() * mask).sum(dim=1) / mask.sum(dim=1)

    features = _of_each(accelerator, model, examples, batch_size, pooled, lambda: False)
    assert features is not None  # nothing stops it
    return features


def _of_each(
    accelerator: Accelerator,
    model: Any,
    examples: EncodedExamples,
    batch_size: int,
    compute: Callable[[ExampleBatch], torch.Tensor],
    should_stop: Callable[[], bool],
) -> NDArray[np.float32] | None:
    """(n, C) what is computed of each example, from (B, C) of a batch; see `predict`."""
    order = np.argsort(examples.lengths, kind="stable")
    mine = order[accelerator.process_index :: accelerator.num_processes]
    largest_share = -(-len(order) // accelerator.num_processes)
    batches = FittingBatches(batch_size, "data.max_length")

    def of_batch(numbers: NDArray[np.int64]) -> NDArray[np.float32]:
        batch = examples.batch(numbers).to(accelerator.device)
        found: NDArray[np.float32] = compute(batch).float().cpu().numpy()
        return found

    parts: list[NDArray[np.float32]] = []
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            for number, start in enumerate(range(0, largest_share, batch_size)):
                if any_should_stop(accelerator, number, should_stop):
                    return None
                numbers = mine[start : start + batch_size]
                if len(numbers) > 0:
                    parts += batches.map(of_batch, numbers)
    finally:
        model.train(was_training)
    # A process whose share is empty has nothing to give.
    found = np.concatenate(gather_object(parts))
    count = accelerator.num_processes
    values = np.empty_like(found)
    values[np.concatenate([order[number::count] for number in range(count)])] = found
    if not np.isfinite(values).all():
        raise DivergedError(
            "the classifier gives numbers that are not finite; its weights are broken: start from "
            "another checkpoint, or lower optimizer.learning_rate"
        )
    return values
