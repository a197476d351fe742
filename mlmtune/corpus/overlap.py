"""A search for documents that share n words in a row with a test set, which must not be learned.

Brown et al. 2020 (GPT-3, appendix C) measure overlap in this way, with 13 words.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain, islice
from typing import Self

import numpy as np
from numpy.typing import NDArray

from mlmtune.corpus.cleaning import word_slices, words
from mlmtune.corpus.ngrams import distinct, ngram_hashes, word_windows

SHORTEST = 5
"""A reference text of fewer words is not searched for, because many documents hold it by chance."""


class BloomFilter:
    """A Bloom filter: a small set of hashes that has at most one in 16 others as a false positive.

    It has one hash function, the upper bits of a hash. See Bloom 1970, "Space/time trade-offs in
    hash coding with allowable errors".
    """

    def __init__(self, hashes: NDArray[np.uint64]) -> None:
        num_bits = max(16, (16 * len(hashes)).bit_length())
        self.shift = np.uint64(64 - num_bits)
        self.bytes = np.zeros(1 << (num_bits - 3), dtype=np.uint8)
        bits = hashes >> self.shift
        np.bitwise_or.at(self.bytes, bits >> np.uint64(3), _bit(bits))

    def may_contain(self, hashes: NDArray[np.uint64]) -> NDArray[np.bool_]:
        bits = hashes >> self.shift
        is_set: NDArray[np.bool_] = (self.bytes[bits >> np.uint64(3)] & _bit(bits)) != 0
        return is_set


def _bit(bits: NDArray[np.uint64]) -> NDArray[np.uint8]:
    return np.left_shift(np.uint8(1), (bits & np.uint64(7)).astype(np.uint8))


@dataclass(frozen=True)
class OverlapIndex:
    """The n-grams of reference texts.

    A reference text of fewer than n words, but at least `SHORTEST`, is one n-gram of its own
    length. Two different n-grams have the same hash once in 2^64 pairs. So for 1e9 words of a
    corpus and 1e6 words of references, the probability of any false match is 1e-4.

    Attributes:
        hashes: The sorted hashes of the n-grams of each length.
        beginnings: The hashes of their first `SHORTEST` words, which rule out most positions of a
            text without a search in the long arrays.
        num_words: N.
        num_too_short: The number of reference texts that are not searched for.
    """

    hashes: dict[int, NDArray[np.uint64]]
    beginnings: BloomFilter
    num_words: int
    num_too_short: int

    @classmethod
    def of(cls, texts: Iterable[str], num_words: int) -> Self:
        """Index the n-grams of `num_words` words of reference texts."""
        beginnings = [np.empty(0, dtype=np.uint64)]
        by_length: defaultdict[int, list[NDArray[np.uint64]]] = defaultdict(list)
        num_too_short = 0
        for text in texts:
            is_too_short = True
            for _, hashes in word_windows(text, num_words):
                length = min(len(hashes), num_words)
                if length >= SHORTEST:
                    is_too_short = False
                    rows = list(ngram_hashes(hashes, length))
                    by_length[length].append(rows[-1])
                    # Shorter n-grams are more; the last ones begin no n-gram of this length.
                    beginnings.append(rows[SHORTEST - 1][: len(rows[-1])])
            num_too_short += is_too_short
        joined = {length: distinct(np.concatenate(rows)) for length, rows in by_length.items()}
        bloom_filter = BloomFilter(distinct(np.concatenate(beginnings)))
        return cls(joined, bloom_filter, num_words, num_too_short)

    def first_shared(self, text: str) -> str | None:
        """Return the first n-gram of a text that a reference has, too; None if there is none.

        Of several that end at the same word, it is the longest.
        """
        for first, hashes in word_windows(text, self.num_words):
            span = self._first_shared(hashes)
            if span is not None:
                begin, end = span
                all_words = chain.from_iterable(map(words, word_slices(text)))
                return " ".join(islice(all_words, first + begin, first + end))
        return None

    def _first_shared(self, hashes: NDArray[np.uint64]) -> tuple[int, int] | None:
        """Return the first and the last word of that n-gram in a window, the last exclusive."""
        spans: list[tuple[int, int]] = []
        begins = np.empty(0, dtype=np.int64)
        for length, rows in enumerate(ngram_hashes(hashes, self.num_words), start=1):
            if length == SHORTEST:
                begins = np.flatnonzero(self.beginnings.may_contain(rows))
            begins = begins[begins < len(rows)]
            if length >= SHORTEST and len(begins) == 0:
                break  # longer n-grams have the same beginnings
            indexed = self.hashes.get(length)
            if indexed is not None:
                positions = np.searchsorted(indexed, rows[begins])
                is_shared = indexed[np.minimum(positions, len(indexed) - 1)] == rows[begins]
                spans += [(begin, begin + length) for begin in begins[is_shared][:1].tolist()]
        return min(spans, key=lambda span: (span[1], span[0]), default=None)
