"""Words in a row as numbers: what near-duplicates and overlap are found by.

Legend: W words of a text.
"""

from collections.abc import Iterator

import numpy as np
import xxhash
from numpy.typing import NDArray

from mlmtune.corpus.cleaning import slices, words

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


def word_hashes(text: str) -> NDArray[np.uint64]:
    """(W,) a hash of each word of a text."""
    hashes = [
        np.fromiter(map(xxhash.xxh3_64_intdigest, map(str.encode, words(piece))), dtype=np.uint64)
        for piece in slices(text)  # the words of a long text take many times its memory
    ]
    return np.concatenate([np.empty(0, dtype=np.uint64), *hashes])


def ngram_hashes(hashes: NDArray[np.uint64], longest: int) -> Iterator[NDArray[np.uint64]]:
    """For n from 1 to `longest` the (W - n + 1,) hashes of n words in a row; empty where W < n.

    H_n[i] = H_{n-1}[i] * m + h[i + n - 1] modulo 2^64: a polynomial in an odd m, each length from
    the one before.
    """
    rows = hashes
    yield rows
    for length in range(2, longest + 1):
        rows = rows[:-1] * _MULTIPLIER + hashes[length - 1 :]
        yield rows
