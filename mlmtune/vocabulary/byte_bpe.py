"""Words for byte-level BPE, which joins pieces by a list of merges, earlier ones first.

If the tokenizer's class keeps `ignore_merges`, a word between spaces is looked up before anything
is merged: its entry is all that it needs, and no other text changes. Several classes of
transformers do not keep it, and words in runs without spaces are never looked up. Those are reached
by merges.

New merges follow all others, so they join the pieces that a text has today: no text gets longer.
A word of two pieces needs one merge. A word of more needs steps, which are entries that no text
should have: steps are chosen whose pieces occur in the corpus only inside the words that are added.
"""

import math
from collections.abc import Container, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from mlmtune.vocabulary.plan import BORDER_MARKS, Plan, Reason, Request

Pieces = tuple[str, ...]


def plan_byte_bpe(request: Request) -> Plan:
    """Plan the look-up of words, or merges with as few steps as possible."""
    looked_up = {
        word for word in request.words if request.looks_up and word.startswith(BORDER_MARKS)
    }
    pieces_of = {word: request.pieces_of(word) for word in request.words if word not in looked_up}
    elsewhere = _pieces_elsewhere(request.pieces, set(pieces_of.values()))
    merges = _Merges(request.content["model"]["vocab"], elsewhere, request.forbidden)
    # Shorter words first, so that they are the steps of longer ones.
    for word in sorted(pieces_of, key=lambda word: (len(pieces_of[word]), len(word))):
        merges.reach(word, pieces_of[word])
    words = tuple(word for word in request.words if word not in merges.unreached)
    dropped = dict.fromkeys(merges.unreached, Reason.CHANGED)
    steps = {step: old for step, old in merges.results.items() if step not in words}
    return Plan(
        words,
        dropped,
        steps=steps,
        merges=tuple(merges.ranks),
        looks_up=bool(looked_up),
    )


def _pieces_elsewhere(corpus: Sequence[Pieces], words: set[Pieces]) -> set[Pieces]:
    """Return the runs of pieces, inside the pieces of words, that occur outside these words."""
    runs = {word[i:j] for word in words for i, j in _spans(len(word)) if j - i < len(word)}
    longest = max(map(len, words), default=0)
    elsewhere = set()
    for pieces in corpus:
        spans = [(i, j) for i, j in _spans(len(pieces), longest)]
        inside = [(i, j) for i, j in spans if pieces[i:j] in words]
        for i, j in spans:
            if pieces[i:j] in runs and not any(i >= begin and j <= end for begin, end in inside):
                elsewhere.add(pieces[i:j])
    return elsewhere


def _spans(length: int, longest: int | None = None) -> Iterator[tuple[int, int]]:
    """Yield where the runs of two or more of some pieces begin and end."""
    for begin in range(length):
        last = length if longest is None else min(length, begin + longest)
        for end in range(begin + 2, last + 1):
            yield begin, end


class _Way(NamedTuple):
    """A way to join some pieces: the number of new steps, and where the last merge joins."""

    num_steps: float
    middle: int


Ways = Mapping[tuple[int, int], _Way]


class _Merges:
    """The new merges.

    Pieces that were joined are given as the pieces that they are made of.

    Args:
        entries: The entries of the vocabulary, which cannot be steps.
        elsewhere: Runs of pieces that must not be joined, unless they are a word.
        forbidden: Entries that must not be steps.

    Attributes:
        ranks: The rank of each merge, ascending.
        results: What the merges make, and the pieces that it is made of.
        unreached: The words that no merges may reach.
    """

    def __init__(
        self, entries: Container[str], elsewhere: set[Pieces], forbidden: frozenset[str]
    ) -> None:
        self._entries = entries
        self._elsewhere = elsewhere
        self._forbidden = forbidden
        self.ranks: dict[tuple[str, str], int] = {}
        self.results: dict[str, Pieces] = {}
        self.unreached: list[str] = []

    def reach(self, word: str, pieces: Pieces) -> None:
        """Add the merges that make a word of its pieces."""
        joined = self._joined(pieces)
        ways = self._ways(joined)
        if ways[0, len(joined)].num_steps == math.inf:
            self.unreached.append(word)
        else:
            self._add(joined, ways, 0, len(joined))

    def _joined(self, pieces: Pieces) -> list[Pieces]:
        """Return what the merges of other words make of some pieces."""
        joined: list[Pieces] = [(piece,) for piece in pieces]
        while True:
            names = ["".join(part) for part in joined]
            ranks = [
                (self.ranks[pair], i)
                for i, pair in enumerate(pairwise(names))
                if pair in self.ranks
            ]
            if not ranks:
                return joined
            _, i = min(ranks)
            joined[i : i + 2] = [joined[i] + joined[i + 1]]

    def _ways(self, joined: list[Pieces]) -> Ways:
        """Return the way with the fewest new steps for each run of parts, from i to j."""
        length = len(joined)
        ways = {(i, i + 1): _Way(0, i) for i in range(length)}
        for size in range(2, length + 1):
            for i in range(length - size + 1):
                j = i + size
                way = min(
                    _Way(ways[i, m].num_steps + ways[m, j].num_steps, m) for m in range(i + 1, j)
                )
                cost = self._cost(sum(joined[i:j], ())) if size < length else 0
                ways[i, j] = _Way(way.num_steps + cost, way.middle)
        return ways

    def _cost(self, pieces: Pieces) -> float:
        """Return the number of new steps that joining pieces takes; infinite if not allowed."""
        step = "".join(pieces)
        # Old merges might go on with an old entry.
        if step in self._entries or step in self._forbidden or pieces in self._elsewhere:
            return math.inf
        return 0 if step in self.results else 1

    def _add(self, joined: list[Pieces], ways: Ways, begin: int, end: int) -> None:
        if end - begin < 2:
            return
        middle = ways[begin, end].middle
        self._add(joined, ways, begin, middle)
        self._add(joined, ways, middle, end)
        left, right = sum(joined[begin:middle], ()), sum(joined[middle:end], ())
        pair = "".join(left), "".join(right)
        self.ranks.setdefault(pair, len(self.ranks))
        self.results.setdefault("".join(pair), left + right)
