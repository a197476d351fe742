"""Confidence intervals from a paired bootstrap over documents, or over labelled examples.

Tokens of one document resemble each other, so documents are drawn with replacement, not tokens
(Efron and Tibshirani 1993, 8.6: the resampled unit must be independent). All models share the same
draws, which makes the interval of a difference narrow (Koehn 2004, section 4).
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

NUM_RESAMPLES = 2000
SEED = 0  # fixed, so that a report that is made again has the same intervals
BLOCK_DRAWS = 1 << 22
"""How many draws are held in memory at once."""

Sums = NDArray[np.float64]


def resampled(by_unit: Sums, times: NDArray[np.int64] | None = None) -> Sums:
    """Draw units with replacement, as many as there are, and add up their values.

    Args:
        by_unit: (U, K) The values of each unit.
        times: (U,) How many units have these values; 1 each if None. To give equal units once is
            faster, but then no other call shares the draws.

    Returns:
        (NUM_RESAMPLES, K) sums; all columns share the same draws.
    """
    times = np.ones(len(by_unit), dtype=np.int64) if times is None else times
    num_units, shares = int(times.sum()), times / times.sum()
    generator, blocks = np.random.default_rng(SEED), []
    most_at_once = max(1, BLOCK_DRAWS // len(by_unit))
    for start in range(0, NUM_RESAMPLES, most_at_once):
        size = min(most_at_once, NUM_RESAMPLES - start)
        # How often each unit is drawn is enough: a matrix product then adds up its values.
        counts = generator.multinomial(num_units, shares, size=size)
        blocks.append(counts.astype(np.float64) @ by_unit)
    return np.concatenate(blocks)


def sums_by_unit(units: NDArray[np.int64], values: list[NDArray[np.float64]]) -> Sums:
    """Add up the values of tokens by the unit that each token belongs to.

    Args:
        units: (n,) The document or the chunk of each token.
        values: K arrays (n,).

    Returns:
        (U, K) the sums of each unit.
    """
    _, numbers = np.unique(units, return_inverse=True)
    return np.stack([np.bincount(numbers, weights=value) for value in values], axis=1)


def interval(draws: NDArray[np.float64]) -> tuple[float, float] | None:
    """Return the interval of 95 % of some draws (Efron and Tibshirani 1993, 13.3).

    None if there are fewer than two.
    """
    if len(draws) < 2:
        return None
    low, high = np.quantile(draws, (0.025, 0.975))
    return float(low), float(high)


def score_interval(
    by_unit: Sums, times: NDArray[np.int64], score: Callable[[Sums], NDArray[np.float64]]
) -> tuple[float, float] | None:
    """Return the 95 % interval of a score; None if there is a single unit.

    Args:
        by_unit: (U, K) Values of units.
        times: (U,) How many units have these values.
        score: Computes the scores (n,) of n sums of the units' values (n, K).
    """
    return interval(score(resampled(by_unit, times))) if times.sum() > 1 else None
