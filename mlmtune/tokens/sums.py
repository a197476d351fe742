"""Sums over documents: where each begins, and how much each source holds."""

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray


def end_to_end(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return (n + 1,) where each of n consecutive stretches begins, and where the last one ends."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])


def sum_by_source(
    values: NDArray[np.int64], sources: NDArray[np.uint16], num_sources: int
) -> NDArray[np.int64]:
    """Return (num_sources,) the sum of each source's values.

    Args:
        values: (n,) The values.
        sources: (n,) The index of each value's source.
        num_sources: The number of sources, some of which may have no value.
    """
    by_source = np.zeros(num_sources, dtype=np.int64)
    np.add.at(by_source, sources, values)
    return by_source


def count_by_document(bits: NDArray[np.bool_], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return (D,) how many bits are set in each document.

    Args:
        bits: (n,) One bit per token.
        lengths: (D,) The number of tokens of each document; they add up to n.
    """
    # A cumulative sum over the bits would take eight bytes for each.
    borders = pairwise(end_to_end(lengths).tolist())
    return np.asarray([np.count_nonzero(bits[a:b]) for a, b in borders], dtype=np.int64)
