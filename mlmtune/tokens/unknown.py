"""What a tokenizer does not know: unknown tokens, and the text and characters that become them."""

import unicodedata
from collections import Counter
from collections.abc import Container, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from mlmtune.corpus.cleaning import count_words
from mlmtune.printable import counted
from mlmtune.tokens.borders import Offsets

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

NAMED_CHARACTERS = 5
"""The most unknown characters that a message names."""

_IN_NO_VOCABULARY = "\U0010ffff"
"""A code point that Unicode will never give to a character."""


def unknown_token_id(tokenizer: "PreTrainedTokenizerFast") -> int | None:
    """Return the id of the token that unknown text becomes ([UNK]); None if there is none.

    The tokenizer's model is asked first, because a tokenizer's folder may not name the token.
    """
    try:
        pieces = tokenizer.backend_tokenizer.model.tokenize(_IN_NO_VOCABULARY)
    except Exception:  # what `tokenizers` raises if a Unigram model has no such id
        pieces = []
    if len(pieces) == 1:  # several are the bytes of the character (byte fallback)
        return int(pieces[0].id)
    return None if tokenizer.unk_token_id is None else int(tokenizer.unk_token_id)


@dataclass(frozen=True)
class UnknownText:
    """The text in D documents that became unknown tokens.

    Attributes:
        num_tokens: (D,) The number of unknown tokens of each document.
        num_bytes: (D,) The number of bytes (UTF-8) that became unknown tokens.
        num_words: (D,) The number of words in that text, parts of words included.
        characters: How often the text has each character that the tokenizer does not know. The
            known characters of an unknown word are not counted.
    """

    num_tokens: NDArray[np.int64]
    num_bytes: NDArray[np.int64]
    num_words: NDArray[np.int64]
    characters: Counter[str]

    @classmethod
    def none(cls, num_documents: int) -> "UnknownText":
        num_tokens, num_bytes, num_words = np.zeros((3, num_documents), dtype=np.int64)
        return cls(num_tokens, num_bytes, num_words, Counter())


class UnknownTextFinder:
    """Finds the text that became unknown tokens.

    Args:
        backend: The tokenizer as `plain_backend` returns it.
        unknown_id: The id of its unknown token; None if it knows all text.
    """

    def __init__(self, backend: Tokenizer, unknown_id: int | None) -> None:
        self._unknown_id = unknown_id
        self._is_unknown = cache(
            lambda text: unknown_id in backend.encode(text, add_special_tokens=False).ids
        )

    def tokens(self, ids: NDArray[np.int32]) -> NDArray[np.bool_]:
        """Return (n,) whether each token is unknown."""
        if self._unknown_id is None:
            return np.zeros(len(ids), dtype=bool)
        is_unknown: NDArray[np.bool_] = ids == self._unknown_id
        return is_unknown

    def count(self, unknown: UnknownText, document: int, text: str, offsets: Offsets) -> None:
        """Count what is unknown in a piece of a document.

        Args:
            unknown: The counts so far; changed in place.
            document: The number of the document.
            text: The piece.
            offsets: The offsets of its unknown tokens in the piece.
        """
        starts, ends = _stretches(offsets)
        stretches = [text[a:b].strip() for a, b in zip(starts.tolist(), ends.tolist(), strict=True)]
        joined = " ".join(stretches)  # so that words of different stretches stay apart
        unknown.num_tokens[document] += len(offsets.starts)
        unknown.num_bytes[document] += len(joined.encode()) - (len(stretches) - 1)
        unknown.num_words[document] += count_words(joined)
        for character, count in Counter(joined).items():
            if character != " " and self._is_unknown(character):
                unknown.characters[character] += count


def _stretches(offsets: Offsets) -> Offsets:
    """Join the offsets of tokens that follow each other without a gap."""
    starts, ends = offsets
    is_first = np.ones(len(starts), dtype=bool)
    is_first[1:] = starts[1:] > ends[:-1]
    return Offsets(starts[is_first], ends[np.roll(is_first, -1)])


def describe_unknown(counts: Mapping[str, int], vocabulary: Container[str]) -> str:
    """Describe the most frequent unknown characters, with their code points and names.

    Args:
        counts: How often each character occurs, in descending order.
        vocabulary: The vocabulary of the tokenizer.
    """
    if not counts:
        return (
            "the tokenizer knows each of the characters alone, but not the words: they are longer "
            "than it takes, or it has no pieces for the inside of a word"
        )
    named = [f"{_shown(character)} {counted(count, 'time')}" for character, count in counts.items()]
    described = "the characters that the tokenizer does not know, most frequent first: "
    described += ", ".join(named[:NAMED_CHARACTERS])
    if len(named) > NAMED_CHARACTERS:
        described += f" and {len(named) - NAMED_CHARACTERS} more"
    if changed := [character for character in counts if character in vocabulary]:
        described += (
            f" (its vocabulary has {changed[0]}, but the tokenizer changes that character before "
            "it looks it up; look at do_lower_case in tokenizer_config.json)"
        )
    return described


def _shown(character: str) -> str:
    name = unicodedata.name(character, "a character without a name")
    code_point = f"U+{ord(character):04X} {name}"
    kind = unicodedata.category(character)[0]
    if kind in "CZ":  # controls and spaces are invisible, or move the text around them
        return code_point
    base = "\u25cc" if kind == "M" else ""  # a combining mark is shown on a dotted circle
    return f"{base}{character} ({code_point})"
