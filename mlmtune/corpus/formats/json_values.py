"""JSON: a document for each value of a list or of JSON Lines."""

import json
import re
from collections.abc import Iterator
from typing import Any, TextIO

from mlmtune.corpus.decoding import (
    MAX_DOCUMENT_BYTES,
    BrokenRecord,
    FileLeftOut,
    Span,
    iter_lines,
    open_text,
    uncompressed_name,
)
from mlmtune.corpus.formats.records import Record, Value, texts_of

JSON_LINES = (".jsonl", ".ndjson")
"""Endings of files that hold a value per line."""

_JSON_DECODER = json.JSONDecoder()
_JSON_LIST_CHARACTERS = 1 << 18
_JSON_SPACES = re.compile(r"[ \t\r\n]*")


def read_json(path: str, text_field: str | None, span: Span | None = None) -> Iterator[Record]:
    """A document for each value of a JSON list or of JSON Lines."""
    return texts_of(json_values(path, span), text_field)


def json_values(path: str, span: Span | None = None) -> Iterator[Value | BrokenRecord]:
    """A JSON list or JSON Lines, told apart by the name or else the first character."""
    if not uncompressed_name(path).endswith(JSON_LINES):
        with open_text(path) as stream:
            start = stream.read(_JSON_LIST_CHARACTERS)
            if start.lstrip().startswith("["):
                for number, value in enumerate(_iter_json_list(start, stream), start=1):
                    yield Value(value, f"#{number}", f" (item {number})")
                return

    for number, line in iter_lines(path, span):
        if isinstance(line, BrokenRecord):
            yield line
        elif line.strip():
            try:
                value = json.loads(line)
            except (ValueError, RecursionError) as error:
                yield BrokenRecord(f":{number}", f"not a line of JSON ({_describe(error)})")
            else:
                yield Value(value, f"#{number}", f":{number}")


def _iter_json_list(start: str, stream: TextIO) -> Iterator[Any]:
    """The items of a JSON list, each as soon as all of it is read.

    Args:
        start: the first characters of the file.
        stream: those that follow.

    Raises:
        FileLeftOut: what comes next is not JSON.
    """
    opening = start.index("[") + 1
    text, num_lines = start[opening:], start.count("\n", 0, opening)
    place, mark = 0, "["
    while mark != "]":
        try:
            place = _skip_spaces(text, place)
            if mark == "[" and text.startswith("]", place):
                place += 1
                break
            value, end = _JSON_DECODER.raw_decode(text, place)
            end = _skip_spaces(text, end)
            if not text.startswith((",", "]"), end):
                raise json.JSONDecodeError("Expecting ',' or ']'", text, end)
        except json.JSONDecodeError as error:
            if len(text) - place >= MAX_DOCUMENT_BYTES:
                raise _too_long_item(num_lines + 1 + text.count("\n", 0, place)) from None
            more = stream.read(max(_JSON_LIST_CHARACTERS, len(text))) if _is_cut(error) else ""
            if not more:
                raise _broken_list(num_lines + error.lineno, error.msg) from error
            num_lines += text.count("\n", 0, place)
            text, place = text[place:] + more, 0
        except (ValueError, RecursionError) as error:
            raise FileLeftOut("broken", f"not JSON ({_describe(error)})", broken=True) from error
        else:
            yield value
            place, mark = end + 1, text[end]

    while place < len(text):
        place = _skip_spaces(text, place)
        num_lines += text.count("\n", 0, place)
        if place < len(text):
            raise _broken_list(num_lines + 1, "Extra data after the list")
        text, place = stream.read(_JSON_LIST_CHARACTERS), 0


def _skip_spaces(text: str, place: int) -> int:
    spaces = _JSON_SPACES.match(text, place)
    assert spaces is not None
    return spaces.end()


def _is_cut(error: json.JSONDecodeError) -> bool:
    """Whether more characters may mend it: no token but a string is longer than `-Infinity`."""
    return error.msg.startswith("Unterminated string") or error.pos > len(error.doc) - 16


def _broken_list(line: int, message: str) -> FileLeftOut:
    detail = f"line {line} is not JSON ({message}); for one value per line, end the name in .jsonl"
    return FileLeftOut("broken", detail, broken=True)


def _too_long_item(line: int) -> FileLeftOut:
    detail = f"line {line}: an item of over {MAX_DOCUMENT_BYTES >> 20} MiB; cut it"
    return FileLeftOut("broken", detail, broken=True)


def _describe(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at column {error.colno}"
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)
