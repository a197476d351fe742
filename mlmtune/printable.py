"""How names and texts that others chose, and counts, are shown to people."""

import re
import unicodedata
from typing import Any

# Control characters, separators of lines, marks that turn the direction of what follows, and lone
# surrogates, which stand for the bytes of a name that are not UTF-8.
_DISTURBING = "\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff"
# In a name, invisible characters disturb as well. The joiners U+200C and U+200D stay, because
# they belong to the spelling of Persian and Indic words.
_UNSEEN = "\xad\u061c\u200b\u200e\u200f\u2060-\u2065\u206a-\u206f\ufeff\ufff9-\ufffb"

_IN_A_NAME = re.compile(f"[{_DISTURBING}{_UNSEEN}]")
_IN_TEXT = re.compile(rf"(?![\n\t])[{_DISTURBING}]")
_COLOUR = r"\x1b\[[0-9;]*m"
_COLOURS = re.compile(_COLOUR)
_IN_COLOURED_TEXT = re.compile(rf"(?!{_COLOUR})(?![\n\t])[{_DISTURBING}]")


def printable(name: str) -> str:
    r"""Escape control and invisible characters of a name: `a\x1b[31m.txt`, `b\u202etxt`."""
    return _IN_A_NAME.sub(_escaped, name)


def printable_text(text: str, *, keeps_colours: bool = False) -> str:
    r"""Escape control characters in a text for a terminal; line breaks and tabs stay.

    All escapes are of the form `\u001b`, so that what was JSON is the same JSON.
    """
    disturbing = _IN_COLOURED_TEXT if keeps_colours else _IN_TEXT
    return disturbing.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


_MARKUP = re.compile(r"[\\`*<>|]|\](?=\()|(?<![^\W_])_|_(?![^\W_])")
"""What Markdown takes for markup; it does not take an underscore inside a word for markup."""


def in_markdown(text: Any) -> str:
    """Escape text for one line of Markdown, such as a cell of a table."""
    return _MARKUP.sub(r"\\\g<0>", printable_text(" ".join(str(text).split())))


def code_in_markdown(text: str) -> str:
    """Write text as code in Markdown, within more backticks in a row than it contains."""
    content = printable(" ".join(text.split()))
    fence = "`" * (1 + max(map(len, re.findall("`+", content)), default=0))
    padding = " " if "`" in content else ""
    return f"{fence}{padding}{content}{padding}{fence}"


def _escaped(match: re.Match[str]) -> str:
    code = ord(match[0])
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is not UTF-8, as Python decodes names of files
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def shown_width(text: str) -> int:
    """Return the columns of a terminal that a text takes; a Chinese character takes two."""
    text = _COLOURS.sub("", text)
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.category(character) in ("Mn", "Me", "Cf")
        else 2 if unicodedata.east_asian_width(character) in ("W", "F")
        else 1
        for character in text
    )  # fmt: skip


def counted(number: int, noun: str, plural: str = "") -> str:
    """Write a count with its noun: `1 document`, `1,179 documents`, `0 entries`.

    Args:
        number: The count.
        noun: The singular.
        plural: The plural; the singular with an s if empty.
    """
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"
