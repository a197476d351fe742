"""WordSplitter: cuts texts where a tokenizer encodes both sides independently.

`word_splitter` reads from a tokenizer.json where that is so. The texts are cut as arrays of bytes:
each byte has a kind, and two kinds side by side decide whether there is a cut between them.
"""

import re
from functools import cache
from itertools import pairwise, product
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mlmtune.tokens.borders import JOINED, SPACE, character_kinds
from mlmtune.tokens.ideographs import joined_words, normalizer_parts
from mlmtune.tokens.pieces import (
    ENDS_LETTERS,
    FREQUENT_IDEOGRAPHS,
    LOCAL_NORMALIZERS,
    PUNCTUATION,
    normalizes_locally,
)
from mlmtune.tokens.steps import normalizers, pre_tokenizers
from mlmtune.tokens.sums import end_to_end

SPACES = " \t\n\r"
"""White space for every tokenizer."""
_AMBIGUOUS = "\x0b\x0c\x1c\x1d\x1e\x1f\x85"
"""Control characters that are white space for some tokenizers, and for others nothing at all."""

_SPACE, _LETTER, _ALONE, _OTHER, _BLANK, _JOINED, _IDEOGRAPH = range(7)
"""Kinds of characters: certain white space; letters and digits of ASCII; what is always a word of
its own; anything else; white space that is not certain; what continues the word before it; and
ideographs, where some words of several are kept together."""
_INNER = 8
"""Added to the kind of a character in each of its bytes but the first."""

_PAIRS = [(pair >> 4 & 7, pair & 15) for pair in range(256)]
"""The kinds of two bytes, by the four low bits of each; that of the first one without `_INNER`."""
_CUT, _MARK = 1, 2
"""What may be between two bytes: a border of words, or white space before a mark."""

_ALWAYS_PUNCTUATION = (
    PUNCTUATION + "\u2010-\u2016\u2018-\u2027\u3001-\u3003\u3008-\u3011"
    "\uff01-\uff03\uff05-\uff0a\uff0c-\uff0f\uff1a\uff1b\uff1f\uff20"
)
"""Punctuation of ASCII, of typography and of Chinese; any normalizer makes it punctuation again."""

_SPLITS_AT_SPACE = {"BertPreTokenizer", "Whitespace", "WhitespaceSplit"}
_CUTS_WORDS = {"Digits", "Punctuation"}


class Words(NamedTuple):
    """The words of some texts, one text after the other.

    Attributes:
        words: (n,) The words.
        per_text: The number of words in each text.
        runs: (n,) The number of the run between white space that each word is in.
    """

    words: pa.StringArray
    per_text: NDArray[np.int64]
    runs: NDArray[np.int64]


class WordSplitter:
    """Cuts texts into words.

    Args:
        cuts: The pairs of kinds between which there is a cut.
        alone: A class of characters, for a pattern, whose kind is `_ALONE`.
        joined: Words of ideographs; if there are any, the kind of ideographs is `_IDEOGRAPH`.
    """

    def __init__(
        self, cuts: set[tuple[int, int]], alone: str, joined: frozenset[str] = frozenset()
    ) -> None:
        self._kinds = _kinds(alone, FREQUENT_IDEOGRAPHS if joined else "")
        codes = {ord(a) << 16 | ord(b) for word in joined for a, b in pairwise(word)}
        self._joined = np.array(sorted(codes), dtype=np.int64)
        ascii_kinds = self._kinds[:128].tobytes()
        # Until its first byte is looked at, a character beyond ASCII is any other.
        self._byte_kinds = ascii_kinds + bytes([_OTHER | _INNER] * 64 + [_OTHER] * 64)
        is_mark = [first in (_SPACE, _BLANK) and second == _JOINED for first, second in _PAIRS]
        self._between = bytes(
            _CUT * (pair in cuts) | _MARK * mark for pair, mark in zip(_PAIRS, is_mark, strict=True)
        )
        self._drops_spaces = (_SPACE, _LETTER) in cuts

    def __call__(self, texts: list[str]) -> Words:
        """Cut some texts.

        White space between words is no word, or the beginning of the word behind it if the
        tokenizer reads it so. A text is one word if it has control characters that may be white
        space, or a mark behind white space, which may belong to the word before that.
        """
        encoded = [text.encode() for text in texts]
        text_borders = end_to_end(np.fromiter(map(len, encoded), np.int64, len(encoded)))
        content = b"".join(encoded)
        kinds = np.frombuffer(bytearray(content.translate(self._byte_kinds)), np.uint8)
        if not content.isascii():
            self._look_at_characters(np.frombuffer(content, np.uint8), kinds)
        visible = np.frombuffer(content, np.uint8)
        borders = self._borders(visible, kinds, texts, text_borders)
        is_word = np.ones(len(borders) - 1, dtype=bool)
        if self._drops_spaces:
            is_space = kinds == _SPACE
            is_word, visible = ~is_space[borders[:-1]], visible[~is_space]
        offsets = end_to_end(np.diff(borders)[is_word]).astype(np.int32)
        words = pa.StringArray.from_buffers(
            len(offsets) - 1, pa.py_buffer(offsets), pa.py_buffer(visible)
        )
        words_before = end_to_end(is_word)[np.searchsorted(borders, text_borders)]
        return Words(words, np.diff(words_before), np.cumsum(~is_word)[is_word])

    def _borders(
        self,
        content: NDArray[np.uint8],
        kinds: NDArray[np.uint8],
        texts: list[str],
        text_borders: NDArray[np.int64],
    ) -> NDArray[np.int64]:
        """Return where words and white space begin, and the end.

        In `kinds`, all of a text that is one word becomes `_OTHER`.
        """
        pairs = (kinds[:-1] << 4) | kinds[1:]
        between = np.frombuffer(pairs.tobytes().translate(self._between), np.uint8)
        is_cut = np.zeros(len(kinds) + 1, dtype=bool)
        is_cut[1:-1] = between & _CUT
        if len(self._joined):
            is_cut[self._inside_words(content, kinds)] = False
        marks = np.flatnonzero(between & _MARK)
        marks = np.setdiff1d(marks, text_borders - 1)  # not at the beginning of the next text
        num_marks = np.diff(np.searchsorted(marks, text_borders)).tolist()
        for number, text in enumerate(texts):
            if num_marks[number] or any(character in text for character in _AMBIGUOUS):
                whole = slice(text_borders[number], text_borders[number + 1])
                is_cut[whole], kinds[whole] = False, _OTHER
        is_cut[text_borders] = True
        return np.flatnonzero(is_cut)

    def _inside_words(
        self, content: NDArray[np.uint8], kinds: NDArray[np.uint8]
    ) -> NDArray[np.int64]:
        """Return where two ideographs are side by side that are so in a word, too."""
        seconds = 1 + np.flatnonzero(
            (kinds[:-1] == _IDEOGRAPH | _INNER) & (kinds[1:] == _IDEOGRAPH)
        )
        # Each of them has three bytes: of 4, 6 and 6 bits.
        codes = np.zeros(len(seconds), dtype=np.int64)
        for number, bits in zip(range(-3, 3), (4, 6, 6, 4, 6, 6), strict=True):
            codes = codes << bits | content[seconds + number] & ((1 << bits) - 1)
        places = np.searchsorted(self._joined, codes).clip(max=len(self._joined) - 1)
        inside: NDArray[np.int64] = seconds[self._joined[places] == codes]
        return inside

    def _look_at_characters(self, content: NDArray[np.uint8], kinds: NDArray[np.uint8]) -> None:
        """Set the kinds of all bytes of the characters beyond ASCII, which have two to four."""
        for num_bytes, shift, mark in ((2, 5, 0b110), (3, 4, 0b1110), (4, 3, 0b11110)):
            firsts = np.flatnonzero(content >> shift == mark)
            code_points = content[firsts].astype(np.int32) & (0xFF >> (num_bytes + 1))
            for number in range(1, num_bytes):
                code_points = code_points << 6 | (content[firsts + number] & 0x3F)
            of_characters = self._kinds[code_points]
            kinds[firsts] = of_characters
            for number in range(1, num_bytes):
                kinds[firsts + number] = of_characters | _INNER


@cache
def _kinds(alone: str, ideographs: str) -> NDArray[np.uint8]:
    """Return (number of code points,) the kind of each character."""
    of_borders = character_kinds()
    kinds = np.full(len(of_borders), _OTHER, dtype=np.uint8)
    kinds[of_borders == JOINED] = _JOINED
    kinds[of_borders == SPACE] = _BLANK
    characters = "".join(map(chr, range(0x10000)))
    patterns = {_LETTER: "A-Za-z0-9", _ALONE: alone, _SPACE: SPACES, _IDEOGRAPH: ideographs}
    for kind, pattern in patterns.items():
        for run in re.finditer(f"[{pattern}]+", characters) if pattern else ():
            kinds[run.start() : run.end()] = kind
    return kinds


def word_splitter(content: dict[str, Any]) -> WordSplitter | None:
    """Return what cuts texts into words that a tokenizer encodes independently.

    At white space it does if the pre-tokenizer always cuts there, the normalizer changes no
    character because of another word, and no added token reaches over white space.

    Args:
        content: The tokenizer.json, where tokens that no text becomes are special.

    Returns:
        None if the tokens of a word may depend on other words.
    """
    first, *others = pre_tokenizers(content) or [{"type": None}]
    joined = joined_words(content)
    if joined:
        first, others = others[0], []
    added = [token for token in content["added_tokens"] if not token["special"]]
    if content["model"].get("dropout") or any(t["lstrip"] or t["rstrip"] for t in added):
        return None  # such tokens take white space, even that which a normalizer puts there
    if first["type"] in _SPLITS_AT_SPACE:
        if not all(map(_changes_words, normalizers(content))) or not all(map(_cuts_words, others)):
            return None
        if any(re.search(r"\s", token["content"]) for token in added):
            return None
        return _apart(content, joined, has_parts=first["type"] == "BertPreTokenizer" and not added)
    if first["type"] == "ByteLevel" and not others and normalizes_locally(content):
        leaves_word = any(re.search(r"\S\s|\s\S", token["content"]) for token in added)
        if _adds_space(first) or leaves_word:
            return None
        return _with_spaces(has_parts=not any(_is_cut(token) for token in added))
    return None


def _apart(
    content: dict[str, Any], joined: frozenset[str] | None, *, has_parts: bool
) -> WordSplitter:
    """Cut at white space, and if BERT's pre-tokenizer does, at punctuation and ideographs."""
    visible = {_LETTER, _ALONE, _OTHER, _BLANK, _JOINED, _IDEOGRAPH}
    cuts = {pair for kind in visible for pair in ((kind, _SPACE), (_SPACE, kind))}
    if has_parts and normalizes_locally(content):
        apart = {_LETTER, _ALONE, _IDEOGRAPH}
        cuts |= {*product(apart, apart)} - {(_LETTER, _LETTER)}
    ideographs = FREQUENT_IDEOGRAPHS if normalizer_parts(content) else ""
    return WordSplitter(cuts, _ALWAYS_PUNCTUATION + ideographs, joined or frozenset())


def _with_spaces(*, has_parts: bool) -> WordSplitter:
    """Cut before white space, as byte-level BPE does, and if allowed where letters end."""
    # A run of white space goes with the word behind it, up to its last character.
    cuts = {(kind, _SPACE) for kind in (_LETTER, _ALONE, _OTHER, _JOINED)}
    return WordSplitter(cuts | ({(_LETTER, _ALONE)} if has_parts else set()), ENDS_LETTERS)


def _changes_words(normalizer: dict[str, Any]) -> bool:
    """Whether a step of a normalizer changes each word regardless of the white space around it."""
    pattern = normalizer.get("pattern", {})
    if normalizer["type"] == "Replace":
        return pattern.get("Regex") == " {2,}" or not re.search(r"\s", pattern.get("String", " "))
    return normalizer["type"] in {*LOCAL_NORMALIZERS, "Precompiled"}


def _cuts_words(pre_tokenizer: dict[str, Any]) -> bool:
    """Whether a step of a pre-tokenizer, after white space is gone, looks at one word only."""
    if pre_tokenizer["type"] == "Metaspace":
        return bool(pre_tokenizer["prepend_scheme"] != "first")  # the first word of a text
    return pre_tokenizer["type"] in _CUTS_WORDS


def _adds_space(byte_level: dict[str, Any]) -> bool:
    """Whether a pre-tokenizer has other words at the beginning of a text, or none at all."""
    return byte_level["add_prefix_space"] or not byte_level["use_regex"]


def _is_cut(added_token: dict[str, Any]) -> bool:
    """Whether an added token may be taken apart, or made one, where letters end."""
    is_simple = re.fullmatch(r"\s+|[A-Za-z0-9]+", added_token["content"])
    return added_token["single_word"] or not is_simple
