"""Records, which files and datasets consist of; the text of each; and what may be wrong with it."""

import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self


class FileLeftOut(Exception):
    """A file cannot be read as text.

    Args:
        reason: The word it is counted under (`binary`, `vanished`, ...).
        detail: What is wrong, for people.
        broken: The file is damaged, so that `corpus.on_error` decides whether reading continues.
        is_misread: No record of the file can be read with these settings, so that the config must
            change, whatever `corpus.on_error` says.
    """

    def __init__(
        self, reason: str, detail: str, *, broken: bool = False, is_misread: bool = False
    ) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail
        self.broken = broken
        self.is_misread = is_misread

    @classmethod
    def misread(cls, detail: str) -> Self:
        """Return the error of a file that cannot be read in the way that the config asks for."""
        return cls("broken", detail, broken=True, is_misread=True)


@dataclass(frozen=True, slots=True)
class BrokenRecord:
    """A record that cannot be read.

    Attributes:
        position: Where in the file, as it is written after the file's name (`:17` for a line).
        message: What is wrong and how to fix it.
        lacks_text: Whether the field for the text is missing or holds something else.
    """

    position: str
    message: str
    lacks_text: bool = False


@dataclass(frozen=True, slots=True)
class RawDocument:
    """The text of a document before cleaning.

    Attributes:
        position: Where in the file (`#17` for line or item 17); empty for the whole file.
        removed: The characters that the reader left out, by one of `cleaning.STEPS`.
    """

    text: str
    position: str = ""
    removed: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Value:
    """A record of a format that has fields.

    Attributes:
        content: A mapping from columns to values for a table; any value for JSON.
        position: Names the record within its file (`#17`).
        where: Names the record in an error message (`:18`).
    """

    content: Any
    position: str
    where: str


Record = RawDocument | BrokenRecord


def record_of(value: Value, text_field: str | None) -> Record:
    """Return the text of one value, or what is wrong with it.

    Args:
        value: A string, or a mapping that holds the text.
        text_field: The field that holds it, as in `reach`; by default `text`, or else `content`
            below its `title`.
    """
    content = value.content
    if isinstance(content, str):
        return RawDocument(content, value.position)
    if not isinstance(content, Mapping):
        fault = f"a string or an object is needed, not {kind_of(content)}"
        return BrokenRecord(value.where, fault)

    field = text_field or next((name for name in ("text", "content") if name in content), "text")
    text = reach(content, field)
    if text is _MISSING:
        fault = f"no field '{field}'; the fields are: {listed(content)} (set text_field)"
        return BrokenRecord(value.where, fault, lacks_text=True)
    if not isinstance(text, str):
        fault = f"field '{field}' is {kind_of(text)}, not a string"
        return BrokenRecord(value.where, fault, lacks_text=text is not None)
    if text_field is None and field == "content" and content.get("title") is not None:
        title = content["title"]
        if not isinstance(title, str):
            return BrokenRecord(value.where, f"field 'title' is {kind_of(title)}, not a string")
        text = f"{title}\n\n{text}"
    return RawDocument(text, value.position)


_MISSING = object()


def reach(content: Mapping[str, Any], field: str) -> Any:
    """Return the value of a field, which may be nested: `doc.body` is `body` in `doc`.

    A key that itself contains the dots takes precedence. Without such a field, it is `_MISSING`.
    """
    for key, rest in split_field(field):
        value = content.get(key, _MISSING)
        if rest:
            value = reach(value, rest) if isinstance(value, Mapping) else _MISSING
        if value is not _MISSING:
            return value
    return _MISSING


def split_field(field: str) -> Iterator[tuple[str, str]]:
    """Yield the keys that the name of a field may begin with, and the rest: whole, then by dots."""
    yield field, ""
    yield from ((field[: dot.start()], field[dot.end() :]) for dot in re.finditer(r"\.", field))


_KINDS: dict[type, str] = {
    **{dict: "an object", list: "a list", str: "a string", type(None): "null"},
    **{bool: "a boolean", int: "a number", float: "a number"},
}


def kind_of(value: object) -> str:
    """Return the kind of a value of a record, in words."""
    return _KINDS.get(type(value), f"of type {type(value).__name__}")


def listed(names: Iterable[str]) -> str:
    """Join names in one short line; if a header is missing, a name may be a whole text."""
    return textwrap.shorten(", ".join(names)[:400], 300, placeholder=" ...") or "none"


def text_columns(
    columns: Sequence[str], text_field: str | None, *, nested: bool = False
) -> list[str]:
    """Return which of a table's columns `record_of` takes the text from.

    Args:
        columns: The names of all columns.
        text_field: See `record_of`.
        nested: Whether columns may hold objects, so that `doc.body` is in the column `doc`.

    Raises:
        FileLeftOut: The table has no column of that name, or two.
    """
    if text_field is None and "text" not in columns and "content" in columns:
        chosen = [name for name in ("title", "content") if name in columns]
    else:
        column = text_field or "text"
        candidates = [key for key, _ in split_field(column)] if nested else [column]
        chosen = [name for name in candidates if name in columns][:1]
        if not chosen:
            fault = f"no column '{column}'; the columns are: {listed(columns)}"
            raise FileLeftOut.misread(f"{fault} (set text_field, or exclude the file)")
    for name in chosen:
        if list(columns).count(name) > 1:
            raise FileLeftOut.misread(f"there are two columns '{name}'; rename one of them")
    return chosen


def texts_of(values: Iterable[Value | BrokenRecord], text_field: str | None) -> Iterator[Record]:
    """Yield the text of each value; see `record_of`."""
    for value in values:
        yield value if isinstance(value, BrokenRecord) else record_of(value, text_field)
