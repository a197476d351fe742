"""The record that flows from the corpus to the token store."""

from typing import NamedTuple


class Document(NamedTuple):
    """One piece of text that must stay on one side of the train / validation split.

    Attributes:
        text: the text, cleaned.
        id: names the document within its source: a path below the source's root, for formats
            that hold many documents a file followed by `#` and the place (`notes.jsonl#17`).
        source: which of the listing's sources it comes from.
        content_hash: 64 bits of its normalised text.
    """

    text: str
    id: str
    source: int
    content_hash: int
