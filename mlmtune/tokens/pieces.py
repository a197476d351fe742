"""Long texts are cut into pieces, so that the tokenizer's memory does not grow with a document.

The tokenizer takes about 500 bytes per token while it works. A long text is therefore cut, where
possible at a character where the pre-tokenizer has a border regardless of the text farther away:
then the pieces have the same tokens as the whole. White space between two other characters is such
a border for every tokenizer. In a long text without white space (minified JSON, a line of
punctuation), the certain borders depend on the tokenizer; see `_BORDERS`. A text with neither (one
word of a million letters, emoji under a BERT) is cut anyway, which may change tokens at the cut.
"""

import json
import re
import unicodedata
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from mlmtune.tokens.ideographs import joined_words, normalizer_parts
from mlmtune.tokens.steps import normalizers

PIECE_CHARACTERS = 75_000
"""The length from which a text is cut."""
SEARCHED_CHARACTERS = 25_000
"""The distance within which a border is searched for before a text is cut without one."""
GROUP_TOKENS = 150_000
"""About the number of tokens that are made at once: 75 MB in the tokenizer."""

_LIGHT = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ \n"
_LIGHT_PER_TOKEN = 2
"""ASCII letters and spaces per token, for a vocabulary that hardly knows the words. Any other
character may be a token by itself, and with byte-level BPE each of its bytes may be."""

PUNCTUATION = r"!-/:-@\[-`{-~"
"""The punctuation of ASCII, for a class in a pattern."""
ENDS_LETTERS = r"!-&(-/:-@\[-^`{-~"
"""The same without the apostrophe, which may belong to a word, and the underscore."""
_NEVER_INSIDE = rf"(?<=[A-Za-z0-9])(?=[{ENDS_LETTERS}])"
_BORDERS = {
    # Each mark of ASCII punctuation is a word of its own.
    "BertPreTokenizer": rf"(?<=[{PUNCTUATION}])(?=[!-~])|(?<=[!-~])(?=[{PUNCTUATION}])",
    # A run of letters or of digits ends where punctuation begins. An apostrophe may go with it.
    "ByteLevel": _NEVER_INSIDE,
    "Whitespace": _NEVER_INSIDE,
}
"""For each type of pre-tokenizer, a pattern of its borders besides white space."""
_BEFORE_WORD = r"(?<=\S)(?=\s[\w!-~])"
"""Before a single white space. A combining mark after it would belong to the word before it."""
FREQUENT_IDEOGRAPHS = "\u3400-\u4dbf\u4e00-\u9fff"
"""The most frequent ideographs, for a class in a pattern."""
_BETWEEN_IDEOGRAPHS = f"(?<=[{FREQUENT_IDEOGRAPHS}])(?=[{FREQUENT_IDEOGRAPHS}])"
_AFTER_MARKS = f"(?<=[\u3001\u3002\uff01\uff0c\uff1a\uff1b\uff1f])(?=[{FREQUENT_IDEOGRAPHS}])"
"""After the most frequent marks of Chinese punctuation."""

LOCAL_NORMALIZERS = {
    "BertNormalizer", "Lowercase", "NFC", "NFD", "NFKC", "NFKD", "StripAccents",
}  # fmt: skip
"""These change each ASCII character and ideograph independently of the characters beside it."""


class Cutter:
    """Cuts long texts for one tokenizer.

    Args:
        content: The tokenizer.json of what `encoding.plain_backend` returns.
    """

    def __init__(self, content: dict[str, Any]) -> None:
        self._border = re.compile("|".join([_BEFORE_WORD, *_other_borders(content)]))
        self._is_byte_level = '"ByteLevel"' in json.dumps(content["pre_tokenizer"])
        self._added = {token["content"].casefold() for token in content["added_tokens"]}

    def __call__(self, text: str) -> Iterator[str]:
        """Yield the pieces of a text, in order and without gaps."""
        start = 0
        while len(text) - start > PIECE_CHARACTERS:
            end = self._cut_position(text, start + PIECE_CHARACTERS)
            yield text[start:end]
            start = end
        if start < len(text) or not text:
            yield text[start:]

    def most_tokens(self, text: str) -> int:
        """Estimate the largest number of tokens that a text can have."""
        ascii_part = text.encode("ascii", "ignore")
        num_light = len(ascii_part) - len(ascii_part.translate(None, _LIGHT))
        num_units = len(text.encode()) if self._is_byte_level else len(text)
        return num_units - num_light + num_light // _LIGHT_PER_TOKEN

    def _cut_position(self, text: str, start: int) -> int:
        """Find the first border from a position on, or else the next end of a character."""
        for border in self._border.finditer(text, start, start + SEARCHED_CHARACTERS):
            if not self._has_added_token(text, border.start()):
                return border.start()
        return next((p for p in range(start, len(text)) if may_cut(text, p)), len(text))

    def _has_added_token(self, text: str, position: int) -> bool:
        """Whether an added token, which is matched in the raw text, is at or next to a position."""
        return any(
            token in text[max(0, position - len(token)) : position + len(token)].casefold()
            for token in self._added
        )


def _other_borders(content: dict[str, Any]) -> Iterator[str]:
    """Yield patterns of the certain borders, besides white space, of a tokenizer.json."""
    pre_tokenizer = content["pre_tokenizer"] or {}
    # A tokenizer that adds a space before a text would add one before each piece, too.
    adds_space = pre_tokenizer.get("add_prefix_space") or not pre_tokenizer.get("use_regex", True)
    if adds_space or not normalizes_locally(content):
        return
    words = joined_words(content)
    kind = pre_tokenizer.get("type", "") if words is None else "BertPreTokenizer"
    if border := _BORDERS.get(kind):
        yield border
    if normalizer_parts(content):
        yield _BETWEEN_IDEOGRAPHS
    elif words:
        yield _AFTER_MARKS


def normalizes_locally(content: dict[str, Any]) -> bool:
    """Whether a tokenizer.json changes each ASCII character, space and ideograph by itself."""
    return all(part["type"] in LOCAL_NORMALIZERS for part in normalizers(content))


def may_cut(text: str, position: int) -> bool:
    """Whether a text without borders may be cut here, which is not inside a visible character."""
    before, behind = text[position - 1], text[position]
    return before != "\u200d" and unicodedata.category(behind) not in ("Mn", "Mc", "Me", "Cf", "Sk")


class Piece(NamedTuple):
    """A part of text `number`, in which it begins at character `begin`."""

    number: int
    begin: int
    text: str


def cut(texts: Iterable[str], cutter: Cutter) -> Iterator[list[Piece]]:
    """Yield the pieces of some texts in order, in groups of about `GROUP_TOKENS` tokens."""
    group: list[Piece] = []
    num_tokens = 0
    for number, text in enumerate(texts):
        begin = 0
        for piece in cutter(text):
            group.append(Piece(number, begin, piece))
            begin += len(piece)
            num_tokens += cutter.most_tokens(piece)
            if num_tokens >= GROUP_TOKENS:
                yield group
                group, num_tokens = [], 0
    if group:
        yield group
