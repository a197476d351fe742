"""Where the words of a text begin: by its white space and punctuation, whatever the tokenizer.

Tokenizers cut text by rules of their own before they look for pieces: byte-level BPE parts letters
from the vowel signs that belong to them, and from digits. Masking whole words means the words of
the text, so that a piece that follows another without a border of the text between them continues
the word. White space belongs to the word after it.
"""

import re
import string
import sys
import unicodedata
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlmtune.corpus.cleaning import UNSPACED

_OTHER, _SPACE, _PUNCTUATION, _JOINED, _UNSPACED = range(5)
"""What a character is for words. What is joined never begins a word: marks (vowel signs, accents,
variation selectors) and format characters (joiners)."""

_JOINT = "\u200d"
"""Set between texts that are looked at together: no white space, and joined to the text before."""


class Offsets(NamedTuple):
    """Where the n tokens of a text stand in it, in characters.

    Attributes:
        starts: (n,) the first character of each token.
        ends: (n,) the one after its last. Several tokens may share a character.
    """

    starts: NDArray[np.int64]
    ends: NDArray[np.int64]


class TextBorders:
    """The words of some texts, to be compared with the tokens of the same texts.

    Args:
        texts: one after the other.
    """

    def __init__(self, texts: list[str]) -> None:
        sizes = np.asarray([len(text) + len(_JOINT) for text in texts], dtype=np.int64)
        self._begins = np.cumsum(sizes) - sizes
        joined = "".join(text + _JOINT for text in texts)
        codes = np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), dtype="<u4")
        self._kinds = _kinds()[codes]
        is_space = self._kinds == _SPACE
        is_border = is_space | (self._kinds == _PUNCTUATION)
        begins = ~is_space & (self._kinds != _JOINED)
        begins[1:] &= is_border[:-1] | is_border[1:]
        begins[self._begins] = True
        self._words = np.cumsum(begins, dtype=np.int32)  # the word that each character is of
        visible = np.arange(len(codes), dtype=np.int32)
        visible[is_space] = len(codes) - 1
        self._next_visible = np.minimum.accumulate(visible[::-1])[::-1]

    @property
    def has_unspaced(self) -> bool:
        """Whether there are ideographs or kana, between which the text itself shows no border."""
        return bool((self._kinds == _UNSPACED).any())

    def word_starts(
        self, offsets: Offsets, lengths: NDArray[np.int64], own: NDArray[np.bool_] | None
    ) -> NDArray[np.bool_]:
        """(n,) whether each token begins a word.

        A token of several words, such as `).`, begins one; what follows within its last word
        continues it. Next to ideographs and kana the tokenizer's own borders count, too.

        Args:
            offsets: of all n tokens, each in its own text.
            lengths: tokens of each text.
            own: (n,) whether each token begins a word of the tokenizer's; needed where the texts
                have ideographs or kana.
        """
        begins = np.repeat(self._begins, lengths)
        starts, ends = begins + offsets.starts, begins + offsets.ends
        first = self._words[self._next_visible[starts]]
        last = np.maximum(first, self._words[np.maximum(ends - 1, starts)])
        marks = np.ones(len(starts), dtype=bool)
        marks[1:] = first[1:] > last[:-1]
        if own is not None:
            here, before = self._kinds[starts], self._kinds[starts - 1]
            touches = (here == _UNSPACED) | (before == _UNSPACED)
            is_inside = (here != _SPACE) & (here != _JOINED) & (before != _SPACE)
            marks |= own & touches & is_inside
        return marks


@cache
def _kinds() -> NDArray[np.uint8]:
    """(number of code points,) what each character is."""
    kinds = np.full(sys.maxunicode + 1, _OTHER, dtype=np.uint8)
    # Beyond these planes there are ideographs, and characters of no meaning.
    for code in (*range(0x20000), *range(0xE0000, 0xE0200)):
        kinds[code] = _kind(chr(code))
    for first, last in re.findall(r"(.)(?:-(.))?", UNSPACED):
        kinds[ord(first) : ord(last or first) + 1] = _UNSPACED
    return kinds


def _kind(character: str) -> int:
    if character.isspace():
        return _SPACE
    if is_punctuation(character):
        return _PUNCTUATION
    return _JOINED if begins_joined(character) else _OTHER


def is_punctuation(character: str) -> bool:
    """Whether BERT's tokenizers set a character apart as punctuation."""
    return character in string.punctuation or unicodedata.category(character)[0] == "P"


def begins_joined(text: str) -> bool:
    """Whether a text begins with what never begins a word: a mark, or a format character."""
    return bool(text) and unicodedata.category(text[0]) in ("Mn", "Mc", "Me", "Cf")
