"""What token frequencies alone predict: the bar that a model with a new head has to clear.

A new masked-LM head learns within a few steps which tokens are frequent. A unigram model, which
knows the frequencies of the training text and nothing of the context, is asked for the same masked
tokens, so that what a model predicts beyond them can be told.
"""

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from mlmtune.evaluation.scoring import FixedMasks, TokenScores
from mlmtune.masking.collator import IGNORE_INDEX

NUM_LIKELIEST = 5
CHUNKS_AT_ONCE = 256


@dataclass(frozen=True)
class TokenFrequencies:
    """A unigram model of the training text.

    Attributes:
        losses: (V,) float64 nats of each id.
        likeliest: (5,) the most frequent ids, the most frequent first.
    """

    losses: NDArray[np.float64]
    likeliest: NDArray[np.int64]

    @classmethod
    def of(cls, token_counts: NDArray[np.int64], unknown_token_id: int | None) -> Self:
        """From counts, smoothed by one as those that a new head starts from.

        Args:
            token_counts: (V,) how often each id occurs in the training text.
            unknown_token_id: of [UNK], which is never asked for, so it is never guessed either.
        """
        smoothed = token_counts.astype(np.float64) + 1.0
        if unknown_token_id is not None:
            smoothed[unknown_token_id] = 0.0
        with np.errstate(divide="ignore"):
            losses = -np.log(smoothed / smoothed.sum())
        return cls(losses, np.argsort(losses, kind="stable")[:NUM_LIKELIEST])

    def measure(self, masks: FixedMasks) -> tuple[float, float]:
        """Mean loss, in nats, and share of right guesses on all masked tokens of a text."""
        loss_sum, num_right, num_masked = 0.0, 0, 0
        for draw in range(masks.num_draws):
            for start in range(0, len(masks.chunks), CHUNKS_AT_ONCE):
                chunks = masks.chunks[start : start + CHUNKS_AT_ONCE]
                labels = masks.batch(chunks, draw).labels.numpy()
                labels = labels[labels != IGNORE_INDEX]
                loss_sum += float(self.losses[labels].sum())
                num_right += int((labels == self.likeliest[0]).sum())
                num_masked += len(labels)
        return loss_sum / num_masked, num_right / num_masked

    def score(self, scores: TokenScores) -> TokenScores:
        """What it says of the masked tokens that a model was asked for."""
        return replace(
            scores,
            losses=self.losses[scores.labels],
            is_first=scores.labels == self.likeliest[0],
            is_in_five=np.isin(scores.labels, self.likeliest),
        )
