"""What a kind of tokenizer model needs so that words become single tokens: Request and Plan."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Self

BORDER_MARKS = ("\u0120", "\u2581")
"""What byte-level BPE and Metaspace make of the space before a word."""


class Reason(StrEnum):
    """Why a word was not added; each reads as the rest of a sentence that begins with "it"."""

    EMPTY = "is empty, or the tokenizer removes all of it"
    WHITE_SPACE = "has white space"
    SEVERAL_WORDS = "is several words to the tokenizer, which cuts them before it looks for tokens"
    KNOWN = "is in the vocabulary already"
    REPEATED = "is the same as an earlier word"
    UNREACHABLE = "cannot be reached: the tokenizer finds other tokens in it"
    LONGER = "would give some text of the corpus more tokens"
    CHANGED = "would change the tokens of text of the corpus that does not have it"
    UNKNOWN = "has characters that the tokenizer does not know"
    SCORE = "needs a score that would change the tokens of text with unknown characters"
    DECODING = "would change how the tokens of some text of the corpus are decoded"


@dataclass(frozen=True)
class Request:
    """What a plan is made for.

    Attributes:
        content: The tokenizer.json.
        pieces_of: Returns the entries that a word consists of now.
        words: The words as entries of the vocabulary, most useful first.
        pieces: The pieces of each distinct word of the corpus, a word as the pre-tokenizer cuts it.
        forbidden: Entries that no plan may have besides the words.
        looks_up: Whether BPE can look up whole words before it merges (`ignore_merges`).
    """

    content: Mapping[str, Any]
    pieces_of: Callable[[str], tuple[str, ...]]
    words: Sequence[str]
    pieces: Sequence[tuple[str, ...]]
    forbidden: frozenset[str] = frozenset()
    looks_up: bool = False

    def without(self, entries: Collection[str], words: Sequence[str]) -> Self:
        """Return the request for other words, without some entries on the way to them."""
        return replace(self, words=words, forbidden=self.forbidden.union(entries).difference(words))


@dataclass(frozen=True)
class Plan:
    """What is added to a tokenizer's model.

    Attributes:
        words: The words that are added, in the order of the request.
        dropped: Why the other words are not.
        steps: Entries between pieces and words that BPE needs, and the pieces of each.
        merges: New merges of BPE, in order; they follow all earlier ones.
        scores: The score of each word, for Unigram.
        looks_up: Whether BPE must look up whole words before it merges.
    """

    words: tuple[str, ...]
    dropped: Mapping[str, Reason]
    steps: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    merges: Sequence[tuple[str, str]] = ()
    scores: Mapping[str, float] = field(default_factory=dict)
    looks_up: bool = False
