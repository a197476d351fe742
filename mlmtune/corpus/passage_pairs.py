"""Pairs of texts that belong together, found without labels: what sentence encoders are trained on.

A pair is a title and a passage of its document, or two passages in a row. Within a batch, the
passages of the other pairs are the wrong answers, so each pair of a batch is of another document,
and text that several documents share is in no pair.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Self

import numpy as np

from mlmtune.corpus.cleaning import find_words
from mlmtune.corpus.titles import title_of
from mlmtune.randomness import bits, key, permute

ORDER_STREAM, PAIR_STREAM = 0xE3BD, 0xE3BE
"""Separate the order of the documents and the choice of their pairs from other draws."""

SHORTEST, SHORT, LONGEST = 16, 48, 96
"""The words of a passage. It ends at the first end of a line after `SHORT` words, and in any case
after `LONGEST`, which are about the 128 tokens that retrieval reads. Fewer words than `SHORTEST` at
the end of a document are left out."""

FEWEST_DOCUMENTS = 8
"""With fewer documents, hardly any passage of a batch is a wrong answer."""


def passages(text: str) -> Iterator[str]:
    """Cut a text into passages of `SHORT` to `LONGEST` words."""
    start = end = num_words = 0
    for word in find_words(text):
        line_end = text.find("\n", end, word.start())
        if num_words == LONGEST or (num_words >= SHORT and line_end >= 0):
            border = line_end if line_end >= 0 else max(text.rfind(" ", end, word.start()), end)
            yield text[start:border].strip()
            start, num_words = border, 0
        num_words, end = num_words + 1, word.end()
    if num_words >= SHORTEST:
        yield text[start:].strip()


@dataclass(frozen=True)
class PassagePairs:
    """The pairs of some documents.

    Attributes:
        documents: The pairs of each document that has any.
        num_titles: How many of the documents have a title of their own.
        seed: Decides the batches.
    """

    documents: tuple[tuple[tuple[str, str], ...], ...]
    num_titles: int
    seed: int

    @classmethod
    def of(cls, texts: Iterable[str], seed: int) -> Self:
        """Find the pairs of the documents with these cleaned texts."""
        parts = [(title, list(passages(text[len(title) :]))) for text in texts
                 for title in (title_of(text),)]  # fmt: skip
        titles = Counter(title for title, _ in parts)
        copies = Counter(passage for _, cut in parts for passage in cut)
        documents, num_titles = [], 0
        for title, cut in parts:
            is_own = title != "" and titles[title] == 1
            pairs = [*((title, passage) for passage in cut if is_own), *pairwise(cut)]
            if pairs := [(a, b) for a, b in pairs if copies[a] <= 1 and copies[b] == 1]:
                documents.append(tuple(pairs))
                num_titles += is_own
        return cls(tuple(documents), num_titles, seed)

    def batch(self, step: int, size: int) -> list[tuple[str, str]]:
        """Draw the pairs of a step: at most `size`, each of another document.

        An epoch takes each document once, but for a rest that does not fill a batch.
        """
        size = min(size, len(self.documents))
        epoch, number = divmod(step, len(self.documents) // size)
        order = key(self.seed, ORDER_STREAM, epoch)
        chosen = permute(np.arange(size) + number * size, len(self.documents), order)
        draws = bits(key(self.seed, PAIR_STREAM, epoch), chosen.astype(np.uint64))
        pairs_of = [self.documents[document] for document in chosen]
        return [
            pairs[draw % len(pairs)] for pairs, draw in zip(pairs_of, draws.tolist(), strict=True)
        ]
