"""A classifier's logits and features of every example of a side."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from numpy.typing import NDArray

from mlmtune.classification.batches import EncodedExamples, ExampleBatch
from mlmtune.errors import DivergedError
from mlmtune.evaluation.scoring import FittingBatches, Stopped
from mlmtune.modeling.evaluation_mode import in_evaluation_mode


def predict(
    accelerator: Accelerator,
    model: Any,
    examples: EncodedExamples,
    batch_size: int,
    should_stop: Callable[[], bool] = lambda: False,
) -> NDArray[np.float32] | None:
    """Return the logits of n examples by a classifier that the accelerator has prepared.

    Examples of similar length are in the same batch. The model is left in its training mode.
    `should_stop` is called between batches; True in any process stops all of them.

    Returns:
        (n, K) in every process; None if it was stopped.

    Raises:
        DivergedError: A logit is not a finite number.
        ResourceError: Memory does not suffice for one example.
    """

    def logits(batch: ExampleBatch) -> Any:
        return model(**batch.inputs).logits

    return _of_each(accelerator, model, examples, batch_size, logits, should_stop)


def mean_pooled(
    accelerator: Accelerator, model: Any, examples: EncodedExamples, batch_size: int
) -> NDArray[np.float32]:
    """Return the mean of the encoder's last hidden states over the tokens of each example.

    The arguments and the errors are those of `predict`.

    Returns:
        (n, H) in every process.
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
    """Return (n, C) for all examples, of a function that returns (B, C) for a batch."""
    order = np.argsort(examples.lengths, kind="stable")  # so that batches are padded little
    batches = FittingBatches(batch_size, "data.max_length")

    def of_batch(numbers: NDArray[np.int64]) -> NDArray[np.float32]:
        batch = examples.batch(numbers).to(accelerator.device)
        computed: NDArray[np.float32] = compute(batch).float().cpu().numpy()
        return computed

    parts: list[NDArray[np.float32]] = []
    try:
        with in_evaluation_mode(model), torch.inference_mode():
            for _, results in batches.over(order, [of_batch], accelerator, should_stop):
                parts += results
    except Stopped:
        return None
    # A process whose share is empty has no parts to send.
    gathered = np.concatenate(gather_object(parts))
    num_processes = accelerator.num_processes
    values = np.empty_like(gathered)
    values[np.concatenate([order[i::num_processes] for i in range(num_processes)])] = gathered
    if not np.isfinite(values).all():
        raise DivergedError(
            "the classifier gives numbers that are not finite; its weights are broken: start from "
            "another checkpoint, or lower optimizer.learning_rate"
        )
    return values
