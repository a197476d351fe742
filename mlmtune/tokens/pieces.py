"""Long texts in pieces, so that the tokenizer's memory does not grow with a document.

The tokenizer takes some 500 bytes for each token while it works. So a long text is cut, and only
where the pre-tokenizer has a border whatever stands farther away: then the tokens of the pieces are
those of the whole. A white space between two other characters is such a border for every tokenizer.
Where a text has none for long (minified JSON, a line of punctuation), what else is certain depends
on the tokenizer; see `_BORDERS`. A text that has neither (one word of a million letters, emoji
under a BERT) is cut all the same, which may change the tokens at the cut.
"""

import json
import re
import unicodedata
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from tokenizers import Tokenizer

PIECE_CHARACTERS = 75_000
"""A longer text is cut."""
SEARCHED_CHARACTERS = 25_000
"""How far a border is searched for before a text is cut without one."""
GROUP_TOKENS = 150_000
"""Tokens that are made at once, more or less: some 75 MB in the tokenizer."""

_LIGHT = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ \n"
_LIGHT_PER_TOKEN = 2
"""Letters of words in ASCII per token, where a vocabulary hardly knows the words. Of all else
each character may be a token, and with byte-level BPE each of its bytes."""

_PUNCTUATION = r"!-/:-@\[-`{-~"
_NEVER_INSIDE = rf"(?<=[A-Za-z0-9])(?=[{_PUNCTUATION}])(?!['_])"
_BORDERS = {
    # Each mark of ASCII punctuation is a word of its own.
    "BertPreTokenizer": rf"(?<=[{_PUNCTUATION}])(?=[!-~])|(?<=[!-~])(?=[{_PUNCTUATION}])",
    # A run of letters or of digits ends where punctuation begins. An apostrophe may go with it.
    "ByteLevel": _NEVER_INSIDE,
    "Whitespace": _NEVER_INSIDE,
}
"""By the type of a pre-tokenizer: where it has a border, besides white space."""
_BEFORE_WORD = r"(?<=\S)(?=\s[\w!-~])"
"""Of a single white space. A mark behind it would belong to the word before the space."""
_BETWEEN_IDEOGRAPHS = "(?<=[\u3400-\u4dbf\u4e00-\u9fff])(?=[\u3400-\u4dbf\u4e00-\u9fff])"

_LOCAL_NORMALIZERS = {
    "BertNormalizer", "Lowercase", "NFC", "NFD", "NFKC", "NFKD", "StripAccents",
}  # fmt: skip
"""They change ASCII and ideographs one by one, whatever stands beside them."""


class Cutter:
    """Cuts long texts for one tokenizer.

    Args:
        backend: as `encoding.plain_backend` makes it.
    """

    def __init__(self, backend: Tokenizer) -> None:
        content = json.loads(backend.to_str())
        self._border = re.compile("|".join([_BEFORE_WORD, *_other_borders(content)]))
        self._is_byte_level = '"ByteLevel"' in json.dumps(content["pre_tokenizer"])
        self._added = {token["content"].casefold() for token in content["added_tokens"]}

    def __call__(self, text: str) -> Iterator[str]:
        """The text in pieces, in order and without gaps."""
        start = 0
        while len(text) - start > PIECE_CHARACTERS:
            end = self._place_to_cut(text, start + PIECE_CHARACTERS)
            yield text[start:end]
            start = end
        if start < len(text) or not text:
            yield text[start:]

    def most_tokens(self, text: str) -> int:
        """About the most tokens that a text makes."""
        ascii_part = text.encode("ascii", "ignore")
        num_light = len(ascii_part) - len(ascii_part.translate(None, _LIGHT))
        num_units = len(text.encode()) if self._is_byte_level else len(text)
        return num_units - num_light + num_light // _LIGHT_PER_TOKEN

    def _place_to_cut(self, text: str, place: int) -> int:
        """The first border from a place on; without one, the next place between characters."""
        for found in self._border.finditer(text, place, place + SEARCHED_CHARACTERS):
            if not self._has_added_token(text, found.start()):
                return found.start()
        return next((p for p in range(place, len(text)) if not _is_joined(text, p)), len(text))

    def _has_added_token(self, text: str, place: int) -> bool:
        """Whether a token that is found in the text as it stands is at a place, or next to it."""
        return any(
            token in text[max(0, place - len(token)) : place + len(token)].casefold()
            for token in self._added
        )


def _other_borders(content: dict[str, Any]) -> Iterator[str]:
    """Patterns of places where a tokenizer of this tokenizer.json has a border for certain."""
    normalizer, pre_tokenizer = content["normalizer"], content["pre_tokenizer"] or {}
    parts = [] if normalizer is None else normalizer.get("normalizers", [normalizer])
    # With a prefix space, a piece that does not begin with one would get it.
    adds_space = pre_tokenizer.get("add_prefix_space") or not pre_tokenizer.get("use_regex", True)
    if adds_space or not all(part["type"] in _LOCAL_NORMALIZERS for part in parts):
        return
    if border := _BORDERS.get(pre_tokenizer.get("type", "")):
        yield border
    if any(part.get("handle_chinese_chars") for part in parts):
        yield _BETWEEN_IDEOGRAPHS


def _is_joined(text: str, place: int) -> bool:
    """Whether what is before a place and behind it may be one character to a reader."""
    before, behind = text[place - 1], text[place]
    return before == "\u200d" or unicodedata.category(behind) in ("Mn", "Mc", "Me", "Cf", "Sk")


class Piece(NamedTuple):
    """Some characters of a text.

    Attributes:
        number: of the text.
        begin: the place of the first character in it.
        text: the characters.
    """

    number: int
    begin: int
    text: str


def cut(texts: Iterable[str], cutter: Cutter) -> Iterator[list[Piece]]:
    """The pieces of some texts in order, as many at once as the tokenizer should be given."""
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
