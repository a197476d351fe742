"""Where the words of a text begin, by its white space and punctuation and not by the tokenizer.

Tokenizers have their own rules for what they cut before they look for tokens: byte-level BPE
separates letters from digits, and from the vowel signs that belong to them. Whole-word masking
means the words of the text. So a token continues the word of the token before it unless white
space or punctuation is between them. White space belongs to the word after it.
"""

import re
import string
import sys
import unicodedata
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlmtune.corpus.cleaning import UNSPACED

OTHER, SPACE, PUNCTUATION, JOINED, UNSPACED_LETTER = range(5)
"""Kinds of characters. Joined characters never begin a word: they are marks (vowel signs, accents,
variation selectors) and format characters (joiners)."""

JOINED_CATEGORIES = ("Mn", "Mc", "Me", "Cf")
"""The Unicode categories of joined characters."""

_JOINT = "\u200d"
"""A character that is put after each text. It is joined, so it adds no word and no white space."""


class Offsets(NamedTuple):
    """The positions of the n tokens of a text, in characters. Several tokens may share a character.

    Attributes:
        starts: (n,) The first character of each token.
        ends: (n,) The character after its last one.
    """

    starts: NDArray[np.int64]
    ends: NDArray[np.int64]


def word_starts(
    texts: list[str],
    offsets: Offsets,
    lengths: NDArray[np.int64],
    own: Callable[[], NDArray[np.bool_]],
) -> NDArray[np.bool_]:
    """Return (n,) whether each token of some texts begins a word.

    A token of several words, such as `).`, begins a word, and the tokens after it in its last word
    continue that. Beside ideographs and kana the tokenizer's own borders count, too.

    Args:
        texts: The texts.
        offsets: The offsets of all n tokens, each in its own text.
        lengths: The number of tokens of each text.
        own: Returns (n,) whether the tokenizer begins a word with each token. It is only called
            if there are ideographs or kana, between which the text shows no borders.
    """
    sizes = np.asarray([len(text) + len(_JOINT) for text in texts], dtype=np.int64)
    text_starts = np.cumsum(sizes) - sizes
    joined = "".join(text + _JOINT for text in texts)
    # One element per character; text from broken files may have lone surrogates.
    codes = np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), dtype="<u4")
    kinds = character_kinds()[codes]
    is_space = kinds == SPACE
    is_border = is_space | (kinds == PUNCTUATION)
    begins = ~is_space & (kinds != JOINED)
    begins[1:] &= is_border[:-1] | is_border[1:]
    begins[text_starts] = True
    words = np.cumsum(begins, dtype=np.int32)  # the number of each character's word
    # White space belongs to the word after it, which the next visible character is in.
    visible = np.arange(len(codes), dtype=np.int32)
    visible[is_space] = len(codes) - 1
    next_visible = np.minimum.accumulate(visible[::-1])[::-1]

    shifts = np.repeat(text_starts, lengths)
    starts, ends = shifts + offsets.starts, shifts + offsets.ends
    first = words[next_visible[starts]]
    last = np.maximum(first, words[np.maximum(ends - 1, starts)])
    marks = np.ones(len(starts), dtype=bool)
    marks[1:] = first[1:] > last[:-1]
    if (kinds == UNSPACED_LETTER).any():
        here, before = kinds[starts], kinds[starts - 1]
        touches = (here == UNSPACED_LETTER) | (before == UNSPACED_LETTER)
        is_inside = (here != SPACE) & (here != JOINED) & (before != SPACE)
        marks |= own() & touches & is_inside
    return marks


@cache
def character_kinds() -> NDArray[np.uint8]:
    """Return (number of code points,) the kind of each character."""
    kinds = np.full(sys.maxunicode + 1, OTHER, dtype=np.uint8)
    # All other planes hold ideographs and private characters.
    for first, last in ((0, 0x20000), (0xE0000, 0xE0200)):
        characters = [chr(code) for code in range(first, last)]
        categories = np.asarray(list(map(unicodedata.category, characters)))
        kinds[first:last][np.isin(categories, JOINED_CATEGORIES)] = JOINED
        kinds[first:last][np.char.startswith(categories, "P")] = PUNCTUATION
        kinds[first:last][list(map(str.isspace, characters))] = SPACE
    kinds[list(map(ord, string.punctuation))] = PUNCTUATION
    for begin, end in re.findall(r"(.)(?:-(.))?", UNSPACED):
        kinds[ord(begin) : ord(end or begin) + 1] = UNSPACED_LETTER
    return kinds


def is_punctuation(character: str) -> bool:
    """Whether BERT's tokenizers treat a character as punctuation, which is a word by itself."""
    return character in string.punctuation or unicodedata.category(character)[0] == "P"


def begins_joined(text: str) -> bool:
    """Whether a text begins with a character that never begins a word: a mark or a joiner."""
    return bool(text) and unicodedata.category(text[0]) in JOINED_CATEGORIES
