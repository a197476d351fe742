"""The unigram baseline: what token frequencies alone predict.

A new masked-LM head learns within a few steps which tokens are frequent. The baseline knows the
frequencies of the training text and no context. It predicts the same masked tokens as the model, so
the difference is what the model has learned from context.
"""

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from mlmtune.evaluation.scoring import FixedMasks, TokenScores
from mlmtune.evaluation.word_cloze import WordScores
from mlmtune.masking.collator import IGNORE_INDEX

CHUNKS_AT_ONCE = 256


@dataclass(frozen=True)
class TokenFrequencies:
    """A unigram model of the training text.

    Attributes:
        losses: (V,) float64 cross entropy of each id, in nats.
        likeliest: (5,) The most frequent ids, the most frequent first.
    """

    losses: NDArray[np.float64]
    likeliest: NDArray[np.int64]

    @classmethod
    def of(cls, token_counts: NDArray[np.int64], unknown_token_id: int | None) -> Self:
        """Make the model from counts, which are smoothed by one, as for the bias of a new head.

        Args:
            token_counts: (V,) How often each id occurs in the training text.
            unknown_token_id: The id of [UNK].
        """
        smoothed = token_counts.astype(np.float64) + 1.0
        if unknown_token_id is not None:
            smoothed[unknown_token_id] = 0.0  # [UNK] is never masked, so it is never predicted
        with np.errstate(divide="ignore"):
            losses = -np.log(smoothed / smoothed.sum())
        return cls(losses, np.argsort(losses, kind="stable")[:5])

    def measure(self, masks: FixedMasks) -> tuple[float, float]:
        """Return the mean loss, in nats, and the accuracy on all masked tokens of a text."""
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
        """Score this baseline on the masked tokens that a model was scored on."""
        return replace(
            scores,
            losses=self.losses[scores.labels],
            is_first=scores.labels == self.likeliest[0],
            is_in_five=np.isin(scores.labels, self.likeliest),
        )

    def score_words(self, scores: WordScores) -> WordScores:
        """Score this baseline on the words that a model was asked for, in the same pieces."""
        return WordScores.of(self.losses[scores.pieces], scores.num_pieces, scores.pieces)
