import copy

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from mlmtune.masking.corruption import Corruption, replacement_ids
from mlmtune.randomness import key

MASK = 4
ALLOWED = np.asarray([10, 11, 13, 17, 20, 21, 22, 23])
ORIGINAL = 99
"""Not among the allowed ids, so that every replacement is seen."""


def corrupted(selected, mask=0.8, random=0.1, seed=0, ids=None, keys=None, heads=None):
    ids = np.full(selected.shape, ORIGINAL) if ids is None else ids
    return Corruption(MASK, ALLOWED, mask_replace_prob=mask, random_replace_prob=random).apply(
        ids,
        selected,
        np.broadcast_to(np.arange(selected.shape[1]), selected.shape) if heads is None else heads,
        key(seed, np.arange(len(selected))) if keys is None else keys,
    )


@given(
    selected=arrays.arrays(bool, st.tuples(st.integers(1, 6), st.integers(1, 40))),
    seed=st.integers(0, 2**63),
    shares=st.sampled_from([(0.8, 0.1), (0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (0.5, 0.5)]),
)
def test_what_is_not_selected_stays_and_the_rest_is_one_of_three(selected, seed, shares):
    ids = np.arange(selected.size).reshape(selected.shape) + 1000
    before = ids.copy()
    result = corrupted(selected, *shares, seed=seed, ids=ids)
    assert np.array_equal(ids, before)
    assert np.array_equal(result[~selected], ids[~selected])
    changed = result[selected & (result != ids)]
    allowed = ([MASK] if shares[0] else []) + (ALLOWED.tolist() if shares[1] else [])
    assert np.isin(changed, allowed).all()
    if sum(shares) == 1.0:
        assert len(changed) == selected.sum()


@given(seed=st.integers(0, 2**63), chosen=st.lists(st.integers(0, 29), min_size=1, max_size=5))
def test_the_same_keys_corrupt_alike_in_any_batch(seed, chosen):
    keys = key(seed, np.arange(30))
    together = corrupted(np.ones((30, 25), dtype=bool), 0.4, 0.4, keys=keys)
    alone = corrupted(np.ones((len(chosen), 31), dtype=bool), 0.4, 0.4, keys=keys[chosen])
    assert np.array_equal(alone[:, :25], together[chosen])


def test_what_becomes_of_a_token_does_not_depend_on_which_others_are_selected():
    everything = np.ones((30, 50), dtype=bool)
    some = np.random.default_rng(0).random(everything.shape) < 0.2
    assert np.array_equal(corrupted(some)[some], corrupted(everything)[some])


@pytest.mark.parametrize("shares", [(0.8, 0.1), (0.5, 0.3), (0.0, 0.0), (1.0, 0.0), (0.0, 1.0)])
def test_the_shares_are_what_was_asked_for(shares):
    result = corrupted(np.ones((1000, 320), dtype=bool), *shares)
    n = result.size
    observed = (result == MASK).mean(), np.isin(result, ALLOWED).mean(), (result == ORIGINAL).mean()
    assert sum(observed) == pytest.approx(1.0)
    for share, expected in zip(observed, (*shares, 1 - sum(shares)), strict=True):
        assert abs(share - expected) <= 4 * np.sqrt(max(expected * (1 - expected), 0) / n) + 1e-12


def in_units(shape, length):
    """Heads of units of so many tokens each."""
    columns = np.arange(shape[1]) // length * length
    return np.broadcast_to(columns, shape)


@given(seed=st.integers(0, 2**63), length=st.integers(1, 7))
def test_what_is_selected_together_has_one_fate(seed, length):
    shape = (20, 42)
    result = corrupted(np.ones(shape, bool), 0.4, 0.3, seed=seed, heads=in_units(shape, length))
    fates = np.where(result == MASK, 0, np.where(result == ORIGINAL, 1, 2))
    of_units = fates.reshape(20, 42 // length, length) if 42 % length == 0 else fates[:, :, None]
    assert (of_units == of_units[..., :1]).all()


def test_the_shares_are_those_of_units_over_a_million_tokens():
    shape, length = (4000, 252), 3
    result = corrupted(np.ones(shape, bool), heads=in_units(shape, length))[:, ::length]
    for share, expected in (
        ((result == MASK).mean(), 0.8),
        (np.isin(result, ALLOWED).mean(), 0.1),
        ((result == ORIGINAL).mean(), 0.1),
    ):
        assert abs(share - expected) < 4 * np.sqrt(expected * (1 - expected) / result.size)


def test_random_tokens_of_a_unit_are_drawn_apart():
    shape = (2000, 200)
    result = corrupted(np.ones(shape, bool), 0.0, 1.0, heads=in_units(shape, 2))
    same = (result[:, ::2] == result[:, 1::2]).mean()
    chance = 1 / len(ALLOWED)
    assert abs(same - chance) < 4 * np.sqrt(chance * (1 - chance) / (result.size / 2))


def test_a_tokens_fate_is_not_tied_to_its_selection():
    """Selection and fate are draws apart: the selected at a low rate get the same shares."""
    from mlmtune.randomness import uniform

    keys = key(0, np.arange(3000))
    draws = uniform(keys[:, None], np.arange(200, dtype=np.uint64))
    result = corrupted(draws < 0.15, keys=keys)[draws < 0.15]
    assert abs((result == MASK).mean() - 0.8) < 4 * np.sqrt(0.16 / len(result))
    lower = corrupted(draws < 0.05, keys=keys)[draws < 0.05]
    assert abs((lower == MASK).mean() - 0.8) < 4 * np.sqrt(0.16 / len(lower))


def test_replacements_are_uniform_over_the_allowed_ids():
    result = corrupted(np.ones((1000, 320), dtype=bool), 0.0, 1.0)
    ids, counts = np.unique(result, return_counts=True)
    assert ids.tolist() == ALLOWED.tolist()
    expected = result.size / len(ALLOWED)
    freedom = len(ALLOWED) - 1
    assert ((counts - expected) ** 2 / expected).sum() < freedom + 4 * np.sqrt(2 * freedom)


def test_replacements_do_not_follow_from_the_draw_that_chose_them():
    """At a small share of random tokens each allowed id still occurs."""
    result = corrupted(np.ones((1000, 320), dtype=bool), 0.8, 0.02)
    _, counts = np.unique(result[np.isin(result, ALLOWED)], return_counts=True)
    expected = counts.sum() / len(ALLOWED)
    freedom = len(ALLOWED) - 1
    assert len(counts) == len(ALLOWED)
    assert ((counts - expected) ** 2 / expected).sum() < freedom + 4 * np.sqrt(2 * freedom)


def test_special_and_unused_ids_are_not_drawn(tokenizer):
    allowed = replacement_ids(tokenizer)
    left_out = [t for t, id_ in tokenizer.get_vocab().items() if id_ not in set(allowed.tolist())]
    assert sorted(left_out) == sorted(
        [*tokenizer.all_special_tokens, *(f"[unused{n}]" for n in range(5))]
    )
    assert len(left_out) == 10
    assert (np.diff(allowed) > 0).all()


def test_added_tokens_are_drawn_unless_they_are_special_or_unused(tokenizer):
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.add_tokens(["kubernetes", "<unused7>", "madeupword0003", "|||IP_ADDRESS|||"])
    tokenizer.add_special_tokens({"additional_special_tokens": ["[TURN]"]})
    tokenizer.add_tokens(["[SPEAKER]"], special_tokens=True)
    drawn = set(tokenizer.convert_ids_to_tokens(replacement_ids(tokenizer).tolist()))
    assert "kubernetes" in drawn
    assert not drawn & {"<unused7>", "madeupword0003", "|||IP_ADDRESS|||", "[TURN]", "[SPEAKER]"}


def test_a_roberta_draws_no_special_ids(byte_tokenizer):
    allowed = replacement_ids(byte_tokenizer)
    assert len(allowed) == len(byte_tokenizer) - 5
    assert not np.isin(byte_tokenizer.all_special_ids, allowed).any()
