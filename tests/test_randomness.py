import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlmtune.randomness import key, mix, permute, uniform

SEEDS = st.integers(0, 2**64 - 1)


def ks_statistic(draws):
    """Kolmogorov and Smirnov's distance from the uniform distribution, times sqrt(n).

    It exceeds 1.95 with a probability of 0.001.
    """
    ordered, n = np.sort(draws.ravel()), draws.size
    steps = np.arange(n + 1) / n
    return max((steps[1:] - ordered).max(), (ordered - steps[:-1]).max()) * np.sqrt(n)


def permutation(size, *parts):
    return permute(np.arange(size), size, key(*parts))


@given(size=st.integers(1, 3000), seed=SEEDS, epoch=st.integers(0, 100))
def test_a_permutation_reaches_every_place_once(size, seed, epoch):
    assert np.array_equal(np.sort(permutation(size, seed, epoch)), np.arange(size))


@pytest.mark.parametrize("size", [2**16 - 1, 2**16, 2**16 + 1])
def test_a_permutation_is_a_bijection_around_a_power_of_two(size):
    assert len(np.unique(permutation(size, 3))) == size


def test_a_huge_permutation_needs_no_memory():
    size = 10**12
    places = np.concatenate([np.arange(1000), np.arange(size - 1000, size)])
    sent = permute(places, size, key(0))
    assert len(np.unique(sent)) == len(places)
    assert sent.min() >= 0
    assert sent.max() < size
    assert abs(sent.mean() / size - 0.5) < 0.05


def test_an_empty_permutation_is_empty():
    assert permutation(0, 1).shape == (0,)


def test_permutations_of_different_keys_are_unrelated():
    first, second = permutation(1000, 7, 0), permutation(1000, 7, 1)
    # Two random permutations agree in one place on average; 12 and more has p < 1e-8.
    assert (first == second).sum() < 12
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.15


def test_each_place_may_have_a_key_of_its_own():
    """One call spans two epochs, as a global batch does."""
    places, epochs = np.array([5, 6, 0, 1]), np.array([0, 0, 1, 1])
    together = permute(places, 100, key(3, epochs))
    assert together.tolist() == [int(permutation(100, 3, e)[p]) for p, e in zip(
        places, epochs, strict=True)]  # fmt: skip


@pytest.mark.parametrize("size", [2, 3, 4, 5, 10, 16, 37])
def test_permutations_are_near_uniform_over_keys(size):
    """Each place is sent to each other place equally often."""
    keys = key(11, np.arange(4000))
    counts = np.zeros((size, size))
    for place in range(size):
        sent = permute(np.full(4000, place), size, keys)
        counts[place] = np.bincount(sent, minlength=size)
    statistic = ((counts - 4000 / size) ** 2 / (4000 / size)).sum()
    freedom = (size - 1) ** 2
    assert statistic < freedom + 4.5 * np.sqrt(2 * freedom)


@given(parts=st.lists(SEEDS, min_size=2, max_size=2, unique=True))
def test_the_order_of_a_keys_parts_matters(parts):
    first, second = parts
    assert key(first, second) != key(second, first)


def test_keys_of_small_parts_do_not_collide():
    parts = np.arange(300, dtype=np.uint64)
    assert len(np.unique(key(parts[:, None], parts[None, :]))) == 300 * 300


@given(seed=SEEDS, chunks=st.lists(SEEDS, min_size=1, max_size=20), position=st.integers(0, 600))
def test_a_draw_is_the_same_alone_and_in_any_batch(seed, chunks, position):
    chunks = np.asarray(chunks, dtype=np.uint64)
    positions = np.arange(position + 1, dtype=np.uint64)
    together = uniform(key(seed, chunks)[:, None], positions)
    for row, chunk in enumerate(chunks):
        alone = uniform(key(seed, chunk), positions[-1:])
        assert together[row, position] == alone[0]


def test_uniform_draws_are_uniform():
    draws = uniform(key(1, np.arange(1000))[:, None], np.arange(500, dtype=np.uint64))
    assert draws.min() >= 0.0
    assert draws.max() < 1.0
    assert ks_statistic(draws) < 1.95
    # Nor does a sequence's or a position's mean stand out from what chance allows: of 1,500 such
    # means none should lie beyond 4.5 standard deviations, and their spread is known.
    for axis, n in ((1, 500), (0, 1000)):
        deviations = (draws.mean(axis) - 0.5) * np.sqrt(12 * n)
        assert abs(deviations).max() < 4.5
        assert 0.85 < deviations.std() < 1.15


@pytest.mark.parametrize("axis", [0, 1])
def test_neighbouring_draws_are_uncorrelated(axis):
    draws = uniform(key(1, np.arange(1000))[:, None], np.arange(500, dtype=np.uint64))
    first, second = np.take(draws, range(499), axis), np.take(draws, range(1, 500), axis)
    correlation = np.corrcoef(first.ravel(), second.ravel())[0, 1]
    assert abs(correlation) < 4 / np.sqrt(first.size)


def test_mix_is_splitmix64():
    """The first outputs of the published generator with seed 0."""
    golden = 0x9E3779B97F4A7C15
    states = np.array([(golden * n) % 2**64 for n in (1, 2, 3)], dtype=np.uint64)
    assert [hex(value) for value in mix(states).tolist()] == [
        "0xe220a8397b1dcdaf", "0x6e789e6aa1b965f4", "0x6c45d188009454f",
    ]  # fmt: skip
