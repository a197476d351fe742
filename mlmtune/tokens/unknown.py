"""What a tokenizer does not know: unknown tokens, and the text and the characters under them."""

import unicodedata
from collections import Counter
from collections.abc import Container, Mapping
from dataclasses import dataclass
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
"""Unknown characters that a message names."""

_IN_NO_VOCABULARY = "\U0010ffff"
"""A code point that Unicode will never give to a character."""


def unknown_token_id(tokenizer: "PreTrainedTokenizerFast") -> int | None:
    """The id of the token that stands for unknown text ([UNK]); None where there is none.

    The tokenizer's model is asked, not its list of special tokens: what text becomes counts, also
    where a folder's settings do not name the token.
    """
    try:
        pieces = tokenizer.backend_tokenizer.model.tokenize(_IN_NO_VOCABULARY)
    except Exception:  # `tokenizers` raises nothing narrower where a Unigram model has no such id
        pieces = []
    if len(pieces) == 1:  # more are the bytes that the model falls back to
        return int(pieces[0].id)
    return None if tokenizer.unk_token_id is None else int(tokenizer.unk_token_id)


@dataclass(frozen=True)
class UnknownText:
    """What is unknown in D documents.

    Attributes:
        num_tokens: (D,) unknown tokens of each.
        num_bytes: (D,) bytes (UTF-8) that stand under them.
        num_words: (D,) words that stand under them, or hold one.
        characters: how often each character that the tokenizer does not know stands under them. A
            character that it knows is left out, though it may be in a word that it does not know.
    """

    num_tokens: NDArray[np.int64]
    num_bytes: NDArray[np.int64]
    num_words: NDArray[np.int64]
    characters: Counter[str]

    @classmethod
    def none(cls, num_documents: int) -> "UnknownText":
        """Nothing yet, to be counted up."""
        num_tokens, num_bytes, num_words = np.zeros((3, num_documents), dtype=np.int64)
        return cls(num_tokens, num_bytes, num_words, Counter())


class UnknownTextFinder:
    """Finds the text under unknown tokens.

    Args:
        backend: the tokenizer, as `plain_backend` makes it.
        unknown_id: of its unknown token; None where it knows all text.
    """

    def __init__(self, backend: Tokenizer, unknown_id: int | None) -> None:
        self._backend = backend
        self._unknown_id = unknown_id
        self._is_unknown: dict[str, bool] = {}

    def tokens(self, ids: NDArray[np.int32]) -> NDArray[np.bool_]:
        """(n,) whether each token is unknown."""
        if self._unknown_id is None:
            return np.zeros(len(ids), dtype=bool)
        is_unknown: NDArray[np.bool_] = ids == self._unknown_id
        return is_unknown

    def count(self, found: UnknownText, document: int, text: str, offsets: Offsets) -> None:
        """Count what is unknown in a piece of a document.

        Args:
            found: what was found so far; changed in place.
            document: the number of the document.
            text: the piece.
            offsets: of its unknown tokens, in the piece.
        """
        starts, ends = _stretches(offsets)
        stretches = [text[a:b].strip() for a, b in zip(starts.tolist(), ends.tolist(), strict=True)]
        joined = " ".join(stretches)  # no word goes over a space
        found.num_tokens[document] += len(offsets.starts)
        found.num_bytes[document] += len(joined.encode()) - (len(stretches) - 1)
        found.num_words[document] += count_words(joined)
        for character, count in Counter(joined).items():
            if character != " " and self._is_unknown_alone(character):
                found.characters[character] += count

    def _is_unknown_alone(self, character: str) -> bool:
        if character not in self._is_unknown:
            ids = self._backend.encode(character, add_special_tokens=False).ids
            self._is_unknown[character] = self._unknown_id in ids
        return self._is_unknown[character]


def _stretches(offsets: Offsets) -> Offsets:
    """The stretches of a text under some of its tokens; tokens side by side share one."""
    starts, ends = offsets
    is_first = np.ones(len(starts), dtype=bool)
    is_first[1:] = starts[1:] > ends[:-1]
    is_last = np.append(is_first[1:], np.ones(min(len(starts), 1), dtype=bool))
    return Offsets(starts[is_first], ends[is_last])


def describe_unknown(counts: Mapping[str, int], vocabulary: Container[str]) -> str:
    """The most frequent of some unknown characters, with their code points and names.

    Args:
        counts: how often each occurs, the most frequent first.
        vocabulary: the tokenizer's.
    """
    if not counts:
        return (
            "the tokenizer knows each of the characters alone, but not the words: they are longer "
            "than it takes, or it has no pieces for the inside of a word"
        )
    named = [f"{_shown(character)} {counted(count, 'time')}" for character, count in counts.items()]
    most_frequent = ", ".join(named[:NAMED_CHARACTERS])
    more = f" and {len(named) - NAMED_CHARACTERS} more" if len(named) > NAMED_CHARACTERS else ""
    described = "the characters that the tokenizer does not know, most frequent first: "
    described += most_frequent + more
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
    if kind in "CZ":  # controls, spaces: nothing to see, or something that moves what is around it
        return code_point
    base = "\u25cc" if kind == "M" else ""  # a mark needs something to stand on
    return f"{base}{character} ({code_point})"
