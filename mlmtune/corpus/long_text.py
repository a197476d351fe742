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
    """Return `pattern.sub(replacement, text)`; a string must have no escapes."""
    if len(text) <= BLOCK_CHARACTERS:
        return pattern.sub(replacement, text)
    written = io.StringIO()
    end = 0
    for match in pattern.finditer(text):
        written.write(text[end : match.start()])
        written.write(replacement if isinstance(replacement, str) else replacement(match))
        end = match.end()
    written.write(text[end:])
    return written.getvalue()


def with_each_line(function: Callable[[str], str], text: str) -> str:
    """Apply a function to each line of a text, given without its end."""
    written = io.StringIO()
    start = 0
    while (end := text.find("\n", start + BLOCK_CHARACTERS)) >= 0:
        written.write("\n".join(map(function, text[start:end].split("\n"))))
        written.write("\n")
        start = end + 1
    written.write("\n".join(map(function, text[start:].split("\n"))))
    return written.getvalue()
