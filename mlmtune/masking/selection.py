"""Which tokens are predicted. Each strategy is a pure function, vectorised over a batch.

A strategy divides the tokens into units that are selected together: it gives each token its *head*,
the position of the first token of its unit. One uniform draw per head then selects the whole unit.
So all tokens are selected with the same probability, regardless of their position and of the length
of their unit.

Legend: B chunks, T tokens in a chunk, S spans in a chunk.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import cast, get_args

import numpy as np
from numpy.typing import NDArray

from mlmtune.config import ADDED_STRATEGIES, MaskingConfig, RateSchedule, StrategyName
from mlmtune.errors import ConfigError
from mlmtune.randomness import UInt64Array, key, uniform
from mlmtune.tokens.chunking import ChunkBatch

SPAN_STREAM = 3
"""Keeps the draws of span lengths apart from the other draws of a key (see `corruption`)."""

Grouping = Callable[[ChunkBatch, UInt64Array, MaskingConfig], NDArray[np.int64]]
"""(chunks, (B,) keys, config) -> (B, T) the head of each token; anything at special tokens."""


def token_heads(chunks: ChunkBatch, keys: UInt64Array, config: MaskingConfig) -> NDArray[np.int64]:
    """Make each token a unit (Devlin et al. 2019, 3.1)."""
    return np.broadcast_to(np.arange(chunks.input_ids.shape[1]), chunks.input_ids.shape)


def word_heads(chunks: ChunkBatch, keys: UInt64Array, config: MaskingConfig) -> NDArray[np.int64]:
    """Make each word a unit (Cui et al. 2021, "Pre-training with whole word masking")."""
    return _heads(chunks.word_starts)


def span_heads(chunks: ChunkBatch, keys: UInt64Array, config: MaskingConfig) -> NDArray[np.int64]:
    """Make some words in a row a unit (SpanBERT: Joshi et al. 2020, 3.1).

    The paper draws spans one after the other until enough is masked. Here all words of a chunk are
    divided into spans of the same lengths (geometric, up to a maximum), and each span is selected
    with the same probability. So no span overlaps another, no position is favoured, and nothing
    depends on the masking rate. A span ends at the latest where its document ends.
    """
    words = chunks.word_starts.cumsum(axis=1, dtype=np.int64)  # (B, T) number of each word, from 1
    num_words = int(words.max(initial=0))
    # Word 0 is what precedes the first word; one more takes the ends that are beyond the last word.
    begins_span = np.zeros((len(keys), num_words + 2), dtype=bool)
    begins_span[:, 1] = True
    next_words = np.minimum(_span_ends(keys, num_words, config) + 1, num_words + 1)
    np.put_along_axis(begins_span, next_words, True, axis=1)

    follows_special = np.ones(words.shape, dtype=bool)
    follows_special[:, 1:] = chunks.special_tokens_mask[:, :-1]
    is_first = np.take_along_axis(begins_span, words, axis=1) | follows_special
    return _heads(chunks.word_starts & is_first)


def _span_ends(keys: UInt64Array, num_words: int, config: MaskingConfig) -> NDArray[np.int64]:
    """Draw (B, S) the number of words in the first span, in the first two, and so on up to all."""
    num_spans = 1 + num_words // 2  # nearly always enough
    while True:
        draws = uniform(key(keys, SPAN_STREAM)[:, None], np.arange(num_spans, dtype=np.uint64))
        ends = np.cumsum(_span_lengths(draws, config), axis=1)
        if (ends[:, -1] >= num_words).all():
            return ends
        num_spans = 2 * num_spans


def _span_lengths(draws: NDArray[np.float64], config: MaskingConfig) -> NDArray[np.int64]:
    """Turn uniform draws into lengths from 1 to `span_max_words`, in words."""
    weights = (1.0 - config.span_geometric_p) ** np.arange(config.span_max_words)
    return 1 + np.searchsorted(np.cumsum(weights[:-1]) / weights.sum(), draws, side="right")


def _heads(is_head: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return (B, T) the position of the last head up to each token; 0 before the first head."""
    positions = np.where(is_head, np.arange(is_head.shape[1]), 0)
    return np.maximum.accumulate(positions, axis=1)


def without_unknown(
    chunks: ChunkBatch, unknown_token_id: int | None, *, keeps_words_whole: bool
) -> ChunkBatch:
    """Treat unknown tokens as special tokens, so that none is selected.

    [UNK] replaces any text that the tokenizer does not know. To predict it teaches nothing, and a
    model that always predicts [UNK] would look good. If words are selected as a whole, a word that
    has an unknown token is excluded as a whole.

    Args:
        chunks: B chunks.
        unknown_token_id: The id of [UNK]; None if the tokenizer knows all text.
        keeps_words_whole: See `Strategy`.
    """
    unknown = chunks.input_ids == unknown_token_id
    if unknown_token_id is None or not unknown.any():
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
    """Return (B, T) whether each token is predicted, which special tokens never are.

    A unit is selected if the draw of its head is in [p * s, p * (s + 1)), where p is the masking
    rate and s the number of the slice. The draw does not depend on the rate, so in slice 0 a higher
    rate selects a superset. Different slices select different units.

    Args:
        chunks: B chunks.
        keys: (B,) One key per chunk.
        heads: (B, T) The result of a `Grouping`.
        mlm_probability: The expected share of the tokens.
        slice_number: A number below `num_slices(mlm_probability)`.
    """
    draws = uniform(keys[:, None], heads.astype(np.uint64))
    is_selected = draws < mlm_probability * (slice_number + 1)
    is_selected &= draws >= mlm_probability * slice_number
    return is_selected & ~chunks.special_tokens_mask


def num_slices(mlm_probability: float) -> int:
    """Return how many masks at this rate can be drawn before a token is selected twice."""
    return math.floor(1.0 / mlm_probability)


@dataclass(frozen=True)
class Strategy:
    """A masking strategy, which a value of `masking.strategy` names.

    Attributes:
        group: The function that divides tokens into units.
        description: What is selected, in a few words.
        num_tokens_together: Roughly the largest number of tokens in a unit. The larger it is, the
            more the number of masked tokens varies from batch to batch.
        keeps_words_whole: Whether the tokens of a word are selected together.
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


def add_strategy(name: str, added: Strategy) -> None:
    """Add a masking strategy to this process, for `masking.strategy` and the other keys like it.

    A run that is resumed does not notice that `group` has changed: give a changed one another name.

    Args:
        name: The name in configs.
        added: The strategy; see `whole_word` in `STRATEGIES` for an example.

    Raises:
        ConfigError: mlmtune has a strategy of this name.
    """
    if name in get_args(StrategyName):
        raise ConfigError(f"mlmtune has a strategy {name!r} already; choose another name")
    STRATEGIES[cast(StrategyName, name)] = added
    ADDED_STRATEGIES.add(name)


def mlm_probability_at(step: int, max_steps: int, rate: float | RateSchedule) -> float:
    """Return the masking rate of a step, counted from 0, of a run of `max_steps` steps."""
    if isinstance(rate, float):
        return rate
    progress = min(step / max(max_steps - 1, 1), 1.0)
    return rate.start + (rate.end - rate.start) * progress


def mean_mlm_probability(rate: float | RateSchedule) -> float:
    return rate if isinstance(rate, float) else 0.5 * (rate.start + rate.end)


def highest_mlm_probability(rate: float | RateSchedule) -> float:
    return rate if isinstance(rate, float) else max(rate.start, rate.end)
