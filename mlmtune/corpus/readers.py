"""Reading one file: a generator for each format, from a path to raw documents.

A reader gives the text as it stands in the file; cleaning comes after. A record that is broken is
given as a `BrokenRecord` in its place, so that the others are not lost.

To add a format: a row in `READERS` and one in `ENDINGS`, and its name in `SourceConfig.format`.
"""

import ast
import json
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

from mlmtune.corpus.decoding import (
    BrokenRecord,
    FileLeftOut,
    iter_lines,
    read_bytes,
    read_text,
)

# What the parser makes of a page takes 20 times its size in memory, and in odd cases much more.
_MAX_PAGE_BYTES = 8 << 20


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


Record = RawDocument | BrokenRecord
Reader = Callable[[str, str | None], Iterator[Record]]
"""(path, text_field) -> records; raises `FileLeftOut` where there is no reading the file."""


def read_markdown(path: str, text_field: str | None) -> Iterator[Record]:
    """The whole file, if it is not too large for a page."""
    yield RawDocument(read_text(path, max_bytes=_MAX_PAGE_BYTES))


def read_plain(path: str, text_field: str | None) -> Iterator[Record]:
    """The whole file."""
    yield RawDocument(read_text(path))


def read_lines(path: str, text_field: str | None) -> Iterator[Record]:
    """A document for each line that is not blank."""
    for number, line in iter_lines(path):
        if isinstance(line, BrokenRecord):
            yield line
        # Files from old Macs end their lines with a carriage return alone.
        elif "\r" in line:
            yield from (
                RawDocument(part, f"#{number}") for part in line.split("\r") if part.strip()
            )
        elif line.strip():
            yield RawDocument(line, f"#{number}")


def read_json(path: str, text_field: str | None) -> Iterator[Record]:
    """A JSON list at once, or JSON Lines as a stream."""
    lines = iter_lines(path)
    if not path.lower().removesuffix(".gz").endswith((".jsonl", ".ndjson")):
        start = []
        for number, line in lines:
            if isinstance(line, str) and line.lstrip().startswith("["):
                del line
                yield from _read_json_list(path, text_field)
                return
            start.append((number, line))
            if isinstance(line, BrokenRecord) or line.strip():
                break
        lines = chain(start, lines)

    for number, line in lines:
        if isinstance(line, BrokenRecord):
            yield line
        elif line.strip():
            try:
                value = json.loads(line)
            except (ValueError, RecursionError) as error:
                yield BrokenRecord(f":{number}", f"not a line of JSON ({_describe(error)})")
            else:
                yield _json_record(value, text_field, f"#{number}", f":{number}")


def _read_json_list(path: str, text_field: str | None) -> Iterator[Record]:
    try:
        values = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        detail = f"line {error.lineno} is not JSON ({error.msg})"
        raise FileLeftOut(
            "broken", f"{detail}; for one value a line, end the name in .jsonl", broken=True
        ) from error
    except (ValueError, RecursionError) as error:
        raise FileLeftOut("broken", f"not JSON ({_describe(error)})", broken=True) from error
    for number, value in enumerate(values, start=1):
        yield _json_record(value, text_field, f"#{number}", f" (item {number})")


def _json_record(value: Any, text_field: str | None, place: str, where: str) -> Record:
    """The text of one JSON value.

    Args:
        value: a string, or an object that holds the text.
        text_field: the field that holds it; None for the default ones.
        place: names the document within its file.
        where: names the record in an error.
    """
    if isinstance(value, str):
        return RawDocument(value, place)
    if not isinstance(value, dict):
        return BrokenRecord(where, f"a string or an object is needed, not {_json_type(value)}")

    field = text_field or next((name for name in ("text", "content") if name in value), "text")
    if field not in value:
        fields = ", ".join(value) or "none"
        return BrokenRecord(where, f"no field '{field}'; the fields are: {fields} (set text_field)")
    text = value[field]
    if not isinstance(text, str):
        return BrokenRecord(where, f"field '{field}' is {_json_type(text)}, not a string")
    if text_field is None and field == "content" and value.get("title") is not None:
        title = value["title"]
        if not isinstance(title, str):
            return BrokenRecord(where, f"field 'title' is {_json_type(title)}, not a string")
        text = f"{title}\n\n{text}"
    return RawDocument(text, place)


def _json_type(value: Any) -> str:
    names = {dict: "an object", list: "a list", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number" if not isinstance(value, str) else "a string")


def _describe(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at column {error.colno}"
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)


def read_python(path: str, text_field: str | None) -> Iterator[Record]:
    """The strings assigned to a name in a Python file. The file is parsed; nothing of it is run."""
    content = read_bytes(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the file's own escapes
            module = ast.parse(content)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = getattr(error, "lineno", None)
        where = f"line {line}: " if line else ""
        detail = f"{where}not Python ({getattr(error, 'msg', None) or _describe(error)})"
        raise FileLeftOut("broken", detail, broken=True) from error

    assigned = _assignments(module)
    if text_field not in assigned:
        names = ", ".join(list(assigned)[:10]) or "none"
        detail = f"nothing is assigned to '{text_field}'; the names are: {names} (set text_field)"
        raise FileLeftOut("broken", detail, broken=True)
    yield from _python_records(assigned[text_field], text_field)


def _assignments(module: ast.Module) -> dict[str, ast.expr]:
    """What is assigned to each name at the top of a module; the last one counts."""
    assigned: dict[str, ast.expr] = {}
    for statement in module.body:
        if isinstance(statement, ast.Assign):
            targets, value = statement.targets, statement.value
        elif isinstance(statement, ast.AnnAssign) and statement.value is not None:
            targets, value = [statement.target], statement.value
        else:
            continue
        assigned.update((target.id, value) for target in targets if isinstance(target, ast.Name))
    return assigned


def _python_records(value: ast.expr, name: str) -> Iterator[Record]:
    """The strings of a display. Element by element: a set would come in another order each time."""
    keys: list[ast.expr | None]
    match value:
        case ast.List(elts=elements) | ast.Tuple(elts=elements) | ast.Set(elts=elements):
            keys, texts = [ast.Constant(number) for number in range(1, len(elements) + 1)], elements
        case ast.Dict(keys=keys, values=texts):
            pass
        case _:
            detail = f"line {value.lineno}: '{name}' is no list, tuple, set or mapping of strings"
            raise FileLeftOut("broken", detail, broken=True)

    for key, text in zip(keys, texts, strict=True):
        where = f":{text.lineno}"
        try:
            place = None if key is None else ast.literal_eval(key)
            literal = ast.literal_eval(text)
        except (ValueError, TypeError, RecursionError, MemoryError):
            place = literal = None
        if place is None:
            yield BrokenRecord(where, f"an element of '{name}' is computed, not written out")
        elif not isinstance(literal, str):
            kind = type(literal).__name__
            yield BrokenRecord(where, f"an element of '{name}' is of type {kind}, not a string")
        else:
            yield RawDocument(literal, f"#{place}")


READERS: dict[str, Reader] = {
    "markdown": read_markdown,
    "text": read_plain,
    "lines": read_lines,
    "json": read_json,
    "python": read_python,
}

ENDINGS: dict[str, tuple[str, ...]] = {
    "markdown": (".md", ".markdown", ".mdx"),
    "text": (".txt",),
    "lines": (".txt", ".tokens", ".raw"),
    "json": (".json", ".jsonl", ".ndjson"),
    "python": (".py",),
}
"""The endings that are read below a folder, each also followed by `.gz`."""
