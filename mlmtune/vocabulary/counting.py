"""The words that a tokenizer cuts into pieces, counted in a token store.

The store has the text in the tokenizer's own terms already: cased or not, normalized, and cut where
the tokenizer cuts. So words are runs of ids, and millions of them are counted without making a
string. Only words of letters count: numbers, ids and code have no use for a row of their own.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray
from tokenizers.decoders import ByteLevel

from mlmtune.randomness import key
from mlmtune.tokens.borders import UNSPACED_LETTER, character_kinds
from mlmtune.tokens.encoding import role_tokens
from mlmtune.tokens.store import TokenStore
from mlmtune.tokens.sums import end_to_end
from mlmtune.vocabulary.plan import BORDER_MARKS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SAMPLE_TOKENS = 1 << 28
"""How much text words are counted on, about 1 GB of it; documents are drawn from more text."""

SAMPLE_STREAM = 0x5EC2
"""Separates this draw from the others."""

TOKENS_AT_ONCE = 1 << 22
"""How many tokens are looked at as one array."""


@dataclass(frozen=True)
class CountedWord:
    """A word that the tokenizer cuts into pieces.

    Attributes:
        word: The word in the terms of the tokenizer, such as lower-cased.
        occurrences: How often it occurs.
        documents: The number of documents that it occurs in.
        pieces: Its tokens, as the vocabulary writes them.
    """

    word: str
    occurrences: int
    documents: int
    pieces: tuple[str, ...]

    @property
    def tokens_saved(self) -> int:
        """How many tokens fewer the text has if the word is a single token."""
        return self.occurrences * (len(self.pieces) - 1)


@dataclass(frozen=True)
class WordCounts:
    """The words of some documents.

    Attributes:
        words: Those that are cut into pieces.
        num_tokens: The tokens of the documents.
        num_unspaced: Those of scripts without spaces.
        num_words: The words of all kinds, numbers and punctuation included.
        num_documents: The documents that were counted.
    """

    words: tuple[CountedWord, ...]
    num_tokens: int
    num_unspaced: int
    num_words: int
    num_documents: int


def count_words(
    store: TokenStore, documents: NDArray[np.int64], tokenizer: "PreTrainedTokenizerFast"
) -> WordCounts:
    """Count the words of some documents that the tokenizer cuts into pieces.

    Args:
        store: A token store of the tokenizer. Where it knows the words of a segmenter, these are
            the words of scripts without spaces.
        documents: (D,) The numbers of the documents; of a large text, a sample of them is counted.
        tokenizer: The tokenizer of the store.
    """
    pieces = _Pieces.of(tokenizer)
    documents = store.sample(documents, SAMPLE_TOKENS, SAMPLE_STREAM)
    runs = _Runs.joined(
        [_runs_in(store, block, pieces) for block in _blocks(store, documents)] or [_Runs.empty()]
    )
    words = []
    for position, length, occurrences, num_documents in zip(
        runs.positions.tolist(), runs.lengths.tolist(), runs.occurrences.tolist(),
        runs.documents.tolist(), strict=True,
    ):  # fmt: skip
        ids, _ = store.tokens_at(np.arange(position, position + length))
        names = tuple(pieces.names[id_] for id_ in ids.tolist())
        words.append(CountedWord(pieces.word_of(names), occurrences, num_documents, names))
    return WordCounts(
        tuple(words),
        int(store.documents.lengths[documents].sum()),
        runs.num_unspaced,
        runs.num_words,
        len(documents),
    )


@dataclass(frozen=True)
class _Pieces:
    """What the pieces of a vocabulary say about the words that they are parts of.

    Attributes:
        names: The pieces by id.
        prefix: Marks a piece that continues a word; empty in most vocabularies.
        is_byte_level: Whether pieces are written as bytes.
        is_letters: (V,) Whether a piece consists of letters, of a mark and letters, or of a mark.
        begins: (V,) Whether it may be the first one of a word.
        is_unspaced: (V,) Whether it is of a script without spaces, whose borders the store knows.
    """

    names: list[str]
    prefix: str
    is_byte_level: bool
    is_letters: NDArray[np.bool_]
    begins: NDArray[np.bool_]
    is_unspaced: NDArray[np.bool_]

    @classmethod
    def of(cls, tokenizer: "PreTrainedTokenizerFast") -> Self:
        model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
        prefix = model.get("continuing_subword_prefix") or ""
        vocabulary = tokenizer.get_vocab()
        names = [""] * (max(vocabulary.values()) + 1)
        for name, id_ in vocabulary.items():
            names[id_] = name
        one = cls(names, prefix, model["type"] == "BPE", *np.zeros((3, len(names)), dtype=bool))
        hidden, kinds = set(role_tokens(tokenizer)), character_kinds()
        for id_, name in enumerate(names):
            letters = one.word_of((name,))
            is_part = letters.isalpha() or name in BORDER_MARKS
            one.is_letters[id_] = name not in hidden and is_part
            one.begins[id_] = not name.startswith(prefix) if prefix else name[:1] in BORDER_MARKS
            one.is_unspaced[id_] = bool(letters) and kinds[ord(letters[0])] == UNSPACED_LETTER
        return one

    def word_of(self, pieces: tuple[str, ...]) -> str:
        """Return the text of the pieces of a word."""
        if self.is_byte_level:
            return str(ByteLevel().decode([*pieces])).strip(" ")
        stripped = (piece.removeprefix(self.prefix).lstrip(BORDER_MARKS[1]) for piece in pieces)
        return "".join(stripped)


@dataclass(frozen=True)
class _Runs:
    """Distinct words as runs of tokens.

    Attributes:
        hashes: (n,) A hash of the tokens of each, rising.
        positions: (n,) Where in the store one of them is.
        lengths: (n,) The number of its tokens, at least two.
        occurrences: (n,) How often it occurs.
        documents: (n,) In how many documents.
        num_words: The number of words of all kinds.
        num_unspaced: The number of tokens of scripts without spaces.
    """

    hashes: NDArray[np.uint64]
    positions: NDArray[np.int64]
    lengths: NDArray[np.int64]
    occurrences: NDArray[np.int64]
    documents: NDArray[np.int64]
    num_words: int
    num_unspaced: int

    @classmethod
    def empty(cls, num_words: int = 0, num_unspaced: int = 0) -> Self:
        none = np.zeros(0, np.int64)
        return cls(np.zeros(0, np.uint64), none, none, none, none, num_words, num_unspaced)

    @classmethod
    def joined(cls, runs: list[Self]) -> Self:
        """Add up the counts of disjoint documents."""
        hashes = np.concatenate([one.hashes for one in runs])
        distinct, first, which = np.unique(hashes, return_index=True, return_inverse=True)
        positions, lengths, occurrences, documents = (
            np.concatenate([getattr(one, name) for one in runs])
            for name in ("positions", "lengths", "occurrences", "documents")
        )
        sums = np.zeros((2, len(distinct)), np.int64)
        np.add.at(sums[0], which, occurrences)
        np.add.at(sums[1], which, documents)
        totals = sum(one.num_words for one in runs), sum(one.num_unspaced for one in runs)
        return cls(distinct, positions[first], lengths[first], sums[0], sums[1], *totals)


def _runs_in(store: TokenStore, documents: NDArray[np.int64], pieces: _Pieces) -> _Runs:
    """Return the words of some documents that have several pieces."""
    lengths, positions = store.documents.lengths[documents], store.positions_of(documents)
    borders = end_to_end(lengths)
    ids, starts = store.tokens_at(positions)
    starts[borders[:-1][lengths > 0]] = True
    is_letters, begins = pieces.is_letters[ids], pieces.begins[ids]
    follows_letters = np.append(False, is_letters[:-1])
    # In a script without spaces, every character may begin a word; the store knows which do.
    begins_here = starts | ~follows_letters | (begins & ~pieces.is_unspaced[ids])
    letters = np.flatnonzero(is_letters)
    first = np.flatnonzero(begins_here[letters])
    totals = int(starts.sum()), int(pieces.is_unspaced[ids].sum())
    if not len(first):
        return _Runs.empty(*totals)
    num_pieces = np.diff(np.append(first, len(letters)))
    place = np.arange(len(letters)) - np.repeat(first, num_pieces)
    hashes = np.add.reduceat(key(0, ids[letters], place), first)
    first = letters[first]
    is_word = (num_pieces > 1) & begins[first]
    hashes, first, num_pieces = hashes[is_word], first[is_word], num_pieces[is_word]
    document = np.searchsorted(borders, first, side="right")
    distinct, where, which, counts = np.unique(
        hashes, return_index=True, return_inverse=True, return_counts=True
    )
    pairs = np.unique(np.stack([which, document]), axis=1)
    in_documents = np.bincount(pairs[0], minlength=len(distinct))
    return _Runs(
        distinct, positions[first[where]], num_pieces[where], counts, in_documents, *totals
    )


def _blocks(store: TokenStore, documents: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Divide documents into blocks of about `TOKENS_AT_ONCE` tokens, and one at the least."""
    number = end_to_end(store.documents.lengths[documents])[:-1] // TOKENS_AT_ONCE
    yield from np.split(documents, np.flatnonzero(np.diff(number)) + 1)
