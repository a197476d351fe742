"""JSON: a value of a list or of JSON Lines is a document."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal, TextIO

from mlmtune.config import SourceConfig
from mlmtune.corpus.compression import uncompressed_name
from mlmtune.corpus.decoding import MAX_DOCUMENT_BYTES, Span, iter_lines, open_text
from mlmtune.corpus.encodings import Decoding
from mlmtune.corpus.formats import Format
from mlmtune.corpus.records import (
    BrokenRecord,
    FileLeftOut,
    Record,
    Value,
    kind_of,
    listed,
    reach,
    split_field,
    texts_of,
)

JSON_LINES = (".jsonl", ".ndjson")
"""The endings of files that hold a value per line."""

_DECODER = json.JSONDecoder()
READ_CHARACTERS = 1 << 18
_SPACES = re.compile(r"[ \t\r\n]*")


def read_json(
    path: str, source: SourceConfig, decoding: Decoding, span: Span | None = None
) -> Iterator[Record]:
    """Yield a document for each value of a JSON list or of JSON Lines."""
    values = json_values(path, decoding, span, source.text_field, source.record_path)
    return texts_of(values, source.text_field)


def json_values(
    path: str,
    decoding: Decoding,
    span: Span | None = None,
    text_field: str | None = None,
    record_path: str | None = None,
) -> Iterator[Value | BrokenRecord]:
    """Yield the records of a file: lines, items of a list, or items of a list inside an object.

    Which of these a file holds follows from its ending, or else from its first characters.

    Args:
        path: A file, which may be compressed.
        decoding: The encoding that is wanted; it records the one that is used.
        span: See `iter_lines`; for JSON Lines.
        text_field: See `record_of`; an object that has it is a record and not a wrapper.
        record_path: The path of the list inside an object; None to take the only list of records.

    Raises:
        FileLeftOut: What comes next is not JSON, or the list is not there.
    """
    is_lines = uncompressed_name(path).endswith(JSON_LINES)
    kind = "lines" if is_lines else _kind_of_file(path, decoding)
    if record_path is not None and kind != "object":
        holds = "a list" if kind == "list" else "a value per line"
        raise FileLeftOut.misread(
            f"record_path names a list in an object, and the file holds {holds}; remove it"
        )
    if kind == "lines":
        yield from _lines(path, span, decoding)
        return
    keys = None if kind == "list" else _keys_of_list(path, decoding, text_field, record_path)
    with open_text(path, decoding=decoding) as stream:
        text = JsonText(stream)
        if kind == "object" and keys is None:
            yield Value(text.value(), "#1", ":1")
            return
        items = text.items() if keys is None else _items_at(text, *keys)
        for number, value in enumerate(items, start=1):
            yield Value(value, f"#{number}", f" (item {number})")
        text.end()


def _kind_of_file(path: str, decoding: Decoding) -> Literal["lines", "list", "object"]:
    """Return what a JSON file holds, by its first characters."""
    with open_text(path, decoding=decoding) as stream:
        start = stream.read(READ_CHARACTERS).lstrip()
        if start.startswith("["):
            return "list"
        if not start.startswith("{"):
            return "lines"
        first, line_end, rest = start.partition("\n")
        if line_end:
            try:
                json.loads(first)
            except (ValueError, RecursionError) as error:
                # An object over several lines is cut where its first line ends.
                is_cut = isinstance(error, json.JSONDecodeError) and _is_cut(error)
                return "object" if is_cut else "lines"
            return "lines" if rest.strip() or stream.read(READ_CHARACTERS).strip() else "object"
    with open_text(path, decoding=decoding) as stream:
        text = JsonText(stream)
        _kinds_of_values(text)
        return "lines" if text.peek() else "object"


def _keys_of_list(
    path: str, decoding: Decoding, text_field: str | None, record_path: str | None
) -> tuple[str, str] | None:
    """Return the key of the list of records in an object, and the path below it, often empty.

    If the object itself is a record, that is None.

    Raises:
        FileLeftOut: There is no list at `record_path`, or there are several lists.
    """
    with open_text(path, decoding=decoding) as stream:
        text = JsonText(stream)
        kinds = _kinds_of_values(text)
        text.end()
    if record_path is not None:
        for key, below in split_field(record_path):
            if key in kinds:
                return key, below
        raise _no_list(record_path, f"the keys are: {listed(kinds)}")
    names = [text_field, text_field.split(".")[0]] if text_field else ["text", "content"]
    if any(kinds.get(name) == "value" for name in names):
        return None
    for kind in ("objects", "strings"):
        keys = [key for key, value in kinds.items() if value == kind]
        if len(keys) == 1:
            return keys[0], ""
        if keys:
            raise FileLeftOut.misread(
                f"it holds several lists: {listed(keys)}; name one of them by record_path"
            )
    return None


def _no_list(record_path: str, detail: str) -> FileLeftOut:
    return FileLeftOut.misread(f"there is no list at '{record_path}'; {detail} (set record_path)")


def _kinds_of_values(text: "JsonText") -> dict[str, str]:
    """Return what each key holds: a list of `objects` or of `strings`, a `list` or a `value`."""
    kinds: dict[str, str] = {}
    for key in text.keys_of_object():
        kinds[key] = "value"
        if text.peek() == "[":
            kinds[key] = "list"
            for number, item in enumerate(text.items()):
                if number == 0 and isinstance(item, str | Mapping):
                    kinds[key] = "strings" if isinstance(item, str) else "objects"
        else:
            text.value()
    return kinds


def _items_at(text: "JsonText", key_of_list: str, below: str) -> Iterator[Any]:
    """Yield the items of a list inside an object; see `_keys_of_list`."""
    for key in text.keys_of_object():
        if key != key_of_list:
            text.value()
        elif below:
            value = text.value()
            items = reach(value, below) if isinstance(value, Mapping) else None
            if not isinstance(items, list):
                raise _no_list(f"{key}.{below}", f"'{key}' holds {kind_of(value)}")
            yield from items
        elif text.peek() == "[":
            yield from text.items()
        else:
            raise _no_list(key, f"it is {kind_of(text.value())}")


def _lines(path: str, span: Span | None, decoding: Decoding) -> Iterator[Value | BrokenRecord]:
    for number, line in iter_lines(path, span, decoding):
        if isinstance(line, BrokenRecord):
            yield line
        elif line.strip():
            try:
                value = json.loads(line)
            except (ValueError, RecursionError) as error:
                yield BrokenRecord(f":{number}", f"not a line of JSON ({_describe(error)})")
            else:
                yield Value(value, f"#{number}", f":{number}")


def _describe(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at column {error.colno}"
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)


class JsonText:
    """A decoder of the JSON in a file, which reads no more than the next value needs.

    Every method raises `FileLeftOut` if what comes next is not JSON.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._text = ""
        self._position = 0
        self._num_lines = 0

    def _read_more(self) -> bool:
        """Read more characters, forget those before the position; whether there were any."""
        left = self._text[self._position :]
        more = self._stream.read(max(READ_CHARACTERS, len(left)))
        if more:
            self._num_lines += self._text.count("\n", 0, self._position)
            self._text, self._position = left + more, 0
        return bool(more)

    def peek(self) -> str:
        """Return the next character that is not white space; empty at the end."""
        while True:
            spaces = _SPACES.match(self._text, self._position)
            assert spaces is not None
            self._position = spaces.end()
            if self._position < len(self._text):
                return self._text[self._position]
            if not self._read_more():
                return ""

    def take(self, characters: str) -> str:
        """Take the next character that is not white space, which must be one of some."""
        character = self.peek()
        if not character or character not in characters:
            wanted = " or ".join(f"'{each}'" for each in characters)
            raise self._broken(self._position, f"Expecting {wanted}")
        self._position += 1
        return character

    def value(self) -> Any:
        """Take the next value."""
        self.peek()
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._position)
                # A number at the end of what was read may continue.
                is_certain = not isinstance(value, int | float) or end < len(self._text) - 16
                if is_certain or not self._read_more():
                    self._position = end
                    return value
            except json.JSONDecodeError as error:
                if len(self._text) - self._position >= MAX_DOCUMENT_BYTES:
                    fault = f"an item of over {MAX_DOCUMENT_BYTES >> 20} MiB; cut it"
                    detail = f"line {self._line(self._position)}: {fault}"
                    raise FileLeftOut("broken", detail, broken=True) from None
                if not (_is_cut(error) and self._read_more()):
                    raise self._broken(error.pos, error.msg) from error
            except (ValueError, RecursionError) as error:
                detail = f"not JSON ({_describe(error)})"
                raise FileLeftOut("broken", detail, broken=True) from error

    def items(self) -> Iterator[Any]:
        """Take the next value, a list, and yield its items one by one."""
        self.take("[")
        mark = self.take("]") if self.peek() == "]" else ","
        while mark == ",":
            value = self.value()
            mark = self.take(",]")
            yield value

    def keys_of_object(self) -> Iterator[str]:
        """Take an object, the next value, and yield its keys; the caller takes each value."""
        self.take("{")
        mark = self.take("}") if self.peek() == "}" else ","
        while mark == ",":
            if self.peek() != '"':
                raise self._broken(self._position, "Expecting property name in double quotes")
            key = self.value()
            self.take(":")
            yield key
            mark = self.take(",}")

    def end(self) -> None:
        """Check that nothing follows."""
        if self.peek():
            raise self._broken(self._position, "Extra data after the list")

    def _line(self, position: int) -> int:
        return self._num_lines + 1 + self._text.count("\n", 0, position)

    def _broken(self, position: int, message: str) -> FileLeftOut:
        fault = f"line {self._line(position)} is not JSON ({message})"
        remedy = "for one value per line, end the name in .jsonl"
        return FileLeftOut("broken", f"{fault}; {remedy}", broken=True)


def _is_cut(error: json.JSONDecodeError) -> bool:
    """Whether more characters may complete it: only strings are longer than `-Infinity`."""
    return error.msg.startswith("Unterminated string") or error.pos > len(error.doc) - 16


FORMAT = Format(
    read_json,
    endings=(".json", *JSON_LINES),
    read_span=read_json,
    line_endings=JSON_LINES,
)
