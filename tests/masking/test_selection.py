from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from mlmtune.config import MaskingConfig, RateSchedule, StrategyName
from mlmtune.masking.selection import (
    STRATEGIES,
    highest_mlm_probability,
    mean_mlm_probability,
    mlm_probability_at,
    num_slices,
    select,
    without_unknown,
)
from mlmtune.randomness import key
from mlmtune.tokens.chunking import ChunkBatch

EACH_STRATEGY = pytest.mark.parametrize("strategy", STRATEGIES)
SHAPES = st.tuples(st.integers(1, 8), st.integers(1, 40))


def chunks(special, word_starts=None):
    """A batch of which only the shape, special tokens and words matter."""
    word_starts = ~special if word_starts is None else word_starts & ~special
    follows_special = np.ones_like(special)
    follows_special[:, 1:] = special[:, :-1]
    lengths = np.full(len(special), special.shape[1])
    return ChunkBatch(
        np.full(special.shape, 9), lengths, special, word_starts | (follows_special & ~special)
    )


def some_chunks(num_chunks, length, words_per_token=0.6, seed=0):
    """Chunks of words of several tokens between a first and a last special token."""
    special = np.zeros((num_chunks, length), dtype=bool)
    special[:, [0, -1]] = True
    starts = np.random.default_rng(seed).random(special.shape) < words_per_token
    return chunks(special, starts)


def heads_and_selected(strategy, batch, keys, rate, **settings):
    heads = STRATEGIES[strategy].group(batch, keys, MaskingConfig(strategy=strategy, **settings))
    return heads, select(batch, keys, heads, rate)


def selected_by(strategy, batch, keys, rate, **settings):
    return heads_and_selected(strategy, batch, keys, rate, **settings)[1]


def words_of(batch):
    """(B, T) a number for each word; 0 at special tokens."""
    numbers = np.cumsum(batch.word_starts.ravel()).reshape(batch.word_starts.shape)
    return np.where(batch.special_tokens_mask, 0, numbers)


def test_every_strategy_of_the_config_has_a_row():
    assert tuple(STRATEGIES) == get_args(StrategyName)


# ------------------------------------------------------------------------ laws of all strategies


@EACH_STRATEGY
@given(special=arrays.arrays(bool, SHAPES), starts=arrays.arrays(bool, SHAPES),
       seed=st.integers(0, 2**63), p=st.floats(0.01, 1.0))  # fmt: skip
def test_special_tokens_are_never_selected(strategy, special, starts, seed, p):
    starts = np.resize(starts, special.shape)
    selected = selected_by(strategy, chunks(special, starts), key(seed, np.arange(len(special))), p)
    assert selected.shape == special.shape
    assert selected.dtype == bool
    assert not (selected & special).any()


@EACH_STRATEGY
def test_a_probability_of_one_selects_all_but_special_tokens(strategy):
    special = np.random.default_rng(0).random((50, 60)) < 0.1
    batch = chunks(special, np.random.default_rng(1).random((50, 60)) < 0.5)
    assert np.array_equal(selected_by(strategy, batch, key(1, np.arange(50)), 1.0), ~special)


@EACH_STRATEGY
@given(seed=st.integers(0, 2**63), chosen=st.lists(st.integers(0, 99), min_size=1, max_size=5),
       padding=st.integers(0, 9))  # fmt: skip
def test_masks_depend_on_nothing_but_their_keys_and_words(strategy, seed, chosen, padding):
    starts = np.random.default_rng(0).random((100, 30)) < 0.5
    special = np.zeros_like(starts)
    heads, together = heads_and_selected(
        strategy, chunks(special, starts), key(seed, np.arange(100)), 0.15
    )
    wider = ((0, 0), (0, padding))
    alone = chunks(
        np.pad(special[chosen], wider, constant_values=True), np.pad(starts[chosen], wider)
    )
    heads_alone, selected = heads_and_selected(strategy, alone, key(seed, np.asarray(chosen)), 0.15)
    assert np.array_equal(selected[:, :30], together[chosen])
    assert np.array_equal(heads_alone[:, :30], heads[chosen])
    assert not selected[:, 30:].any()


@EACH_STRATEGY
@given(seed=st.integers(0, 2**63), rates=st.tuples(st.floats(0.01, 1.0), st.floats(0.01, 1.0)))
def test_a_higher_probability_selects_a_superset(strategy, seed, rates):
    """So a rate that moves over the run moves no draw."""
    batch, keys = some_chunks(20, 50), key(seed, np.arange(20))
    fewer, more = (selected_by(strategy, batch, keys, rate) for rate in sorted(rates))
    assert not (fewer & ~more).any()


@EACH_STRATEGY
@given(seed=st.integers(0, 2**63), starts=arrays.arrays(bool, (4, 30)))
def test_what_has_one_head_has_one_fate_and_stands_together(strategy, seed, starts):
    batch = chunks(np.zeros((4, 30), bool), starts)
    heads, selected = heads_and_selected(strategy, batch, key(seed, np.arange(4)), 0.4)
    rows = np.arange(4)[:, None]
    assert np.array_equal(selected[rows, heads], selected)
    assert np.array_equal(heads[rows, heads], heads)  # a head is its own
    assert (np.diff(heads, axis=1) >= 0).all()
    assert (heads <= np.arange(30)).all()


UNKNOWN = 1


@EACH_STRATEGY
@given(unknown=arrays.arrays(bool, SHAPES), special=arrays.arrays(bool, SHAPES),
       starts=arrays.arrays(bool, SHAPES), seed=st.integers(0, 2**63))  # fmt: skip
def test_no_unknown_token_is_selected_nor_a_word_that_holds_one(
    strategy, unknown, special, starts, seed
):
    special, starts = np.resize(special, unknown.shape), np.resize(starts, unknown.shape)
    batch = chunks(special, starts)
    ids = np.where(unknown & ~special, UNKNOWN, batch.input_ids)
    batch = replace(batch, input_ids=ids)
    keys = key(seed, np.arange(len(ids)))
    whole = {"keeps_words_whole": STRATEGIES[strategy].keeps_words_whole}
    selected = selected_by(strategy, without_unknown(batch, UNKNOWN, **whole), keys, 1.0)
    expected = ids == UNKNOWN
    if whole["keeps_words_whole"]:
        words = words_of(batch)
        expected = np.isin(words, words[expected])
    assert np.array_equal(selected, ~special & ~expected)
    assert without_unknown(batch, None, **whole) is batch


@EACH_STRATEGY
@given(seed=st.integers(0, 2**63), rate=st.sampled_from([0.05, 0.15, 0.3, 0.5, 1.0]))
def test_slices_select_different_tokens_and_together_those_of_a_higher_rate(strategy, seed, rate):
    batch, keys = some_chunks(10, 50), key(seed, np.arange(10))
    heads = STRATEGIES[strategy].group(batch, keys, MaskingConfig(strategy=strategy))
    count = num_slices(rate)
    slices = [select(batch, keys, heads, rate, number) for number in range(count)]
    assert np.sum(slices, axis=0).max() <= 1
    assert np.array_equal(np.any(slices, axis=0), select(batch, keys, heads, rate * count))
    assert np.array_equal(slices[0], select(batch, keys, heads, rate))


@EACH_STRATEGY
def test_masks_of_different_keys_differ(strategy):
    batch = some_chunks(2, 400)
    first, second = selected_by(strategy, batch, key(0, np.array([1, 2])), 0.5)
    assert 100 < (first != second).sum() < 300


# ----------------------------------------------------- statistics, over a million tokens each


@pytest.fixture(scope="module")
def many():
    """Over a million tokens in words of 1.7 tokens on average, and their keys."""
    return some_chunks(10_000, 128), key(3, np.arange(10_000))


def variance_of_the_rate(batch, heads, rate):
    """Of a sum of independent draws, one a unit, over the number of tokens."""
    body = ~batch.special_tokens_mask
    units = (np.arange(len(heads))[:, None] * heads.shape[1] + heads)[body]
    sizes = np.bincount(units).astype(np.float64)
    return rate * (1 - rate) * (sizes**2).sum() / body.sum() ** 2


@EACH_STRATEGY
@pytest.mark.parametrize("rate", [0.15, 0.3])
def test_the_share_of_tokens_is_the_probability(strategy, rate, many):
    batch, keys = many
    heads, selected = heads_and_selected(strategy, batch, keys, rate)
    body = ~batch.special_tokens_mask
    assert body.sum() > 1_000_000
    deviation = selected[body].mean() - rate
    assert abs(deviation) < 4 * np.sqrt(variance_of_the_rate(batch, heads, rate))


@EACH_STRATEGY
def test_the_rate_is_the_same_at_every_position(strategy, many):
    """A position's tokens are of different chunks, so their draws are independent."""
    batch, keys = many
    selected = selected_by(strategy, batch, keys, 0.15)[:, 1:-1]
    deviations = (selected.mean(axis=0) - 0.15) / np.sqrt(0.15 * 0.85 / len(selected))
    assert abs(deviations).max() < 5
    # Positions beside each other are selected together, so only single tokens add up to a chi2.
    if strategy == "token":
        freedom = len(deviations)
        assert abs((deviations**2).sum() - freedom) < 4.5 * np.sqrt(2 * freedom)


@EACH_STRATEGY
def test_words_are_selected_whole_where_a_strategy_says_so(strategy, many):
    batch, keys = many
    words, selected = words_of(batch), selected_by(strategy, batch, keys, 0.15)
    body = words > 0
    sizes = np.bincount(words[body])
    hits = np.bincount(words[body], weights=selected[body])
    is_whole = (hits == 0) | (hits == sizes)
    assert is_whole.all() == STRATEGIES[strategy].keeps_words_whole
    assert (sizes[hits > 0] > 1).any()


def test_long_words_are_as_likely_as_short_ones(many):
    batch, keys = many
    words, selected = words_of(batch), selected_by("whole_word", batch, keys, 0.15)
    body = words > 0
    sizes, hits = np.bincount(words[body]), np.bincount(words[body], weights=selected[body])
    for size in (1, 2, 3, 4):
        of_size = (hits > 0)[sizes == size]
        assert abs(of_size.mean() - 0.15) < 4 * np.sqrt(0.15 * 0.85 / len(of_size))


def test_token_masks_cut_words(many):
    batch, keys = many
    words, selected = words_of(batch), selected_by("token", batch, keys, 0.15)
    body = words > 0
    sizes, hits = np.bincount(words[body]), np.bincount(words[body], weights=selected[body])
    assert ((hits > 0) & (hits < sizes)).any()


@pytest.mark.parametrize(("p", "longest"), [(0.2, 10), (0.5, 4), (0.01, 3), (0.3, 1)])
def test_spans_have_geometric_lengths_up_to_the_longest(p, longest):
    batch, keys = some_chunks(4000, 130), key(5, np.arange(4000))
    heads = STRATEGIES["span"].group(
        batch, keys,
        MaskingConfig(strategy="span", span_geometric_p=p, span_max_words=longest),
    )  # fmt: skip
    # The last span of each chunk is cut off by its end.
    starts = batch.word_starts & (heads != heads[:, [-2]])
    spans = np.nonzero(starts)[0] * 130 + heads[starts]
    lengths = np.bincount(np.unique(spans, return_counts=True)[1], minlength=longest + 1)
    assert len(lengths) == longest + 1
    expected = (1 - p) ** np.arange(longest)
    expected /= expected.sum()
    total = lengths.sum()
    deviations = (lengths[1:] / total - expected) / np.sqrt(
        np.maximum(expected * (1 - expected), 1e-12) / total
    )
    # Leaving out the span at each end favours short ones a little, by less than 2 %.
    assert (abs(lengths[1:] / total - expected) < 0.02).all(), deviations


def test_a_span_has_3_8_words_on_average_by_default():
    """The figure of the paper: spans longer than ten words are drawn again, not cut to ten."""
    config = MaskingConfig(strategy="span")
    weights = (1 - config.span_geometric_p) ** np.arange(config.span_max_words)
    assert (weights * np.arange(1, 11)).sum() / weights.sum() == pytest.approx(3.8, abs=0.01)
    batch, keys = some_chunks(2000, 2000, words_per_token=1.0), key(1, np.arange(2000))
    heads = STRATEGIES["span"].group(batch, keys, config)
    num_spans = (heads[:, 1:-1] == np.arange(1, 1999)).sum()
    assert 2000 * 1998 / num_spans == pytest.approx(3.8, abs=0.02)


def test_a_span_ends_where_a_document_does():
    special = np.zeros((500, 60), dtype=bool)
    special[:, [0, 20, 40, 59]] = True
    batch = chunks(special)
    heads = STRATEGIES["span"].group(batch, key(0, np.arange(500)), MaskingConfig(strategy="span"))
    for first in (1, 21, 41):
        assert (heads[:, first] == first).all()


# ---------------------------------------------------------------------------- the rate by step


def test_a_rate_is_the_same_at_all_steps():
    assert {mlm_probability_at(step, 10, 0.3) for step in range(10)} == {0.3}
    assert mean_mlm_probability(0.3) == highest_mlm_probability(0.3) == 0.3


@given(start=st.floats(0.01, 1.0), end=st.floats(0.01, 1.0), max_steps=st.integers(2, 10**6))
def test_a_schedule_moves_in_a_line_from_the_first_step_to_the_last(start, end, max_steps):
    rate = RateSchedule(start=start, end=end)
    assert mlm_probability_at(0, max_steps, rate) == start
    assert mlm_probability_at(max_steps - 1, max_steps, rate) == pytest.approx(end)
    middle = mlm_probability_at((max_steps - 1) // 2, max_steps, rate)
    rounding = 1e-12
    between_steps = abs(end - start) / (max_steps - 1)
    assert abs(middle - mean_mlm_probability(rate)) <= between_steps + rounding
    assert highest_mlm_probability(rate) == max(start, end)


def test_a_schedule_of_one_step_begins_at_its_start():
    assert mlm_probability_at(0, 1, RateSchedule(start=0.3, end=0.15)) == 0.3
