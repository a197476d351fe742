"""The cleaning of raw text, in steps that are configured and that count what they remove."""

import re
import string
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import chain
from typing import Literal

import numpy as np
import xxhash
from numpy.typing import NDArray

from mlmtune.config import CleaningConfig, MarkdownConfig
from mlmtune.corpus.html_text import html_text
from mlmtune.corpus.long_text import substituted, with_each_line
from mlmtune.corpus.markdown_text import markdown_text

CLEANING_VERSION = 8
"""Raised with every change of what readers and cleaning yield, so that text is read again."""

STEPS = (
    "boilerplate",
    "outputs",
    "mojibake",
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
"""The steps that remove characters, in their order. The first two are those of readers, `markup` is
the marks of Markdown itself."""


def clean(
    text: str,
    markup: Literal["markdown", "html", "none"],
    cleaning: CleaningConfig,
    markdown: MarkdownConfig,
    removed: Counter[str],
) -> str:
    """Return the text that a model learns from.

    Args:
        text: A document as it was read.
        markup: The markup of the document.
        cleaning: How all text is cleaned.
        markdown: How Markdown becomes text.
        removed: Counts the characters that each of STEPS removes. The counts of one call add up to
            `len(text) - len(result)`. A step that makes the text longer counts below zero.

    Raises:
        UnreadablePage: A page of Markdown cannot be parsed, or not in reasonable memory.
    """
    if cleaning.mojibake == "repair":  # before control characters, which mojibake consists of
        repaired = text if text.isascii() else with_each_line(_repaired, text)
        removed["mojibake"] += len(text) - len(repaired)
        text = repaired
    # Markup may be between the two letters that show whether a zero-width space is a border.
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


def _repaired(line: str) -> str:
    """Repair UTF-8 that was read in another encoding, such as `grÃ¼n` for `grün`.

    Nothing else that ftfy can do is done: entities, quotes, ligatures and widths stay.
    """
    if line.isascii():
        return line
    from ftfy import fix_encoding  # an extra that may be missing

    return "".join(map(fix_encoding, slices(line)))


_HIDDEN_IN_ASCII = bytes(c for c in range(128) if (c < 32 and c not in b"\t\n") or c == 0x7F)
_HIDDEN_BEYOND_ASCII = re.compile("[\x80-\x9f\xad\u200b\u2028\u2029\u2060\ufeff\ud800-\udfff]")
_LINE_ENDS = re.compile("\r\n?|[\v\f\x85\u2028\u2029]")
# Zero-width joiners are not among them: some scripts are spelt with them.
_CONTROLS = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\xad\u2060\ufeff]")
_SURROGATES = re.compile("[\ud800-\udfff]")


# Thai, Lao, Burmese, Khmer, Tai Le, New Tai Lue, Tai Tham, more Burmese and Tai Viet: scripts that
# set no space between words, so that a zero-width space separates words there (class SA of Unicode
# Standard Annex 14). In Chinese and Japanese it only says where a line may break.
_SEPARATED_BY_ZERO_WIDTH_SPACE = (
    (0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x1950, 0x19DF), (0x1A20, 0x1AAF),
    (0xA9E0, 0xA9FF), (0xAA60, 0xAADF),
)  # fmt: skip


@cache
def _separated_letters() -> str:
    """Return the letters, marks and digits of these scripts, for a class in a pattern."""
    blocks = (range(first, last + 1) for first, last in _SEPARATED_BY_ZERO_WIDTH_SPACE)
    characters = map(chr, chain.from_iterable(blocks))
    return "".join(c for c in characters if unicodedata.category(c)[0] in "LMN")


@cache
def _word_border() -> re.Pattern[str]:
    """Match zero-width spaces between letters, one of which is of a script separated by them."""
    any_letter, letter = rf"[\w{_marks()}]", f"[{_separated_letters()}]"
    return re.compile(f"(?<={letter})\u200b+(?={any_letter})|(?<={any_letter})\u200b+(?={letter})")


def _without_hidden(
    text: str, cleaning: CleaningConfig, removed: Counter[str], *, keeps_word_borders: bool = False
) -> str:
    """Make line ends uniform, drop invisible characters, and replace lone surrogates by U+FFFD.

    JSON can spell lone surrogates, and no encoding holds them. A zero-width space that separates
    words becomes a space; with `keeps_word_borders` it stays.
    """
    if not _has_hidden(text):
        return text
    lines = substituted(_LINE_ENDS, "\n", text)
    removed["line_ends"] += len(text) - len(lines)
    visible = lines
    if cleaning.control_characters == "drop":
        visible = substituted(_CONTROLS, "", lines)
        keeps = keeps_word_borders and re.search(f"[{_separated_letters()}]", visible)
        if "\u200b" in visible and not keeps:
            visible = substituted(_word_border(), " ", visible).replace("\u200b", "")
    removed["control_characters"] += len(lines) - len(visible)
    return substituted(_SURROGATES, "\ufffd", visible)


def _has_hidden(text: str) -> bool:
    """Whether `_without_hidden` may change a text; most need no change."""
    for piece in _pieces(text):
        encoded = piece.encode("utf-8", "surrogatepass")
        if len(encoded.translate(None, _HIDDEN_IN_ASCII)) < len(encoded):
            return True
        if len(encoded) > len(piece) and _HIDDEN_BEYOND_ASCII.search(_beyond_ascii(encoded)):
            return True
    return False


_WIDE_SPACE = re.compile("[\xa0\u1680\u2000-\u200a\u202f\u205f\u3000]")
_BLANK_LINES = re.compile(r"\n{3,}")


def _tidy(text: str) -> str:
    if not text.isascii():
        beyond_ascii = (_beyond_ascii(piece.encode()) for piece in _pieces(text))
        for space in set(chain.from_iterable(map(_WIDE_SPACE.findall, beyond_ascii))):
            text = text.replace(space, " ")
    # Each step first does what nearly all texts need, which is fast, and then what is left.
    text = text.replace(" \n", "\n")
    if " \n" in text or "\t\n" in text:
        text = with_each_line(lambda line: line.rstrip(" \t"), text)
    text = text.replace("\n\n\n", "\n\n")
    if "\n\n\n" in text:
        text = substituted(_BLANK_LINES, "\n\n", text)
    return text.strip(" \t\n")


SLICE_CHARACTERS = 1 << 20
_LONGEST_WORD = 1 << 22
_WHITE_SPACE = re.compile(r"\s")


def slices(text: str) -> Iterator[str]:
    """Yield a long text in pieces that end at white space, so that no word is cut."""
    start = 0
    while start < len(text):
        space = _WHITE_SPACE.search(text, start + SLICE_CHARACTERS)
        end = space.start() if space else len(text)
        yield text[start:end]
        start = end


def _pieces(text: str) -> Iterable[str]:
    """Return a long text in pieces of equal length, for what looks at each character alone."""
    if len(text) <= SLICE_CHARACTERS:
        return (text,)
    return (text[i : i + SLICE_CHARACTERS] for i in range(0, len(text), SLICE_CHARACTERS))


_ASCII = bytes(range(128))
_ASCII_LETTERS = string.ascii_letters.encode()
_ASCII_WHITE_SPACE = "".join(c for c in map(chr, range(128)) if c.isspace()).encode()
_TO_SPACE = bytes.maketrans(_ASCII_WHITE_SPACE, b" " * len(_ASCII_WHITE_SPACE))


def _beyond_ascii(encoded: bytes) -> str:
    """Return the characters of UTF-8 that are not ASCII, of which most text has few."""
    return encoded.translate(None, _ASCII).decode("utf-8", "surrogatepass")


def content_hash(text: str) -> int:
    """Hash a text to 64 bits that do not depend on white space and Unicode composition."""
    state = xxhash.xxh3_64()
    separator = b""
    for piece in slices(text):
        words_of_piece = _spaced_by_one(unicodedata.normalize("NFC", piece))
        if words_of_piece:
            state.update(separator)
            state.update(words_of_piece)
            separator = b" "
    return state.intdigest()


def _spaced_by_one(text: str) -> bytes:
    """Return `" ".join(text.split())` as UTF-8."""
    encoded = text.encode()
    if len(encoded) > len(text) and _WHITE_SPACE.search(_beyond_ascii(encoded)):
        return " ".join(text.split()).encode()
    characters = np.frombuffer(encoded.translate(_TO_SPACE), np.uint8)
    is_kept = characters != ord(" ")
    is_kept[1:] |= is_kept[:-1].copy()  # and the first space after a word
    spaced: bytes = characters[is_kept].tobytes()
    return spaced.removesuffix(b" ")


UNSPACED = (
    "\u3005-\u3007\u3021-\u3029\u3031-\u3035\u303b\u303c\u3041-\u3096\u309d-\u309f\u30a1-\u30fa"
    "\u30fc-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f"
    "\U0001b000-\U0001b16f\U00020000-\U0003ffff"
)
"""Ideographs and kana, which have no spaces between words, for a class in a pattern."""
_ASCII_WORD = re.compile(r"\w+", re.ASCII)


def words(text: str) -> list[str]:
    """Return the casefolded words of a text, without punctuation; an ideograph or kana is one."""
    folded = text.casefold()
    pattern = _ASCII_WORD if folded.isascii() else _word()
    return pattern.findall(folded)


def find_words(text: str) -> Iterator[re.Match[str]]:
    """Find the words of a text where they are, as `words` tells them apart."""
    return (_ASCII_WORD if text.isascii() else _word()).finditer(text)


def word_slices(text: str) -> Iterator[str]:
    """Yield a long text in pieces that cut no word, unless it has over four million letters."""
    start = 0
    while start < len(text):
        earliest = start + SLICE_CHARACTERS
        border = _between_words().search(text, earliest, earliest + _LONGEST_WORD)
        end = border.start() if border else min(earliest + _LONGEST_WORD, len(text))
        yield text[start:end]
        start = end


def count_words(text: str) -> int:
    """Count the words that `words` finds, in a text of any length."""
    if text.isascii():
        in_word = text.encode().translate(_IN_ASCII_WORD)
        return in_word.count(b" w") + in_word.startswith(b"w")
    num_words, was_letter = 0, False
    for start in range(0, len(text), SLICE_CHARACTERS):
        codes = text[start : start + SLICE_CHARACTERS].encode("utf-32-le", "surrogatepass")
        kinds = _word_kinds()[np.frombuffer(codes, "<u4")]
        kinds = kinds[kinds != _MARK]  # a mark between letters parts no word
        is_letter = np.append(was_letter, kinds == _LETTER)
        num_words += int(np.count_nonzero(is_letter[1:] > is_letter[:-1]))
        num_words += int(np.count_nonzero(kinds == _UNSPACED_LETTER))
        was_letter = bool(is_letter[-1])
    return num_words


_IN_ASCII_WORD = bytes(ord("w" if chr(c).isalnum() or chr(c) == "_" else " ") for c in range(256))
_OTHER, _LETTER, _MARK, _UNSPACED_LETTER = range(4)
"""Kinds of characters: what parts words, letters and digits, what belongs to the letter before it,
and a word by itself."""


@cache
def _word_kinds() -> NDArray[np.uint8]:
    """Return (number of code points,) the kind of each character, as it is when casefolded."""
    kinds = np.full(sys.maxunicode + 1, _OTHER, dtype=np.uint8)
    kinds[0x20000:0x40000] = _UNSPACED_LETTER
    # All other planes hold private characters and variation selectors.
    folded = "".join(chr(code).casefold()[0] for code in range(0x20000))
    patterns = {
        _LETTER: rf"[^\W{UNSPACED}]+", _MARK: f"[{_marks()}]+", _UNSPACED_LETTER: f"[{UNSPACED}]+"
    }  # fmt: skip
    for kind, pattern in patterns.items():
        for found in re.finditer(pattern, folded):
            kinds[found.start() : found.end()] = kind
    return kinds


@cache
def _word() -> re.Pattern[str]:
    letters = rf"[^\W{UNSPACED}]"
    return re.compile(rf"{letters}++(?:[{_marks()}]++{letters}*+)*+|[{UNSPACED}]")


@cache
def _between_words() -> re.Pattern[str]:
    """Match a character that does not continue the word before it."""
    return re.compile(rf"[^\w{_marks()}]|[{UNSPACED}]")


@cache
def _letters() -> re.Pattern[str]:
    return re.compile(rf"[^\W\d_]+|[{_marks()}]+")


@cache
def _marks() -> str:
    """Return the characters that belong to the letters beside them: vowel signs, joiners."""
    # `re` looks characters up to U+FFFF up in a table, and compares others one by one.
    characters = map(chr, range(0x10000))
    marks = [c for c in characters if unicodedata.category(c).startswith("M")]
    return "\u200c\u200d" + "".join(marks)


def letter_share(text: str) -> float:
    """Return the share of letters and marks among the characters that are not white space."""
    num_letters = num_visible = 0
    for piece in _pieces(text):
        encoded = piece.encode("utf-8", "surrogatepass")
        num_letters += len(encoded) - len(encoded.translate(None, _ASCII_LETTERS))
        num_visible += len(piece) - len(encoded) + len(encoded.translate(None, _ASCII_WHITE_SPACE))
        if len(encoded) > len(piece):
            beyond_ascii = _beyond_ascii(encoded)
            num_letters += sum(map(len, _letters().findall(beyond_ascii)))
            num_visible += sum(map(len, beyond_ascii.split())) - len(beyond_ascii)
    return num_letters / num_visible if num_visible else 0.0
