"""What a classifier says of every example of a side."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray

from mlmtune.classification.batches import EncodedExamples
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
    order = np.argsort(examples.lengths, kind="stable")
    mine = order[accelerator.process_index :: accelerator.num_processes]
    largest_share = -(-len(order) // accelerator.num_processes)
    logits = np.zeros((len(order), model.config.num_labels), dtype=np.float32)
    batches = FittingBatches(batch_size, "data.max_length")

    def of_batch(numbers: NDArray[np.int64]) -> NDArray[np.float32]:
        batch = examples.batch(numbers).to(accelerator.device)
        found: NDArray[np.float32] = model(**batch.inputs).logits.float().cpu().numpy()
        return found

    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            for number, start in enumerate(range(0, largest_share, batch_size)):
                if any_should_stop(accelerator, number, should_stop):
                    return None
                numbers = mine[start : start + batch_size]
                if len(numbers) > 0:
                    parts = batches.map(of_batch, numbers, accelerator.device)
                    logits[numbers] = np.concatenate(parts)
    finally:
        model.train(was_training)
    if accelerator.num_processes > 1:
        on_device = torch.from_numpy(logits).to(accelerator.device)
        logits = accelerator.reduce(on_device, reduction="sum").cpu().numpy()
    if not np.isfinite(logits).all():
        raise DivergedError(
            "the classifier gives numbers that are not finite; its weights are broken: start from "
            "another checkpoint, or lower optimizer.learning_rate"
        )
    return logits
