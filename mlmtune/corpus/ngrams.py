"""Hashes of words and of n-grams, by which near-duplicates and overlap are found.

Legend: W words of a text.
"""

from collections.abc import Iterator
from typing import TypeVar

import numpy as np
import xxhash
from numpy.typing import NDArray

from mlmtune.corpus.cleaning import word_slices, words

_Unsigned = TypeVar("_Unsigned", np.uint32, np.uint64)

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


def word_windows(text: str, size: int) -> Iterator[tuple[int, NDArray[np.uint64]]]:
    """Hash the words of a text, slice by slice, each with the `size - 1` words before it.

    So any `size` words in a row are in one window, and a long text takes no more memory than a
    slice. A text of fewer words is one window, and a text without words is none.

    Yields:
        The number of the first word in the text, and (W,) hashes.
    """
    first, window = 0, np.empty(0, dtype=np.uint64)
    for piece in word_slices(text):
        encoded = map(str.encode, words(piece))
        hashes = np.fromiter(map(xxhash.xxh3_64_intdigest, encoded), dtype=np.uint64)
        if len(hashes) == 0:
            continue
        num_past = max(0, len(window) - size + 1)
        first, window = first + num_past, np.concatenate([window[num_past:], hashes])
        if len(window) >= size:
            yield first, window
    if 0 < len(window) < size:
        yield first, window


def ngram_hashes(hashes: NDArray[np.uint64], longest: int) -> Iterator[NDArray[np.uint64]]:
    """Yield, for n from 1 to `longest`, the (W - n + 1,) hashes of all n words in a row.

    H_n[i] = H_{n-1}[i] * m + h[i + n - 1] modulo 2^64, a polynomial in an odd m.
    """
    rows = hashes
    yield rows
    for length in range(2, longest + 1):
        rows = rows[:-1] * _MULTIPLIER + hashes[length - 1 :]
        yield rows


def distinct(values: NDArray[_Unsigned]) -> NDArray[_Unsigned]:
    """Sort values and drop repeats; np.unique takes a hundred times as long in numpy 2.4."""
    ranked = np.sort(values)
    is_new: NDArray[np.bool_] = np.diff(ranked, prepend=~ranked[:1]) != 0
    return ranked[is_new]
