"""Confidence intervals from a paired bootstrap over documents.

Tokens of one document resemble each other, so documents are drawn with replacement, not tokens
(Efron and Tibshirani 1993, 8.6: the resampled unit must be independent). All models share the same
draws, which makes the interval of a difference narrow (Koehn 2004, section 4).
"""

import numpy as np
from numpy.typing import NDArray

from mlmtune.report.findings import Estimate

NUM_RESAMPLES = 2000
SEED = 0  # fixed, so that a report that is made again has the same intervals
BLOCK_DRAWS = 1 << 22
"""How many draws are held in memory at once."""

Sums = NDArray[np.float64]


def resampled(by_unit: Sums) -> Sums:
    """Draw units with replacement, as many as there are, and add up their values.

    Args:
        by_unit: (U, K) The values of each unit.

    Returns:
        (NUM_RESAMPLES, K) sums; all columns share the same draws.
    """
    num_units = len(by_unit)
    generator, blocks = np.random.default_rng(SEED), []
    most_at_once = max(1, BLOCK_DRAWS // num_units)
    for start in range(0, NUM_RESAMPLES, most_at_once):
        size = min(most_at_once, NUM_RESAMPLES - start)
        # How often each unit is drawn is enough: a matrix product then adds up its values.
        counts = generator.multinomial(num_units, np.full(num_units, 1 / num_units), size=size)
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


def estimate(value: float, draws: NDArray[np.float64]) -> Estimate:
    """Return a value with the interval of 95 % of its draws (Efron and Tibshirani 1993, 13.3)."""
    if len(draws) < 2:
        return Estimate(value)
    low, high = np.quantile(draws, (0.025, 0.975))
    return Estimate(value, (float(low), float(high)))
