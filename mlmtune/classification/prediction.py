"""A classifier's logits and features of every example, or of every word, of a side."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from numpy.typing import NDArray

from mlmtune.classification.batches import (
    Encoded,
    EncodedExamples,
    ExampleBatch,
    LabelledBatchT,
)
from mlmtune.classification.sentence_batches import EncodedSentences, SentenceBatch
from mlmtune.errors import DivergedError
from mlmtune.evaluation.scoring import FittingBatches, Stopped
from mlmtune.modeling.evaluation_mode import in_evaluation_mode

Part = tuple[NDArray[np.int64], NDArray[np.float32]]
"""The numbers (r,) of some predictions, and these (r, C)."""


def predict(
    accelerator: Accelerator,
    model: Any,
    examples: Encoded[LabelledBatchT],
    batch_size: int,
    should_stop: Callable[[], bool] = lambda: False,
) -> NDArray[np.float32] | None:
    """Return the logits of a side by a model that the accelerator has prepared.

    Sequences of similar length are in the same batch. The model is left in its training mode.
    `should_stop` is called between batches; True in any process stops all of them.

    Returns:
        (R, K) in every process, NaN for a word that the tokenizer drops; None if it was stopped.

    Raises:
        DivergedError: A logit is not a finite number.
        ResourceError: Memory does not suffice for one sequence.
    """

    def logits(batch: LabelledBatchT) -> torch.Tensor:
        return batch.of_predictions(model(**batch.inputs).logits)

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


def first_pieces(
    accelerator: Accelerator, model: Any, sentences: EncodedSentences, batch_size: int
) -> NDArray[np.float32]:
    """Return the encoder's last hidden state at the first piece of each word; see `predict`.

    Returns:
        (W, H) in every process, NaN for a word that the tokenizer drops.
    """

    def states(batch: SentenceBatch) -> torch.Tensor:
        with accelerator.autocast():
            return batch.of_predictions(model.base_model(**batch.inputs)[0])

    features = _of_each(accelerator, model, sentences, batch_size, states, lambda: False)
    assert features is not None  # nothing stops it
    return features


def _of_each(
    accelerator: Accelerator,
    model: Any,
    examples: Encoded[LabelledBatchT],
    batch_size: int,
    compute: Callable[[LabelledBatchT], torch.Tensor],
    should_stop: Callable[[], bool],
) -> NDArray[np.float32] | None:
    """Return (R, C) the predictions of a side, by a function that returns those of a batch.

    NaN where there is none.
    """
    order = np.argsort(examples.lengths, kind="stable")  # so that batches are padded little
    batches = FittingBatches(batch_size, "data.max_length")

    def of_batch(numbers: NDArray[np.int64]) -> Part:
        batch = examples.batch(numbers).to(accelerator.device)
        return examples.rows(numbers), compute(batch).float().cpu().numpy()

    parts: list[Part] = []
    try:
        with in_evaluation_mode(model), torch.inference_mode():
            for _, results in batches.over(order, [of_batch], accelerator, should_stop):
                parts += results
    except Stopped:
        return None
    # A process whose share is empty has no parts to send.
    gathered: list[Part] = gather_object(parts)
    rows = np.concatenate([numbers for numbers, _ in gathered])
    values = np.concatenate([computed for _, computed in gathered])
    if not np.isfinite(values).all():
        raise DivergedError(
            "the classifier gives numbers that are not finite; its weights are broken: start from "
            "another checkpoint, or lower optimizer.learning_rate"
        )
    predictions = np.full((examples.num_predictions, values.shape[1]), np.nan, dtype=np.float32)
    predictions[rows] = values
    return predictions
