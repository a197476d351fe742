"""How domain-specific a word is: how much more often it stands here than in general text.

A word is what the token store says begins and goes on as one; it is known by a hash of its tokens,
so that millions of words are counted without making one string.
"""

import numpy as np
from numpy.typing import NDArray

from mlmtune.randomness import key, permute
from mlmtune.tokens.store import TokenStore

SAMPLE_TOKENS = 1 << 24
"""Text looked at for how often words stand in it; documents are drawn where there is more."""

SAMPLE_STREAM = 0x5EC1
"""Keeps this draw apart from others."""

SMOOTHING = 0.5
"""Added to each count: a word that was not seen is rare, not impossible."""

BINS = (
    ("8 times and more", 8.0),
    ("2 to 8 times", 2.0),
    ("about as often", 0.5),
    ("less than half", 0.0),
)
"""Name of each kind of word, and the ratio of frequencies, here to general, that it begins at."""


class Vocabulary:
    """The words of some documents, with how often each occurs."""

    def __init__(self, hashes: NDArray[np.uint64]) -> None:
        self._hashes, self._counts = np.unique(hashes, return_counts=True)
        self.num_words = len(hashes)

    def frequency(self, hashes: NDArray[np.uint64]) -> NDArray[np.float64]:
        """(n,) share of all words that each of n words makes up, smoothed."""
        place = np.searchsorted(self._hashes, hashes).clip(max=max(len(self._hashes) - 1, 0))
        counts = np.zeros(len(hashes))
        if len(self._hashes):
            counts = np.where(self._hashes[place] == hashes, self._counts[place], 0)
        total = self.num_words + SMOOTHING * (len(self._hashes) + 1)
        frequencies: NDArray[np.float64] = (counts + SMOOTHING) / total
        return frequencies


def words_of(store: TokenStore, documents: NDArray[np.int64]) -> NDArray[np.uint64]:
    """A hash of each word of some documents, one document after the other."""
    _, hashes = _hashed(store, documents)
    return hashes


def words_at(store: TokenStore, positions: NDArray[np.int64]) -> NDArray[np.uint64]:
    """(n,) the hash of the word that the token at each of n positions is part of."""
    documents = np.unique(store.documents_at(positions))
    starts, hashes = _hashed(store, documents)
    found: NDArray[np.uint64] = hashes[np.searchsorted(starts, positions, side="right") - 1]
    return found


def _hashed(
    store: TokenStore, documents: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
    """Position of the first token of each word of some documents (in order), and its hash."""
    lengths = store.documents.lengths[documents]
    first = np.repeat(store.offsets[documents] - (np.cumsum(lengths) - lengths), lengths)
    positions = first + np.arange(len(first))
    if len(positions) == 0:
        return positions, np.empty(0, np.uint64)
    ids, begins = store.tokens_at(positions)
    begins = begins | np.isin(positions, store.offsets[documents])
    starts = np.flatnonzero(begins)
    place = np.arange(len(ids)) - np.repeat(starts, np.diff(np.append(starts, len(ids))))
    return positions[starts], np.add.reduceat(key(0, ids, place), starts)


def vocabulary(store: TokenStore, documents: NDArray[np.int64]) -> Vocabulary:
    """The words of some documents, or of as many of them as make a large sample."""
    order = permute(np.arange(len(documents)), len(documents), key(0, SAMPLE_STREAM))
    drawn = documents[order]
    before = np.cumsum(store.documents.lengths[drawn]) - store.documents.lengths[drawn]
    return Vocabulary(words_of(store, np.sort(drawn[before < SAMPLE_TOKENS])))


def kinds(ratios: NDArray[np.float64]) -> NDArray[np.int64]:
    """(n,) which of BINS each ratio of frequencies falls into."""
    borders = np.asarray([border for _, border in BINS[:-1]])
    kind: NDArray[np.int64] = (ratios[:, None] < borders).sum(axis=1)
    return kind
