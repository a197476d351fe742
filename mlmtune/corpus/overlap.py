"""Text that must not be learned: documents that share words in a row with a test set.

The measure is that of Brown et al. 2020 (GPT-3, appendix C): 13 words in a row.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain, islice
from typing import Self

import numpy as np
from numpy.typing import NDArray

from mlmtune.corpus.cleaning import slices, words
from mlmtune.corpus.ngrams import ngram_hashes, word_hashes

SHORTEST = 5
"""Words of a reference text below which sharing it means nothing."""


@dataclass(frozen=True)
class OverlapIndex:
    """The n-grams of reference texts.

    A reference text of fewer than n words, but at least `SHORTEST`, counts as one n-gram of its own
    length. Two different n-grams have the same hash once in 2^64 pairs: a thousand million of the
    corpus's words against a million of the references' meet by chance with a probability of 1e-4.

    Attributes:
        hashes: for each length the sorted hashes of its n-grams.
        num_too_short: reference texts that are not searched for.
    """

    hashes: dict[int, NDArray[np.uint64]]
    num_too_short: int

    @classmethod
    def of(cls, texts: Iterable[str], num_words: int) -> Self:
        """Index reference texts.

        Args:
            texts: the references.
            num_words: n.
        """
        found: dict[int, list[NDArray[np.uint64]]] = {}
        num_too_short = 0
        for text in texts:
            hashes = word_hashes(text)
            length = min(len(hashes), num_words)
            if length < SHORTEST:
                num_too_short += 1
                continue
            *_, rows = ngram_hashes(hashes, length)
            found.setdefault(length, []).append(np.unique(rows))
        joined = {length: np.unique(np.concatenate(rows)) for length, rows in found.items()}
        return cls(dict(sorted(joined.items())), num_too_short)

    def first_shared(self, text: str) -> str | None:
        """The first words in a row of a text that a reference has, too; None if there are none."""
        hashes = word_hashes(text)
        first: tuple[int, int] | None = None
        longest = max(self.hashes, default=0)
        for length, rows in enumerate(ngram_hashes(hashes, longest), start=1):
            wanted = self.hashes.get(length)
            if wanted is None or len(rows) == 0:
                continue
            place = np.searchsorted(wanted, rows)
            is_shared = wanted[np.minimum(place, len(wanted) - 1)] == rows
            if is_shared.any():
                begin = int(is_shared.argmax())
                if first is None or begin < first[0]:
                    first = (begin, length)
        if first is None:
            return None
        begin, length = first
        all_words = chain.from_iterable(map(words, slices(text)))
        return " ".join(islice(all_words, begin, begin + length))
