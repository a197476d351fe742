"""The tokens of a sentence as pieces of a model's vocabulary, and windows of long sentences.

Here the words are the tokens of the data, which have tags, and the pieces are what the model's
tokenizer makes of them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer


@dataclass(frozen=True)
class Pieces:
    """The P pieces of a sentence of n words.

    Attributes:
        ids: (P,) Their ids, without special tokens.
        words: (P,) The number of each piece's word, ascending.
        counts: (n,) The number of pieces of each word; 0 if the tokenizer drops the word.
    """

    ids: NDArray[np.int32]
    words: NDArray[np.int64]
    counts: NDArray[np.int64]


@dataclass(frozen=True)
class Window:
    """The words `first` to `last` of a sentence, of which `begin` to `end` are predicted in it.

    The others are context. `last` and `end` are excluded.
    """

    first: int
    begin: int
    end: int
    last: int


def pieces_of(sentences: Sequence[Sequence[str]], backend: Tokenizer) -> Iterator[Pieces]:
    """Yield the pieces of sentences, which are encoded as texts with a space between words.

    So the model sees what it saw in pretraining, and what a pipeline makes of the same text: in
    byte-level BPE, the first word has no space before it and each other word has one. To encode
    every word by itself gives the same pieces only with the right `add_prefix_space`. A piece
    belongs to the word in which it ends, because it may begin with the space before the word.

    Args:
        sentences: The words of each sentence.
        backend: The tokenizer, as `plain_backend` returns it.
    """
    encodings = backend.encode_batch(
        [" ".join(words) for words in sentences], add_special_tokens=False
    )
    for words, encoding in zip(sentences, encodings, strict=True):
        yield _aligned(words, encoding)


def _aligned(words: Sequence[str], encoding: Encoding) -> Pieces:
    word_ends = np.cumsum([len(word) + 1 for word in words]) - 1
    piece_ends = np.asarray([end for _, end in encoding.offsets], dtype=np.int64)
    words_of_pieces = np.minimum(np.searchsorted(word_ends, piece_ends), len(words) - 1)
    # Where a normaliser moves marks, an offset may lie before that of an earlier piece.
    words_of_pieces = np.maximum.accumulate(words_of_pieces)
    return Pieces(
        np.asarray(encoding.ids, dtype=np.int32),
        words_of_pieces,
        np.bincount(words_of_pieces, minlength=len(words)),
    )


def without_rests(pieces: Pieces, most: int) -> Pieces:
    """Return the first pieces of each word, `most` at most."""
    firsts = np.cumsum(pieces.counts) - pieces.counts
    kept = np.arange(len(pieces.ids)) - firsts[pieces.words] < most
    counts = np.minimum(pieces.counts, most)
    return Pieces(pieces.ids[kept], pieces.words[kept], counts)


def windows(counts: NDArray[np.int64], capacity: int) -> Iterator[Window]:
    """Divide a sentence into windows of some pieces at most, so that each word is predicted once.

    A sentence that fits is one window. Otherwise, a quarter of each window's pieces is context on
    either side of the words that are predicted in it, where the sentence has as much.

    Args:
        counts: (n,) The number of pieces of each word, each of half of the capacity at most.
        capacity: The number of pieces that a window has room for.
    """
    num_words, context = len(counts), capacity // 4
    before = np.concatenate([[0], np.cumsum(counts)])  # the pieces before each word
    begin = 0
    while begin < num_words:
        first = int(np.searchsorted(before, before[begin] - context))
        if before[-1] - before[first] <= capacity:
            first = int(np.searchsorted(before, before[-1] - capacity))
            yield Window(first, begin, num_words, num_words)
            return

        def furthest(pieces: int, first: int = first) -> int:
            """Return the end of the most words from the first one with so many pieces."""
            return int(np.searchsorted(before, before[first] + pieces, side="right")) - 1

        end = furthest(capacity - context)
        yield Window(first, begin, end, furthest(capacity))
        begin = end
