"""How domain-specific a word is: how much more frequent it is here than in general text.

The token store says where words begin. A word is identified by a hash of its tokens, so that
millions of words are counted without making a string.
"""

import numpy as np
from numpy.typing import NDArray

from mlmtune.randomness import key
from mlmtune.tokens.store import TokenStore
from mlmtune.vocabulary.choosing import SMOOTHING

SAMPLE_TOKENS = 1 << 24
"""How much text word frequencies are counted on; documents are sampled from more text."""

SAMPLE_STREAM = 0x5EC1
"""Separates this draw from the others."""

BINS = (
    ("8 times and more", 8.0),
    ("2 to 8 times", 2.0),
    ("about as often", 0.5),
    ("less than half", 0.0),
)
"""The name of each kind of word, and its least ratio of the frequency here to that in general."""


class Vocabulary:
    """The frequencies of the words of some documents."""

    def __init__(self, hashes: NDArray[np.uint64]) -> None:
        self._hashes, self._counts = np.unique(hashes, return_counts=True)
        self.num_words = len(hashes)

    def frequency(self, hashes: NDArray[np.uint64]) -> NDArray[np.float64]:
        """Return (n,) the smoothed share of all words that each of n words makes up."""
        index = np.searchsorted(self._hashes, hashes).clip(max=max(len(self._hashes) - 1, 0))
        counts = np.zeros(len(hashes))
        if len(self._hashes):
            counts = np.where(self._hashes[index] == hashes, self._counts[index], 0)
        total = self.num_words + SMOOTHING * (len(self._hashes) + 1)
        frequencies: NDArray[np.float64] = (counts + SMOOTHING) / total
        return frequencies


def words_of(store: TokenStore, documents: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Return the hash of each word of some documents, document by document."""
    return _hashed(store, documents)[1]


def words_at(store: TokenStore, positions: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Return (n,) the hash of the word that contains the token at each of n positions."""
    starts, hashes = _hashed(store, np.unique(store.documents_at(positions)))
    words: NDArray[np.uint64] = hashes[np.searchsorted(starts, positions, side="right") - 1]
    return words


def _hashed(
    store: TokenStore, documents: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
    """Return the position of the first token of each word of some documents, and its hash."""
    positions = store.positions_of(documents)
    if len(positions) == 0:
        return positions, np.empty(0, np.uint64)
    ids, begins = store.tokens_at(positions)
    # A document may begin in what its tokenizer takes for the middle of a word.
    begins = begins | np.isin(positions, store.offsets[documents])
    starts = np.flatnonzero(begins)
    in_word = np.arange(len(ids)) - np.repeat(starts, np.diff(np.append(starts, len(ids))))
    # A sum of hashes does not depend on the order, so each hash includes the place in the word.
    return positions[starts], np.add.reduceat(key(0, ids, in_word), starts)


def vocabulary(store: TokenStore, documents: NDArray[np.int64]) -> Vocabulary:
    """Count the words of some documents, or of a large sample of them."""
    return Vocabulary(words_of(store, store.sample(documents, SAMPLE_TOKENS, SAMPLE_STREAM)))


def kinds(ratios: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return (n,) the index in BINS of each ratio of frequencies."""
    borders = np.asarray([border for _, border in BINS[:-1]])
    kind: NDArray[np.int64] = (ratios[:, None] < borders).sum(axis=1)
    return kind
