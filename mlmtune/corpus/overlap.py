"""Text that must not be learned: documents that share words in a row with a test set.

The measure is that of Brown et al. 2020 (GPT-3, appendix C): 13 words in a row.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain, islice
from typing import Self

import numpy as np
from numpy.typing import NDArray

from mlmtune.corpus.cleaning import word_slices, words
from mlmtune.corpus.ngrams import distinct, ngram_hashes, word_windows

SHORTEST = 5
"""Words of a reference text below which sharing it means nothing."""


class _Sieve:
    """A set of hashes, quick to ask, that takes at most one in 16 others for one of its own.

    The upper bits of a hash say which bit stands for it: a Bloom filter (Bloom 1970, "Space/time
    trade-offs in hash coding with allowable errors") of one function.
    """

    def __init__(self, hashes: NDArray[np.uint64]) -> None:
        num_bits = max(16, (16 * len(hashes)).bit_length())
        self.shift = np.uint64(64 - num_bits)
        self.bytes = np.zeros(1 << (num_bits - 3), dtype=np.uint8)
        bits = hashes >> self.shift
        np.bitwise_or.at(self.bytes, bits >> np.uint64(3), _bit(bits))

    def may_hold(self, hashes: NDArray[np.uint64]) -> NDArray[np.bool_]:
        bits = hashes >> self.shift
        held: NDArray[np.bool_] = (self.bytes[bits >> np.uint64(3)] & _bit(bits)) != 0
        return held


def _bit(bits: NDArray[np.uint64]) -> NDArray[np.uint8]:
    return np.left_shift(np.uint8(1), (bits & np.uint64(7)).astype(np.uint8))


@dataclass(frozen=True)
class OverlapIndex:
    """The n-grams of reference texts.

    A reference text of fewer than n words, but at least `SHORTEST`, counts as one n-gram of its own
    length. Two different n-grams have the same hash once in 2^64 pairs: a thousand million of the
    corpus's words against a million of the references' meet by chance with a probability of 1e-4.

    Attributes:
        hashes: for each length the sorted hashes of its n-grams.
        beginnings: the hashes of their first `SHORTEST` words: most places of a text need no
            search in the long arrays.
        num_words: n.
        num_too_short: reference texts that are not searched for.
    """

    hashes: dict[int, NDArray[np.uint64]]
    beginnings: _Sieve
    num_words: int
    num_too_short: int

    @classmethod
    def of(cls, texts: Iterable[str], num_words: int) -> Self:
        """Index reference texts.

        Args:
            texts: the references.
            num_words: n.
        """
        beginnings = [np.empty(0, dtype=np.uint64)]
        found: dict[int, list[NDArray[np.uint64]]] = {}
        num_too_short = 0
        for text in texts:
            is_too_short = True
            for _, hashes in word_windows(text, num_words):
                length = min(len(hashes), num_words)
                if length >= SHORTEST:
                    is_too_short = False
                    rows = list(ngram_hashes(hashes, length))
                    found.setdefault(length, []).append(rows[-1])
                    beginnings.append(rows[SHORTEST - 1][: len(rows[-1])])
            num_too_short += is_too_short
        joined = {length: distinct(np.concatenate(rows)) for length, rows in found.items()}
        sieve = _Sieve(distinct(np.concatenate(beginnings)))
        return cls(joined, sieve, num_words, num_too_short)

    def first_shared(self, text: str) -> str | None:
        """The first words in a row of a text that a reference has, too; None if there are none.

        The first are those that end first, and of several with one end the most.
        """
        for first, hashes in word_windows(text, self.num_words):
            found = self._first_shared(hashes)
            if found is not None:
                begin, end = found
                all_words = chain.from_iterable(map(words, word_slices(text)))
                return " ".join(islice(all_words, first + begin, first + end))
        return None

    def _first_shared(self, hashes: NDArray[np.uint64]) -> tuple[int, int] | None:
        """Where those of a window begin and end."""
        found: list[tuple[int, int]] = []
        begins = np.empty(0, dtype=np.int64)
        for length, rows in enumerate(ngram_hashes(hashes, self.num_words), start=1):
            if length == SHORTEST:
                begins = np.flatnonzero(self.beginnings.may_hold(rows))
            begins = begins[begins < len(rows)]
            if length >= SHORTEST and len(begins) == 0:
                break
            wanted = self.hashes.get(length)
            if wanted is not None:
                places = np.searchsorted(wanted, rows[begins])
                is_shared = wanted[np.minimum(places, len(wanted) - 1)] == rows[begins]
                found += [(begin, begin + length) for begin in begins[is_shared][:1].tolist()]
        return min(found, key=lambda span: (span[1], span[0]), default=None)
