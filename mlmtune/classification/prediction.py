"""A classifier's logits and features of every example, or of every word, of a side."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from numpy.typing import NDArray

from mlmtune.classification.batches import Encoded, EncodedExamples, ExampleBatch
from mlmtune.classification.sentence_batches import EncodedSentences, SentenceBatch
from mlmtune.errors import DivergedError
from mlmtune.evaluation.scoring import FittingBatches, Stopped
from mlmtune.modeling.evaluation_mode import in_evaluation_mode
from mlmtune.training.stream import BatchT

Part = tuple[NDArray[np.int64], NDArray[np.float32]]
"""The numbers (r,) of some predictions, and these (r, C)."""


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


def predict_words(
    accelerator: Accelerator,
    model: Any,
    sentences: EncodedSentences,
    batch_size: int,
    should_stop: Callable[[], bool] = lambda: False,
) -> NDArray[np.float32] | None:
    """Return the logits of the words of a side; see `predict`.

    Returns:
        (W, K) in every process, NaN for a word that the tokenizer drops; None if it was stopped.
    """

    def logits(batch: SentenceBatch) -> Any:
        return model(**batch.inputs).logits[batch.is_predicted]

    predicted = _of_each(accelerator, model, sentences, batch_size, logits, should_stop)
    return None if predicted is None else sentences.spread(predicted)


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

    def states(batch: SentenceBatch) -> Any:
        with accelerator.autocast():
            return model.base_model(**batch.inputs)[0][batch.is_predicted]

    features = _of_each(accelerator, model, sentences, batch_size, states, lambda: False)
    assert features is not None  # nothing stops it
    return sentences.spread(features)


def _of_each(
    accelerator: Accelerator,
    model: Any,
    examples: Encoded[BatchT],
    batch_size: int,
    compute: Callable[[BatchT], torch.Tensor],
    should_stop: Callable[[], bool],
) -> NDArray[np.float32] | None:
    """Return (R, C) for the R predictions of all examples, of a function that returns a batch's.

    They are in the order of `Encoded.rows`.
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
    in_order: NDArray[np.float32] = values[np.argsort(rows, kind="stable")]
    return in_order
