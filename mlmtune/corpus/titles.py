"""The title of a document: its first line, if that stands alone and does not end a sentence."""

from mlmtune.corpus.cleaning import count_words

MOST_WORDS = 20
"""A longer first line is a paragraph."""
MOST_CHARACTERS = 200

_ENDS_OF_SENTENCES = tuple(".,;:\u3002\uff0c\uff1b\uff1a")  # and those of Chinese


def title_of(text: str) -> str:
    """Return the title of a cleaned text; empty if it has none.

    A heading of Markdown, and the `title` of a record above its `content`, are first lines before a
    blank one by the time that a text is cleaned.
    """
    beginning = text[: MOST_CHARACTERS + 3]  # the rest may be long
    line, blank_line, body = beginning.partition("\n\n")
    is_alone = bool(blank_line) and "\n" not in line and bool(body)
    if not is_alone or line.endswith(_ENDS_OF_SENTENCES):
        return ""
    return line if 0 < count_words(line) <= MOST_WORDS else ""
