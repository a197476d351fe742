"""Which tokens are predicted. Each strategy is a pure function, vectorised over a batch.

A strategy says which tokens are selected together: it gives each token its *head*, the position of
the first token of its unit. One uniform draw a head then selects the whole unit, so that any token
is selected with the same probability, wherever it stands and however long its unit is.

A new strategy is a function with the signature of `Grouping` and a row in `STRATEGIES`.

Legend: B chunks, T tokens in a chunk, W words in a chunk.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mlmtune.config import MaskingConfig, RateSchedule, StrategyName
from mlmtune.randomness import UInt64Array, key, uniform
from mlmtune.tokens.chunking import ChunkBatch

SPAN_STREAM = 3
"""Keeps the lengths of spans apart from the other draws of a chunk's key (see `corruption`)."""

Grouping = Callable[[ChunkBatch, UInt64Array, MaskingConfig], NDArray[np.int64]]
"""(chunks, (B,) keys, config) -> (B, T) head of each token; of no meaning at special tokens."""


def token_heads(chunks: ChunkBatch, keys: UInt64Array, config: MaskingConfig) -> NDArray[np.int64]:
    """Each token by itself (Devlin et al. 2019, 3.1)."""
    return np.broadcast_to(np.arange(chunks.input_ids.shape[1]), chunks.input_ids.shape)


def word_heads(chunks: ChunkBatch, keys: UInt64Array, config: MaskingConfig) -> NDArray[np.int64]:
    """The tokens of a word together (Cui et al. 2021, "Pre-training with whole word masking")."""
    return _heads(chunks.word_starts)


def span_heads(chunks: ChunkBatch, keys: UInt64Array, config: MaskingConfig) -> NDArray[np.int64]:
    """Some words in a row together (SpanBERT: Joshi et al. 2020, 3.1).

    The paper draws spans one after the other until enough is masked. Here the words of a chunk are
    parted into spans of the same lengths (geometric, up to a largest), of which each is selected
    with the same probability: no span overlaps another, no token is favoured for its place, and
    nothing depends on the rate. A span ends where a document does.
    """
    words = np.cumsum(chunks.word_starts, axis=1)  # (B, T) which word each token is of, from 1
    num_words = int(words.max(initial=0))
    # Where each row's words lie in a flattened table of those that begin a span; beside them a
    # place for what is no word.
    width = num_words + 2
    rows = np.arange(len(keys))[:, None] * width
    begins_span = np.zeros(len(keys) * width, dtype=bool)
    begins_span[rows + 1] = True
    begins_span[rows + np.minimum(_span_ends(keys, num_words, config) + 1, width - 1)] = True

    follows_special = np.ones(words.shape, dtype=bool)
    follows_special[:, 1:] = chunks.special_tokens_mask[:, :-1]
    return _heads(chunks.word_starts & (begins_span[rows + words] | follows_special))


def _span_ends(keys: UInt64Array, num_words: int, config: MaskingConfig) -> NDArray[np.int64]:
    """(B, S) how many words of each row lie in its first span, its first two, ..., up to all."""
    num_spans = 1 + num_words // 2  # nearly always enough
    while True:
        draws = uniform(key(keys, SPAN_STREAM)[:, None], np.arange(num_spans, dtype=np.uint64))
        ends = np.cumsum(_span_lengths(draws, config), axis=1)
        if (ends[:, -1] >= num_words).all():
            return ends
        num_spans = 2 * num_spans


def _span_lengths(draws: NDArray[np.float64], config: MaskingConfig) -> NDArray[np.int64]:
    """Lengths from 1 to `span_max_words`, in words, from uniform draws of any shape."""
    weights = (1.0 - config.span_geometric_p) ** np.arange(config.span_max_words)
    return 1 + np.searchsorted(np.cumsum(weights[:-1]) / weights.sum(), draws, side="right")


def _heads(is_head: NDArray[np.bool_]) -> NDArray[np.int64]:
    """(B, T) position of the last head up to each token; 0 before the first one."""
    positions = np.where(is_head, np.arange(is_head.shape[1]), 0)
    return np.maximum.accumulate(positions, axis=1)


def without_unknown(
    chunks: ChunkBatch, unknown_token_id: int | None, *, keeps_words_whole: bool
) -> ChunkBatch:
    """The chunks with unknown tokens set aside, as special tokens are, so that none is selected.

    [UNK] stands for any text that the tokenizer does not know: predicting it teaches nothing, and
    a model that always says [UNK] would look good. Where words are selected as a whole, a word that
    holds an unknown token is set aside as a whole.

    Args:
        chunks: B chunks.
        unknown_token_id: id of [UNK]; None where the tokenizer knows all text.
        keeps_words_whole: see `Strategy`.
    """
    if unknown_token_id is None:
        return chunks
    unknown = chunks.input_ids == unknown_token_id
    if not unknown.any():
        return chunks
    if keeps_words_whole:
        words = _heads(chunks.word_starts)
        rows, columns = np.nonzero(unknown)
        holds_unknown = np.zeros_like(unknown)
        holds_unknown[rows, words[rows, columns]] = True
        unknown = np.take_along_axis(holds_unknown, words, axis=1)
    return replace(
        chunks,
        special_tokens_mask=chunks.special_tokens_mask | unknown,
        word_starts=chunks.word_starts & ~unknown,
    )


def select(
    chunks: ChunkBatch,
    keys: UInt64Array,
    heads: NDArray[np.int64],
    mlm_probability: float,
    slice_number: int = 0,
) -> NDArray[np.bool_]:
    """(B, T) whether each token is predicted; False at every special token.

    A unit is selected when the draw of its head lies in [p * s, p * (s + 1)), where p is the
    probability and s the number of the slice. The draw does not depend on the probability, so in
    slice 0 a higher one selects a superset. Different slices select different units.

    Args:
        chunks: B chunks.
        keys: (B,) one key per chunk.
        heads: (B, T) as a grouping gives them.
        mlm_probability: share of the tokens, in expectation.
        slice_number: below `num_slices(mlm_probability)`.
    """
    draws = uniform(keys[:, None], heads.astype(np.uint64))
    is_selected = draws < mlm_probability * (slice_number + 1)
    if slice_number:
        is_selected &= draws >= mlm_probability * slice_number
    return is_selected & ~chunks.special_tokens_mask


def num_slices(mlm_probability: float) -> int:
    """How many masks at this rate can be drawn before a token must be selected a second time."""
    return math.floor(1.0 / mlm_probability)


@dataclass(frozen=True)
class Strategy:
    """A masking strategy: all that is known of a value of `masking.strategy`.

    Attributes:
        group: says which tokens are selected together.
        description: what is selected, in a few words.
        num_tokens_together: about the most tokens that are selected together. The more there are,
            the more the number of masked tokens varies from batch to batch.
        keeps_words_whole: whether the tokens of a word are selected together, so that it must be
            known where words begin.
    """

    group: Grouping
    description: str
    num_tokens_together: int
    keeps_words_whole: bool


STRATEGIES: dict[StrategyName, Strategy] = {
    "token": Strategy(token_heads, "each token on its own", 1, keeps_words_whole=False),
    "whole_word": Strategy(word_heads, "all tokens of a word or none", 4, keeps_words_whole=True),
    "span": Strategy(span_heads, "some words in a row", 16, keeps_words_whole=True),
}


def mlm_probability_at(step: int, max_steps: int, rate: float | RateSchedule) -> float:
    """Return the masking rate of one step.

    Args:
        step: from 0; the step that is about to be taken.
        max_steps: steps of the whole run.
        rate: of the config; a schedule moves in a line from the first step to the last.
    """
    if isinstance(rate, float):
        return rate
    progress = min(step / max(max_steps - 1, 1), 1.0)
    return rate.start + (rate.end - rate.start) * progress


def mean_mlm_probability(rate: float | RateSchedule) -> float:
    """Return the mean masking rate of a run."""
    return rate if isinstance(rate, float) else 0.5 * (rate.start + rate.end)


def highest_mlm_probability(rate: float | RateSchedule) -> float:
    """Return the highest masking rate of a run."""
    return rate if isinstance(rate, float) else max(rate.start, rate.end)
