import numpy as np
import pytest

from mlmtune.evaluation import bootstrap
from mlmtune.evaluation.bootstrap import interval, resampled, score_interval, sums_by_unit


def interval_of_means(units, values):
    """Of the mean over tokens, by the documents that they are of."""
    by_unit = sums_by_unit(units, [np.ones(len(values)), values])
    draws = resampled(by_unit)
    return interval(draws[:, 1] / draws[:, 0])


def test_sums_are_those_of_each_unit():
    units = np.asarray([7, 3, 7, 9])
    sums = sums_by_unit(units, [np.ones(4), np.asarray([1.0, 10.0, 2.0, 5.0])])
    assert sums.tolist() == [[1, 10], [2, 3], [1, 5]]


def test_the_interval_covers_the_truth_as_often_as_it_says():
    covered = 0
    for seed in range(200):
        draw = np.random.default_rng(seed)
        sizes = draw.integers(5, 40, size=60)
        units = np.repeat(np.arange(60), sizes)
        # Tokens of a document share what the document is like.
        values = 2.0 + draw.normal(size=60)[units] + draw.normal(size=len(units))
        low, high = interval_of_means(units, values)
        covered += low <= 2.0 <= high
    assert 0.89 <= covered / 200 <= 0.99


def test_tokens_that_are_alike_within_documents_make_it_wider_than_tokens_alone():
    draw = np.random.default_rng(0)
    units = np.repeat(np.arange(50), 20)
    values = draw.normal(size=50)[units] + 0.1 * draw.normal(size=1000)
    by_document = np.diff(interval_of_means(units, values))[0]
    by_token = np.diff(interval_of_means(np.arange(1000), values))[0]
    assert by_document > 3 * by_token


def test_pairing_narrows_the_interval_of_a_difference():
    draw = np.random.default_rng(1)
    units = np.repeat(np.arange(50), 20)
    base = 3.0 + draw.normal(size=50)[units] + draw.normal(size=1000)
    adapted = base - 0.2 + 0.05 * draw.normal(size=1000)
    draws = resampled(sums_by_unit(units, [np.ones(1000), base, adapted]))
    means = draws / draws[:, :1]
    low, high = np.quantile(means[:, 2] - means[:, 1], (0.025, 0.975))
    assert low < -0.2 < high < 0
    assert high - low < 0.1 * np.diff(interval_of_means(units, base))[0]


def test_the_draws_do_not_depend_on_how_many_are_held_at_once(monkeypatch):
    sums = np.random.default_rng(2).normal(size=(30, 2))
    whole = resampled(sums)
    assert len(whole) == bootstrap.NUM_RESAMPLES
    monkeypatch.setattr(bootstrap, "BLOCK_DRAWS", 30 * 7)
    assert resampled(sums) == pytest.approx(whole)


def test_equal_units_may_be_given_once():
    values = np.random.default_rng(3).integers(2, size=(500, 1)).astype(float)
    rows, times = np.unique(values, axis=0, return_counts=True)
    together, apart = resampled(rows, times), resampled(values)
    assert together.mean() == pytest.approx(apart.mean(), rel=0.02)
    assert together.std() == pytest.approx(apart.std(), rel=0.1)


def test_a_single_unit_has_no_interval():
    assert score_interval(np.ones((1, 1)), np.ones(1, dtype=np.int64), np.ravel) is None
    assert score_interval(np.ones((1, 1)), np.asarray([2]), np.ravel) == (2.0, 2.0)
