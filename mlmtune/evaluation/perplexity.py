"""Perplexity on fixed masks: summed over tokens, divided once.

Perplexity is exp of the mean cross entropy, in nats, over the masked tokens. It is measured on
chunks whatever the objective is, so that runs compare; an objective with pairs is also measured on
pairs.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray

from mlmtune.config import BestBy, EvaluationConfig
from mlmtune.errors import DataError, DivergedError
from mlmtune.evaluation.known_text import KnownText
from mlmtune.evaluation.retrieval import Retrieval
from mlmtune.evaluation.scoring import (
    NOTHING_MASKED,
    FittingBatches,
    FixedMasks,
    Numbers,
    Stopped,
    TokenScores,
)
from mlmtune.modeling.evaluation_mode import in_evaluation_mode
from mlmtune.modeling.masked_head import PAIR_ACCURACY, PAIR_LABEL_SHARE, PAIR_LOSS, MaskedHead
from mlmtune.numbers import perplexity, share
from mlmtune.printable import counted
from mlmtune.tokens.pairs import PairSequences

LARGEST_EXPONENT = 709.0
"""The exp of a larger number does not fit a float."""

LEAST_SAID = 0.01
"""Smallest share of unknown tokens that an evaluation mentions."""

PAIR_TERMS = (PAIR_LOSS, PAIR_ACCURACY, PAIR_LABEL_SHARE)

Sums = NDArray[np.float64]


@dataclass(frozen=True)
class Evaluation:
    """The result of an evaluation, under the names of eval_results.json.

    Attributes:
        loss: Mean cross entropy of the predictions, in nats: one sum over all draws of the masks,
            divided once.
        perplexity: exp(loss); None if that does not fit a float.
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
        of_pairs: The mean of each of `PAIR_TERMS`, and `num_pairs`, by name; empty without pairs.
            A constant answer is right in `pair_label_share` of the pairs, or in the rest.
        general: The evaluation on general text; None if there is none.
        retrieval: How well documents are found; None if that is not measured.
        best_by: What `criterion` is; see `CRITERIA`.
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
    of_pairs: dict[str, Any] = field(default_factory=dict)
    general: "Evaluation | None" = None
    retrieval: Retrieval | None = None
    best_by: BestBy = "perplexity"

    @property
    def criterion(self) -> float:
        """The number that is lowest for the best weights."""
        return criterion_of(self.to_json(), self.best_by)

    def to_json(self) -> dict[str, Any]:
        """Return what was measured as JSON values, under the names of eval_results.json."""
        fields = asdict(self)
        for name in ("general", "retrieval", "best_by"):
            del fields[name]
        fields |= fields.pop("of_pairs")
        if self.general is not None:
            general = self.general.to_json()
            fields |= {f"general_{name}": value for name, value in general.items()}
        if self.retrieval is not None:
            fields |= self.retrieval.to_json()
        return fields

    def describe(self) -> str:
        """Return one line for people."""
        draws = f" ({self.num_mask_draws} draws of masks)" if self.num_mask_draws > 1 else ""
        unknown = ""
        if self.unknown_token_share >= LEAST_SAID:
            unknown = f"; {share(self.unknown_token_share)} of the tokens are unknown and left out"
        pairs = ""
        if self.of_pairs:
            num_pairs = counted(self.of_pairs["num_pairs"], "pair")
            pairs = (
                f"; {share(self.of_pairs[PAIR_ACCURACY])} of {num_pairs} right "
                f"({share(self.of_pairs[PAIR_LABEL_SHARE])} do not belong together)"
            )
        shown = perplexity(self.perplexity, self.perplexity_interval)
        return (
            f"perplexity {shown}, accuracy {share(self.accuracy)} "
            f"on {counted(self.num_masked_tokens, 'masked token')}{draws}{unknown}{pairs}"
            + (f"; general text: {self.general.describe()}" if self.general is not None else "")
            + (f"; {self.retrieval.describe()}" if self.retrieval is not None else "")
        )


CRITERIA: dict[BestBy, tuple[str, int]] = {
    "perplexity": ("loss", 1),
    "retrieval": ("retrieval_ndcg_at_10", -1),
}
"""By each choice of `checkpoint.best_by`, the result that decides, and its sign."""


def criterion_of(results: Mapping[str, Any], best_by: BestBy) -> float:
    """Return the number that is lowest for the best weights, from their eval_results.json."""
    name, sign = CRITERIA[best_by]
    return sign * float(results[name])


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
        self, masks: FixedMasks, config: EvaluationConfig, pairs: PairSequences | None = None
    ) -> None:
        self.masks = masks
        self.known_text = KnownText.of(masks.view)
        self._config = config
        self._batches = FittingBatches(config.batch_size, "chunking.chunk_length")
        self._pairs = pairs

    def run(
        self,
        accelerator: Accelerator,
        model: Any,
        head: MaskedHead,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> Evaluation | None:
        """Evaluate a model that the accelerator has prepared, and leave it in its training mode.

        `should_stop` is called between batches; True in any process stops all of them.

        Returns:
            The evaluation; None if it was stopped.

        Raises:
            DataError: Not a single token was masked.
            DivergedError: The loss is not a finite number.
            ResourceError: Memory does not suffice for one sequence.
        """
        try:
            with in_evaluation_mode(model), torch.inference_mode():
                evaluation = self._measure_chunks(accelerator, model, head, should_stop)
                if self._pairs is None:
                    return evaluation
                of_pairs = self._measure_pairs(self._pairs, accelerator, model, head, should_stop)
                return replace(evaluation, of_pairs=of_pairs)
        except Stopped:
            return None

    def _measure_chunks(
        self,
        accelerator: Accelerator,
        model: Any,
        head: MaskedHead,
        should_stop: Callable[[], bool],
    ) -> Evaluation:
        draws = [
            partial(self.masks.score, model, head, accelerator.device, draw)
            for draw in range(self.masks.num_draws)
        ]
        # In double precision, so that the result does not depend on the order of the sums.
        sums = np.zeros(9)
        for chunks, scores in self._batches.over(
            self.masks.chunks, draws, accelerator, should_stop
        ):
            sums += _sums_over_chunks(chunks, TokenScores.join(scores))
        totals = _over_processes(accelerator, sums)
        return evaluation_of(totals, self.masks.num_draws, self.known_text)

    def _measure_pairs(
        self,
        pairs: PairSequences,
        accelerator: Accelerator,
        model: Any,
        head: MaskedHead,
        should_stop: Callable[[], bool],
    ) -> dict[str, Any]:
        """Return the number of pairs, and the means over them by name."""

        def sums_of(numbers: Numbers) -> Sums:
            batch = self.masks.collator(
                *pairs.batch(np.zeros_like(numbers), numbers), self._config.mlm_probability
            )
            losses = head.losses(model, batch.to(accelerator.device))
            sums = losses.terms | losses.tallies
            return np.asarray([*(float(sums[name]) for name in PAIR_TERMS), len(numbers)])

        # Pairs are in a drawn order already, so the first ones are a random subset.
        numbers = np.arange(len(pairs))[: self._config.max_chunks]
        sums = np.zeros(len(PAIR_TERMS) + 1)
        for _, parts in self._batches.over(numbers, [sums_of], accelerator, should_stop):
            sums += np.sum(parts, axis=0)
        *totals, num_pairs = _over_processes(accelerator, sums)
        means = {name: total / num_pairs for name, total in zip(PAIR_TERMS, totals, strict=True)}
        return {**means, "num_pairs": int(num_pairs)}


def _over_processes(accelerator: Accelerator, sums: Sums) -> list[float]:
    if accelerator.num_processes > 1:
        on_device = torch.from_numpy(sums).to(accelerator.device)
        sums = accelerator.reduce(on_device, reduction="sum").cpu().numpy()
    return list(map(float, sums))


def _sums_over_chunks(chunks: Numbers, scores: TokenScores) -> Sums:
    """Return sums over chunks, each with all of its draws, in the order of `evaluation_of`.

    The sums are of: 1, loss l, number of predictions n, those that are right, those right among
    five, l * l, l * n, n * n, and tokens that were masked in any draw.
    """
    rows = np.searchsorted(chunks, scores.chunks)
    loss = np.bincount(rows, weights=scores.losses, minlength=len(chunks))
    masked = np.bincount(rows, minlength=len(chunks)).astype(np.float64)
    return np.asarray(
        [len(chunks), loss.sum(), masked.sum(), scores.is_first.sum(), scores.is_in_five.sum(),
         (loss * loss).sum(), (loss * masked).sum(), (masked * masked).sum(), scores.num_tokens]
    )  # fmt: skip


def evaluation_of(sums: list[float], num_mask_draws: int, known_text: KnownText) -> Evaluation:
    """Divide the sums over all chunks, and compute the interval."""
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
