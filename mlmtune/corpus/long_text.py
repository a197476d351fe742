"""Changes to a text of any length, in memory that is a few times its size.

`re.sub` and `str.split` hold a Python object for each piece between two matches, which takes fifty
times the size of a text whose pieces are short.
"""

import io
import re
from collections.abc import Callable

BLOCK_CHARACTERS = 1 << 20
"""A text up to this length is changed at once."""


def substituted(
    pattern: re.Pattern[str], replacement: str | Callable[[re.Match[str]], str], text: str
) -> str:
    """`pattern.sub(replacement, text)`; a replacement that is a string stands for itself."""
    if len(text) <= BLOCK_CHARACTERS:
        return pattern.sub(replacement, text)
    written = io.StringIO()
    place = 0
    for found in pattern.finditer(text):
        written.write(text[place : found.start()])
        written.write(replacement if isinstance(replacement, str) else replacement(found))
        place = found.end()
    written.write(text[place:])
    return written.getvalue()


def with_each_line(function: Callable[[str], str], text: str) -> str:
    """The text with a function applied to each of its lines, without their ends."""
    written = io.StringIO()
    start = 0
    while (end := text.find("\n", start + BLOCK_CHARACTERS)) >= 0:
        written.write("\n".join(map(function, text[start:end].split("\n"))))
        written.write("\n")
        start = end + 1
    last = "\n".join(map(function, text[start:].split("\n")))
    if start == 0:
        return last
    written.write(last)
    return written.getvalue()
