from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from mlmtune.config import MaskingConfig
from mlmtune.masking.selection import SELECTORS
from mlmtune.randomness import key
from mlmtune.tokens.chunking import ChunkBatch

STRATEGIES = pytest.mark.parametrize("strategy", SELECTORS)
SHAPES = st.tuples(st.integers(1, 8), st.integers(1, 40))


def chunks(special, word_starts=None):
    """A batch of which only the shape and the special tokens matter."""
    word_starts = ~special if word_starts is None else word_starts
    lengths = np.full(len(special), special.shape[1])
    return ChunkBatch(np.full(special.shape, 9), lengths, special, word_starts)


def test_every_strategy_of_the_config_has_a_selector():
    assert set(SELECTORS) == set(get_args(MaskingConfig.model_fields["strategy"].annotation))


@STRATEGIES
@given(special=arrays.arrays(bool, SHAPES), seed=st.integers(0, 2**63), p=st.floats(0.01, 1.0))
def test_special_tokens_are_never_selected(strategy, special, seed, p):
    selected = SELECTORS[strategy](chunks(special), key(seed, np.arange(len(special))), p)
    assert selected.shape == special.shape
    assert selected.dtype == bool
    assert not (selected & special).any()


@STRATEGIES
def test_a_probability_of_one_selects_all_but_special_tokens(strategy):
    special = np.random.default_rng(0).random((50, 60)) < 0.1
    assert np.array_equal(
        SELECTORS[strategy](chunks(special), key(1, np.arange(50)), 1.0), ~special
    )


@STRATEGIES
@given(seed=st.integers(0, 2**63), chosen=st.lists(st.integers(0, 99), min_size=1, max_size=5),
       padding=st.integers(0, 9))  # fmt: skip
def test_masks_depend_on_nothing_but_their_keys(strategy, seed, chosen, padding):
    special = np.zeros((100, 30), dtype=bool)
    together = SELECTORS[strategy](chunks(special), key(seed, np.arange(100)), 0.15)
    padded = np.pad(special[chosen], ((0, 0), (0, padding)), constant_values=True)
    alone = SELECTORS[strategy](chunks(padded), key(seed, np.asarray(chosen)), 0.15)
    assert np.array_equal(alone[:, :30], together[chosen])
    assert not alone[:, 30:].any()


@given(seed=st.integers(0, 2**63), rates=st.tuples(st.floats(0.01, 1.0), st.floats(0.01, 1.0)))
def test_a_higher_probability_selects_a_superset(seed, rates):
    batch, keys = chunks(np.zeros((20, 50), dtype=bool)), key(seed, np.arange(20))
    fewer, more = (SELECTORS["token"](batch, keys, rate) for rate in sorted(rates))
    assert not (fewer & ~more).any()


def test_a_token_is_selected_whatever_its_neighbours_are():
    special = np.random.default_rng(0).random((20, 50)) < 0.3
    keys = key(5, np.arange(20))
    free = SELECTORS["token"](chunks(np.zeros_like(special)), keys, 0.4)
    assert np.array_equal(SELECTORS["token"](chunks(special), keys, 0.4), free & ~special)


@STRATEGIES
def test_masks_of_different_keys_differ(strategy):
    special = np.zeros((2, 400), dtype=bool)
    first, second = SELECTORS[strategy](chunks(special), key(0, np.array([1, 2])), 0.5)
    assert 120 < (first != second).sum() < 280


@STRATEGIES
@pytest.mark.parametrize("rate", [0.15, 0.3])
def test_the_rate_is_what_was_asked_for(strategy, rate):
    special = np.zeros((1000, 320), dtype=bool)
    special[:, [0, -1]] = True
    selected = SELECTORS[strategy](chunks(special), key(3, np.arange(1000)), rate)[:, 1:-1]
    assert abs(selected.mean() - rate) < 4 * np.sqrt(rate * (1 - rate) / selected.size)


def test_the_rate_is_the_same_at_every_position_and_in_every_chunk():
    selected = SELECTORS["token"](
        chunks(np.zeros((1000, 320), bool)), key(3, np.arange(1000)), 0.15
    )
    for axis, n in ((0, 1000), (1, 320)):
        deviations = (selected.mean(axis) - 0.15) / np.sqrt(0.15 * 0.85 / n)
        freedom = len(deviations)
        assert abs((deviations**2).sum() - freedom) < 4.5 * np.sqrt(2 * freedom)
        assert abs(deviations).max() < 5
