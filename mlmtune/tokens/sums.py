"""Sums over documents: where each begins, and how much each source holds."""

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray


def end_to_end(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """(n + 1,) where each of n stretches that follow each other begins, and where the last ends."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])


def sum_by_source(
    values: NDArray[np.int64], sources: NDArray[np.uint16], num_sources: int
) -> NDArray[np.int64]:
    """(num_sources,) the sum of the values of each source.

    Args:
        values: (n,) what is summed up.
        sources: (n,) index of each value's source.
        num_sources: how many there are.
    """
    by_source = np.zeros(num_sources, dtype=np.int64)
    np.add.at(by_source, sources, values)
    return by_source


def count_by_source(
    bits: NDArray[np.bool_],
    lengths: NDArray[np.int64],
    sources: NDArray[np.uint16],
    num_sources: int,
) -> list[int]:
    """How many bits are set in the documents of each source.

    Args:
        bits: (n,) one a token.
        lengths: (D,) tokens of each document; they add up to n.
        sources: (D,) index of each document's source.
        num_sources: how many there are.
    """
    # By document: a sum over all bits at once would take eight bytes for each of them.
    borders = pairwise(end_to_end(lengths).tolist())
    counts = [np.count_nonzero(bits[begin:end]) for begin, end in borders]
    counted: list[int] = sum_by_source(np.asarray(counts, np.int64), sources, num_sources).tolist()
    return counted
