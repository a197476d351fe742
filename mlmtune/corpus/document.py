"""The record that flows from the corpus to the token store."""

from typing import NamedTuple


class Document(NamedTuple):
    """A cleaned text, all of which is on one side of the train / validation split.

    Attributes:
        id: The name of the document within its source: its path below the source's root and, for
            formats with many documents in a file, `#` and the position (`notes.jsonl#17`).
        source: The index of its source in `corpus_sources`.
        content_hash: A hash of 64 bits of the normalised text.
    """

    text: str
    id: str
    source: int
    content_hash: int
