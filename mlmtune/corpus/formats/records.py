"""What a file or dataset is made of: records, and the text of each."""

import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlmtune.corpus.decoding import BrokenRecord, FileLeftOut


@dataclass(frozen=True, slots=True)
class RawDocument:
    """A document as it stands in its file.

    Attributes:
        text: not yet cleaned.
        place: where in the file (`#17` for the line or item 17); empty where the file is the
            document.
    """

    text: str
    place: str = ""


@dataclass(frozen=True, slots=True)
class Value:
    """A record of a format that has fields, before anything is taken out of it.

    Attributes:
        content: what stands there: of a table a mapping from column to value, of JSON anything.
        place: names the record within its file (`#17`).
        where: names it in an error (`:18`).
    """

    content: Any
    place: str
    where: str


Record = RawDocument | BrokenRecord


def record_of(value: Value, text_field: str | None) -> Record:
    """The text of one value.

    Args:
        value: a string, or a mapping that holds the text.
        text_field: the field that holds it; by default `text`, else `content` under its `title`.
    """
    content = value.content
    if isinstance(content, str):
        return RawDocument(content, value.place)
    if not isinstance(content, Mapping):
        said = f"a string or an object is needed, not {kind_of(content)}"
        return BrokenRecord(value.where, said)

    field = text_field or next((name for name in ("text", "content") if name in content), "text")
    if field not in content:
        there = f"no field '{field}'; the fields are: {listed(content)}"
        return BrokenRecord(value.where, f"{there} (set text_field)")
    text = content[field]
    if not isinstance(text, str):
        return BrokenRecord(value.where, f"field '{field}' is {kind_of(text)}, not a string")
    if text_field is None and field == "content" and content.get("title") is not None:
        title = content["title"]
        if not isinstance(title, str):
            return BrokenRecord(value.where, f"field 'title' is {kind_of(title)}, not a string")
        text = f"{title}\n\n{text}"
    return RawDocument(text, value.place)


_KINDS: dict[type, str] = {
    **{dict: "an object", list: "a list", str: "a string", type(None): "null"},
    **{bool: "a boolean", int: "a number", float: "a number"},
}


def kind_of(value: object) -> str:
    """What a value of a record is, for people."""
    return _KINDS.get(type(value), f"of type {type(value).__name__}")


def listed(names: Iterable[str]) -> str:
    """Names in one line, which may be a whole text where a header is missing."""
    return textwrap.shorten(", ".join(names)[:400], 300, placeholder=" ...") or "none"


def text_columns(columns: Sequence[str], text_field: str | None) -> list[str]:
    """Those columns of a table that `record_of` takes the text from.

    Raises:
        FileLeftOut: the table has none of the name.
    """
    if text_field is None and "text" not in columns and "content" in columns:
        return [name for name in ("title", "content") if name in columns]
    column = text_field or "text"
    if column not in columns:
        there = f"no column '{column}'; the columns are: {listed(columns)}"
        raise FileLeftOut("broken", f"{there} (set text_field)", broken=True)
    return [column]


def texts_of(values: Iterable[Value | BrokenRecord], text_field: str | None) -> Iterator[Record]:
    """The text of each of some values; see `record_of`."""
    for value in values:
        yield value if isinstance(value, BrokenRecord) else record_of(value, text_field)
