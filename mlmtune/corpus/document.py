"""The record that flows from the readers to the token store."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Document:
    """One piece of text that must stay on one side of the train / validation split.

    Attributes:
        text: the text, cleaned.
        id: names the document within its source: a path below the source's root, for formats
            that hold many documents a file followed by `#` and the place (`notes.jsonl#17`).
        source: the name of the source in the config (`corpus.sources[].name`).
    """

    text: str
    id: str
    source: str
