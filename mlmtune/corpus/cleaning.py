"""Raw text to the text a model learns from, in steps that are configured and counted."""

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Iterator
from functools import cache
from itertools import chain
from typing import Literal

import xxhash

from mlmtune.config import CleaningConfig, MarkdownConfig
from mlmtune.corpus.html_text import html_text
from mlmtune.corpus.long_text import substituted, with_each_line
from mlmtune.corpus.markdown_text import markdown_text

CLEANING_VERSION = 5
"""To be raised with every change of what readers and cleaning yield: all is read anew."""

STEPS = (
    "line_ends",
    "control_characters",
    "front_matter",
    "comments",
    "directives",
    "images",
    "links",
    "code_blocks",
    "tables",
    "html",
    "markup",
    "unicode",
    "white_space",
)
"""What takes characters away, in the order of work. `markup` are the marks of Markdown itself."""


def clean(
    text: str,
    markup: Literal["markdown", "html", "none"],
    cleaning: CleaningConfig,
    markdown: MarkdownConfig,
    removed: Counter[str],
) -> str:
    """The text that a model learns from.

    Args:
        text: a document as it was read.
        markup: what it is written in.
        cleaning: what is done to all text.
        markdown: how Markdown becomes text.
        removed: the characters that each of STEPS takes away are added to it, in sum
            `len(text) - len(result)`. A step that makes text longer counts below zero.
    """
    # Before the markup is gone, the letters on the two sides of a word border cannot be seen.
    text = _without_hidden(text, cleaning, removed, keeps_word_borders=markup != "none")
    if markup == "markdown":
        text = markdown_text(text, markdown, removed)
    elif markup == "html":
        text = html_text(text, removed)
    if markup != "none":
        text = _without_hidden(text, cleaning, removed)  # an entity can spell any character
    if cleaning.unicode == "nfc":
        composed = unicodedata.normalize("NFC", text)
        removed["unicode"] += len(text) - len(composed)
        text = composed
    if cleaning.white_space == "tidy":
        tidy = _tidy(text)
        removed["white_space"] += len(text) - len(tidy)
        text = tidy
    return text


# One search tells that most texts need nothing done.
_HIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u200b\u2028\u2029\u2060\ufeff\ud800-\udfff]")
_LINE_ENDS = re.compile("\r\n?|[\v\f\x85\u2028\u2029]")
# Zero-width joiners are not among them: some scripts are spelt with them.
_CONTROLS = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\xad\u2060\ufeff]")
_SURROGATES = re.compile("[\ud800-\udfff]")


# Thai, Lao, Burmese, Khmer, Tai Le, New Tai Lue, Tai Tham, more Burmese and Tai Viet: scripts that
# set no space between words, so that a zero-width space parts words there (class SA of Unicode
# Standard Annex 14). In Chinese and Japanese it only says where a line may break.
_PARTED_BY_ZERO_WIDTH_SPACE = (
    (0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x1950, 0x19DF), (0x1A20, 0x1AAF),
    (0xA9E0, 0xA9FF), (0xAA60, 0xAADF),
)  # fmt: skip


@cache
def _parted_letters() -> str:
    """The letters, marks and digits of these scripts, for a class in a pattern."""
    blocks = (range(first, last + 1) for first, last in _PARTED_BY_ZERO_WIDTH_SPACE)
    characters = map(chr, chain.from_iterable(blocks))
    return "".join(c for c in characters if unicodedata.category(c)[0] in "LMN")


@cache
def _word_border() -> re.Pattern[str]:
    """Zero-width spaces between two letters, at least one of them of a script parted by them."""
    any_letter, parted = rf"[\w{_marks()}]", f"[{_parted_letters()}]"
    return re.compile(f"(?<={parted})\u200b+(?={any_letter})|(?<={any_letter})\u200b+(?={parted})")


def _without_hidden(
    text: str, cleaning: CleaningConfig, removed: Counter[str], *, keeps_word_borders: bool = False
) -> str:
    """One kind of line end, no characters that no one sees, and none that no encoding holds.

    The last are halves of surrogate pairs, which JSON can spell; they become U+FFFD. A zero-width
    space that parts words becomes a space.

    Args:
        text: of a document.
        cleaning: whether characters that no one sees are dropped.
        removed: the number of characters that were dropped is added to it.
        keeps_word_borders: leave zero-width spaces in text of a script that parts words by them.
    """
    if not _HIDDEN.search(text):
        return text
    lines = substituted(_LINE_ENDS, "\n", text)
    removed["line_ends"] += len(text) - len(lines)
    visible = lines
    if cleaning.control_characters == "drop":
        visible = substituted(_CONTROLS, "", lines)
        if not (keeps_word_borders and re.search(f"[{_parted_letters()}]", visible)):
            visible = _without_zero_width_spaces(visible)
    removed["control_characters"] += len(lines) - len(visible)
    return substituted(_SURROGATES, "\ufffd", visible)


def _without_zero_width_spaces(text: str) -> str:
    if "\u200b" not in text:
        return text
    return substituted(_word_border(), " ", text).replace("\u200b", "")


_WIDE_SPACE = re.compile("[\xa0\u1680\u2000-\u200a\u202f\u205f\u3000]")
_BLANK_LINES = re.compile(r"\n{3,}")


def _tidy(text: str) -> str:
    if not text.isascii():
        text = substituted(_WIDE_SPACE, " ", text)
    if " \n" in text or "\t\n" in text:
        text = with_each_line(lambda line: line.rstrip(" \t"), text)
    if "\n\n\n" in text:
        text = substituted(_BLANK_LINES, "\n\n", text)
    return text.strip(" \t\n")


SLICE_CHARACTERS = 1 << 20
_LONGEST_WORD = 1 << 22
_WHITE_SPACE = re.compile(r"\s")


def slices(text: str) -> Iterator[str]:
    """A long text in pieces. Each ends at white space: no word and no composed character is cut."""
    start = 0
    while start < len(text):
        space = _WHITE_SPACE.search(text, start + SLICE_CHARACTERS)
        end = space.start() if space else len(text)
        yield text[start:end]
        start = end


def content_hash(text: str) -> int:
    """64 bits that are equal for texts that differ in white space and Unicode composition only."""
    state = xxhash.xxh3_64()
    separator = b""
    for piece in slices(text):
        words_of_piece = " ".join(unicodedata.normalize("NFC", piece).split())
        if words_of_piece:
            state.update(separator)
            state.update(words_of_piece.encode())
            separator = b" "
    return state.intdigest()


UNSPACED = (
    "\u3005-\u3007\u3021-\u3029\u3031-\u3035\u303b\u303c\u3041-\u3096\u309d-\u309f\u30a1-\u30fa"
    "\u30fc-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f"
    "\U0001b000-\U0001b16f\U00020000-\U0003ffff"
)
"""Ideographs and kana, for a class in a pattern: scripts that set no space between words."""
_ASCII_WORD = re.compile(r"\w+", re.ASCII)


def words(text: str) -> list[str]:
    """The casefolded words of a text, without punctuation.

    Each ideograph and each kana is a word of its own.
    """
    folded = text.casefold()
    pattern = _ASCII_WORD if folded.isascii() else _word()
    return pattern.findall(folded)


def word_slices(text: str) -> Iterator[str]:
    """A long text in pieces, whose words are together those of the text.

    A word of over four million letters is cut.
    """
    start = 0
    while start < len(text):
        place = start + SLICE_CHARACTERS
        border = _between_words().search(text, place, place + _LONGEST_WORD)
        end = border.start() if border else min(place + _LONGEST_WORD, len(text))
        yield text[start:end]
        start = end


def count_words(text: str) -> int:
    """How many words `words` finds in a text of any length."""
    return sum(len(words(piece)) for piece in word_slices(text))


@cache
def _word() -> re.Pattern[str]:
    letters = rf"[^\W{UNSPACED}]"
    return re.compile(rf"{letters}++(?:[{_marks()}]++{letters}*+)*+|[{UNSPACED}]")


@cache
def _between_words() -> re.Pattern[str]:
    """A character that no word before it goes on with."""
    return re.compile(rf"[^\w{_marks()}]|[{UNSPACED}]")


@cache
def _letters() -> re.Pattern[str]:
    return re.compile(rf"[^\W\d_]+|[{_marks()}]+")


@cache
def _marks() -> str:
    """What is written on, after or between letters as a part of them: vowel signs, joiners."""
    # A class of characters up to here is looked up; one beyond is compared with each in turn.
    characters = map(chr, range(0x10000))
    marks = [c for c in characters if unicodedata.category(c).startswith("M")]
    return "\u200c\u200d" + "".join(marks)


_ASCII_LETTERS = string.ascii_letters.encode()
_ASCII_WHITE_SPACE = "".join(c for c in map(chr, range(128)) if c.isspace()).encode()
_NOT_ASCII = re.compile("[^\0-\x7f]+")


def letter_share(text: str) -> float:
    """Letters over characters that are not white space; 0 for text that has none of those.

    Marks count as the letters that they belong to.
    """
    num_letters = num_visible = 0
    for start in range(0, len(text), SLICE_CHARACTERS):
        part = text[start : start + SLICE_CHARACTERS]
        ascii_part = part.encode("ascii", "ignore")
        num_letters += len(ascii_part) - len(ascii_part.translate(None, _ASCII_LETTERS))
        num_visible += len(ascii_part.translate(None, _ASCII_WHITE_SPACE))
        if len(ascii_part) < len(part):
            other_part = "".join(_NOT_ASCII.findall(part))
            num_letters += sum(map(len, _letters().findall(other_part)))
            num_visible += sum(map(len, other_part.split()))
    return num_letters / num_visible if num_visible else 0.0
