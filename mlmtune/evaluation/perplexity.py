"""Perplexity on fixed masks: summed over tokens, divided once.

Perplexity is exp of the mean cross entropy, in nats, over the masked tokens. It is measured on
chunks whatever the objective is, so that runs compare; an objective with pairs is also measured on
pairs.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import count
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray

from mlmtune.config import EvaluationConfig
from mlmtune.errors import DataError, DivergedError
from mlmtune.evaluation.known_text import KnownText
from mlmtune.evaluation.scoring import (
    NOTHING_MASKED,
    FittingBatches,
    FixedMasks,
    Numbers,
    TokenScores,
    any_should_stop,
)
from mlmtune.modeling.masked_head import PAIR_ACCURACY, PAIR_LABEL_SHARE, PAIR_LOSS, MaskedHead
from mlmtune.numbers import perplexity, share
from mlmtune.printable import counted
from mlmtune.tokens.pairs import PairSequences

LARGEST_EXPONENT = 709.0
"""The exp of a larger number does not fit a float."""

LEAST_SAID = 0.01
"""Least share of unknown tokens that an evaluation mentions."""

NUM_SUMS = 9
"""How many sums a batch yields; see `Evaluator`."""

Sums = NDArray[np.float64]


@dataclass(frozen=True)
class Evaluation:
    """The result of an evaluation, under the names of eval_results.json.

    Attributes:
        loss: Mean cross entropy of the predictions, in nats: one sum over all draws of the masks,
            divided once.
        perplexity: exp(loss); None where that does not fit a float.
        perplexity_interval: 95 % interval, from the spread between chunks. A chunk counts once,
            however often it was masked. None with one chunk.
        accuracy: Share of the predictions whose likeliest token is right.
        accuracy_top5: Share of the predictions with the right token among the five likeliest.
        num_masked_tokens: How many tokens of the text were predicted. A token that was masked in
            two draws counts once.
        num_chunks: How many chunks were evaluated.
        num_mask_draws: How many times each chunk was masked.
        num_predictions: How many predictions the loss is the mean of. A token that was masked in
            two draws counts twice.
        unknown_token_share: Share of the text's tokens that the tokenizer does not know; they are
            not masked.
        unknown_byte_share: Share of the text's bytes that those tokens stand for.
        pair_loss: Mean cross entropy of the pairs' labels, in nats; None without pairs.
        pair_accuracy: Share of the pairs that were classified correctly.
        pair_label_share: Share of the pairs with label 1, whose segments do not belong together in
            this order. A constant answer is right in this share of the pairs, or in the rest.
        num_pairs: How many pairs were evaluated.
        general: The evaluation on general text; None where there is none.
    """

    loss: float
    perplexity: float | None
    perplexity_interval: tuple[float, float] | None
    accuracy: float
    accuracy_top5: float
    num_masked_tokens: int
    num_chunks: int
    num_mask_draws: int
    num_predictions: int
    unknown_token_share: float
    unknown_byte_share: float
    pair_loss: float | None = None
    pair_accuracy: float | None = None
    pair_label_share: float | None = None
    num_pairs: int | None = None
    general: "Evaluation | None" = None

    @property
    def criterion(self) -> float:
        """The number that is least for the best weights: the loss on the domain's text."""
        return self.loss

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values, without those of pairs that were not measured."""
        fields = asdict(self)
        del fields["general"]
        if self.num_pairs is None:
            for name in ("pair_loss", "pair_accuracy", "pair_label_share", "num_pairs"):
                del fields[name]
        if self.general is not None:
            general = self.general.to_json()
            fields |= {f"general_{name}": value for name, value in general.items()}
        return fields

    def describe(self) -> str:
        """Return one line for people."""
        draws = f" ({self.num_mask_draws} draws of masks)" if self.num_mask_draws > 1 else ""
        unknown = ""
        if self.unknown_token_share >= LEAST_SAID:
            unknown = f"; {share(self.unknown_token_share)} of the tokens are unknown and left out"
        pairs = ""
        if self.pair_accuracy is not None and self.pair_label_share is not None:
            pairs = (
                f"; {share(self.pair_accuracy)} of {counted(self.num_pairs or 0, 'pair')} right "
                f"({share(self.pair_label_share)} do not belong together)"
            )
        shown = perplexity(self.perplexity, self.perplexity_interval)
        return (
            f"perplexity {shown}, accuracy {share(self.accuracy)} "
            f"on {counted(self.num_masked_tokens, 'masked token')}{draws}{unknown}{pairs}"
            + (f"; general text: {self.general.describe()}" if self.general is not None else "")
        )


class Evaluator:
    """Measures a model on fixed masks.

    Args:
        masks: The chunks to measure on.
        config: The batch size, on which the result does not depend; for pairs, how many are
            measured and at which masking rate.
        pairs: Validation pairs, drawn by `evaluation.seed`; None for an objective without pairs.

    Attributes:
        masks: The chunks to measure on.
        known_text: How much of their text the tokenizer knows.
    """

    def __init__(
        self,
        masks: FixedMasks,
        config: EvaluationConfig,
        pairs: PairSequences | None = None,
    ) -> None:
        self.masks = masks
        self.known_text = KnownText.of(masks.view)
        self._mlm_probability = config.mlm_probability
        self._batch_size = config.batch_size
        self._batches = FittingBatches(config.batch_size, "chunking.chunk_length")
        self._pairs = pairs
        # Pairs are in a drawn order already, so the first ones are a random subset.
        self._pair_numbers = np.arange(0 if pairs is None else len(pairs))[: config.max_chunks]

    def run(
        self,
        accelerator: Accelerator,
        model: Any,
        head: MaskedHead,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> Evaluation | None:
        """Evaluate `model`, and leave it in the training mode that it was in.

        Args:
            accelerator: Divides the chunks among its processes.
            model: The model on the accelerator's device, prepared by it.
            head: Runs the model on masked positions.
            should_stop: Called between batches; True in any process stops all of them.

        Returns:
            The evaluation; None if it was stopped.

        Raises:
            DataError: Not a single token was masked.
            DivergedError: The loss is not a finite number.
            ResourceError: Memory does not suffice for one sequence.
        """
        device = accelerator.device
        was_training = model.training
        model.eval()
        try:
            with torch.inference_mode():
                score = partial(self.masks.score, model, head, device)
                of_chunks = partial(self._chunk_sums, score, device)
                sums = self._add_up(accelerator, self.masks.chunks, of_chunks, should_stop)
                if sums is None:
                    return None
                evaluation = summarize(sums.tolist(), self.masks.num_draws, self.known_text)
                if self._pairs is None:
                    return evaluation
                add_up = partial(self._sums_of_some_pairs, model, head, device, self._pairs)
                of_pairs = partial(self._pair_sums, add_up, device)
                sums = self._add_up(accelerator, self._pair_numbers, of_pairs, should_stop)
        finally:
            model.train(was_training)
        return None if sums is None else _with_pairs(evaluation, sums.tolist())

    def _add_up(
        self,
        accelerator: Accelerator,
        sequences: Numbers,
        sums_of: Callable[[Numbers, Callable[[], bool]], Sums | None],
        should_stop: Callable[[], bool],
    ) -> Sums | None:
        """Add up the sums over all sequences and all processes; None if it was stopped."""
        mine = sequences[accelerator.process_index :: accelerator.num_processes]
        largest_share = -(-len(sequences) // accelerator.num_processes)
        numbers = count()

        def any_stops() -> bool:
            return any_should_stop(accelerator, next(numbers), should_stop)

        # In double precision, so that the result does not depend on the order of the sums.
        sums = np.zeros(NUM_SUMS)
        # Every process goes through equally many batches, of which the last may be empty, because
        # any_should_stop() waits for all of them.
        for start in range(0, largest_share, self._batch_size):
            of_batch = sums_of(mine[start : start + self._batch_size], any_stops)
            if of_batch is None:
                return None
            sums += of_batch
        if accelerator.num_processes > 1:
            on_device = torch.from_numpy(sums).to(accelerator.device)
            sums = accelerator.reduce(on_device, reduction="sum").cpu().numpy()
        return sums

    def _chunk_sums(
        self,
        score: Callable[[int, Numbers], TokenScores],
        device: torch.device,
        chunks: Numbers,
        any_stops: Callable[[], bool],
    ) -> Sums | None:
        """Return sums over chunks, each with all of its draws; None if it was stopped.

        The sums are of: 1, loss l, number of predictions n, those that are right, those right among
        five, l * l, l * n, n * n, and tokens that were masked in any draw.
        """
        parts: list[TokenScores] = []
        for draw in range(self.masks.num_draws):
            if any_stops():
                return None
            parts += self._batches.map(partial(score, draw), chunks)
        if not parts:
            return np.zeros(NUM_SUMS)
        scores = TokenScores.join(parts)
        rows = np.searchsorted(chunks, scores.chunks)
        loss = np.bincount(rows, weights=scores.losses, minlength=len(chunks))
        masked = np.bincount(rows, minlength=len(chunks)).astype(np.float64)
        return np.asarray(
            [len(chunks), loss.sum(), masked.sum(), scores.is_first.sum(), scores.is_in_five.sum(),
             (loss * loss).sum(), (loss * masked).sum(), (masked * masked).sum(),
             scores.num_tokens]
        )  # fmt: skip

    def _pair_sums(
        self,
        add_up: Callable[[Numbers], Sums],
        device: torch.device,
        numbers: Numbers,
        any_stops: Callable[[], bool],
    ) -> Sums | None:
        """Return sums over pairs; None if it was stopped."""
        if any_stops():
            return None
        parts = self._batches.map(add_up, numbers)
        sums: Sums = np.stack([np.zeros(NUM_SUMS), *parts]).sum(axis=0)
        return sums

    def _sums_of_some_pairs(
        self,
        model: Any,
        head: MaskedHead,
        device: torch.device,
        pairs: PairSequences,
        numbers: Numbers,
    ) -> Sums:
        """Return sums over pairs of: 1, loss, right answers, labels; followed by zeros."""
        chunks, keys = pairs.batch(np.zeros_like(numbers), numbers)
        batch = self.masks.collator(chunks, keys, self._mlm_probability).to(device)
        losses = head.losses(model, batch)
        tallies = losses.tallies[PAIR_ACCURACY], losses.tallies[PAIR_LABEL_SHARE]
        sums = np.zeros(NUM_SUMS)
        sums[:4] = len(numbers), *map(float, (losses.terms[PAIR_LOSS], *tallies))
        return sums


def summarize(sums: list[float], num_mask_draws: int, known_text: KnownText) -> Evaluation:
    """Divide the sums over all chunks, in the order of `Evaluator`, and find the interval."""
    num_chunks, loss_sum, num_masked, num_first, num_in_five, *products, num_tokens = sums
    loss_loss, loss_masked, masked_masked = products
    if num_masked == 0:
        raise DataError(NOTHING_MASKED)
    loss = loss_sum / num_masked
    if not math.isfinite(loss):
        raise DivergedError(
            f"the validation loss is {loss}; the model's weights are broken: start from another "
            "checkpoint, or lower optimizer.learning_rate"
        )
    interval = None
    if num_chunks > 1:
        # Variance of a ratio of sums over chunks, by linearisation (Cochran 1977, 6.4).
        spread = loss_loss - 2 * loss * loss_masked + loss * loss * masked_masked
        variance = num_chunks / (num_chunks - 1) * max(spread, 0.0) / num_masked**2
        half_width = 1.96 * math.sqrt(variance)
        if loss + half_width < LARGEST_EXPONENT:
            # A loss is never below 0, so a perplexity is never below 1.
            interval = (math.exp(max(loss - half_width, 0.0)), math.exp(loss + half_width))
    return Evaluation(
        loss=loss,
        perplexity=math.exp(loss) if loss < LARGEST_EXPONENT else None,
        perplexity_interval=interval,
        accuracy=num_first / num_masked,
        accuracy_top5=num_in_five / num_masked,
        num_masked_tokens=int(num_tokens),
        num_chunks=int(num_chunks),
        num_mask_draws=num_mask_draws,
        num_predictions=int(num_masked),
        unknown_token_share=known_text.unknown_token_share,
        unknown_byte_share=known_text.unknown_byte_share,
    )


def _with_pairs(evaluation: Evaluation, sums: list[float]) -> Evaluation:
    num_pairs, loss_sum, num_correct, num_ones = sums[:4]
    return replace(
        evaluation,
        pair_loss=loss_sum / num_pairs,
        pair_accuracy=num_correct / num_pairs,
        pair_label_share=num_ones / num_pairs,
        num_pairs=int(num_pairs),
    )
