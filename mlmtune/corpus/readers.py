"""Reading one file: a generator for each format, from a path to raw documents.

A reader gives the text as it stands in the file; cleaning comes after. A record that is broken is
given as a `BrokenRecord` in its place, so that the others are not lost.

To add a format: a row in `READERS` and one in `ENDINGS`, and its name in `SourceConfig.format`. A
dataset is no file, and is read by `mlmtune.corpus.hub`.
"""

import ast
import csv
import json
import re
import textwrap
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import IO, TYPE_CHECKING, Any, TextIO

from mlmtune.corpus.decoding import (
    COMPRESSIONS,
    MAX_DOCUMENT_BYTES,
    BrokenRecord,
    FileLeftOut,
    Span,
    iter_lines,
    open_bytes,
    open_text,
    read_bytes,
    read_text,
    uncompressed_name,
)

if TYPE_CHECKING:
    import pyarrow as pa

# What the parser makes of a page takes 20 times its size in memory, and in odd cases much more.
_MAX_PAGE_BYTES = 8 << 20

_JSON_DECODER = json.JSONDecoder()
_JSON_LIST_CHARACTERS = 1 << 18
_JSON_SPACES = re.compile(r"[ \t\r\n]*")

# The parser takes 4 bytes for each; an open quote fills it with the rest of the file.
_MAX_FIELD_CHARACTERS = 1 << 26
_UNDECODED = re.compile("[\udc80-\udcff]")

_PARQUET_BATCH_ROWS = 64
_PARQUET_BUFFER_BYTES = 1 << 20


_JSON_LINES = (".jsonl", ".ndjson")


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
Reader = Callable[[str, str | None], Iterator[Record]]
"""(path, text_field) -> records; raises `FileLeftOut` where there is no reading the file."""


def read_markdown(path: str, text_field: str | None) -> Iterator[Record]:
    """The whole file, if it is not too large for a page."""
    yield RawDocument(read_text(path, max_bytes=_MAX_PAGE_BYTES))


def read_plain(path: str, text_field: str | None) -> Iterator[Record]:
    """The whole file."""
    yield RawDocument(read_text(path))


def read_lines(path: str, text_field: str | None, span: Span | None = None) -> Iterator[Record]:
    """A document for each line that is not blank."""
    for number, line in iter_lines(path, span):
        if isinstance(line, BrokenRecord):
            yield line
        # Files from old Macs end their lines with a carriage return alone.
        elif "\r" in line:
            yield from (
                RawDocument(part, f"#{number}") for part in line.split("\r") if part.strip()
            )
        elif line.strip():
            yield RawDocument(line, f"#{number}")


def read_json(path: str, text_field: str | None, span: Span | None = None) -> Iterator[Record]:
    """A document for each value of a JSON list or of JSON Lines."""
    return _texts(json_values(path, span), text_field)


def _texts(values: Iterable[Value | BrokenRecord], text_field: str | None) -> Iterator[Record]:
    for value in values:
        yield value if isinstance(value, BrokenRecord) else record_of(value, text_field)


def json_values(path: str, span: Span | None = None) -> Iterator[Value | BrokenRecord]:
    """A JSON list or JSON Lines, told apart by the name or else the first character."""
    if not uncompressed_name(path).endswith(_JSON_LINES):
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
    detail = f"line {line} is not JSON ({message}); for one value a line, end the name in .jsonl"
    return FileLeftOut("broken", detail, broken=True)


def _too_long_item(line: int) -> FileLeftOut:
    detail = f"line {line}: an item of over {MAX_DOCUMENT_BYTES >> 20} MiB; cut it"
    return FileLeftOut("broken", detail, broken=True)


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


def _describe(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at column {error.colno}"
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)


Choose = Callable[[Sequence[str]], Sequence[str]]
"""From the columns of a table to those that are read."""


def read_csv(path: str, text_field: str | None) -> Iterator[Record]:
    """A document for each row."""
    return _texts(csv_values(path, lambda columns: text_columns(columns, text_field)), text_field)


def csv_values(path: str, choose: Choose) -> Iterator[Value | BrokenRecord]:
    """The rows below the header, as in RFC 4180; tabs part the fields of a `.tsv`.

    A field that begins with a quote ends at the next one that is not doubled, be it lines later.
    """
    csv.field_size_limit(_MAX_FIELD_CHARACTERS)  # there is one for the whole process
    delimiter = "\t" if uncompressed_name(path).endswith(".tsv") else ","
    with open_text(path, errors="surrogateescape") as stream:
        rows = _iter_csv_rows(stream, delimiter)
        _, header = next(rows, (0, None))
        if header is None:
            return
        if isinstance(header, BrokenRecord):
            raise FileLeftOut("broken", f"its header is {header.message}", broken=True)
        indices = {name: header.index(name) for name in choose(header)}
        for number, (line, row) in enumerate(rows, start=1):
            if isinstance(row, BrokenRecord):
                yield row
            elif len(row) != len(header):
                message = f"a row of {len(row)} fields below a header of {len(header)}"
                yield BrokenRecord(f":{line}", message)
            else:
                value = {name: row[index] for name, index in indices.items()}
                if any(_UNDECODED.search(text) for text in value.values()):
                    message = f"not {stream.encoding}; convert the file to UTF-8"
                    yield BrokenRecord(f":{line}", message)
                else:
                    yield Value(value, f"#{number}", f":{line}")


def _iter_csv_rows(
    stream: TextIO, delimiter: str
) -> Iterator[tuple[int, list[str] | BrokenRecord]]:
    """(line where it begins, fields) of each row that is not blank."""
    # Not strict, an open quote would take the rest of the file for one field without a word.
    rows = csv.reader(stream, delimiter=delimiter, strict=True)
    while True:
        line = rows.line_num + 1
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            # An open quote runs to the end of the file: what goes with it is said.
            last = rows.line_num
            lost = f", and with it all up to line {last:,}" if last > line else ""
            yield line, BrokenRecord(f":{line}", f"not CSV ({error}){lost}; mend its quotes")
        else:
            if row:
                yield line, row


def read_parquet(path: str, text_field: str | None) -> Iterator[Record]:
    """A document for each row."""
    return _texts(parquet_values(path, partial(_string_columns, text_field=text_field)), text_field)


def parquet_values(
    path: str, choose: "Callable[[pa.Schema], Sequence[str]]"
) -> Iterator[Value | BrokenRecord]:
    """The rows of a Parquet file, an Arrow file or an Arrow stream."""
    import pyarrow as pa  # takes 0.1 s

    number = 0
    with open_bytes(path) as file:
        try:
            for batch in _iter_batches(file, choose):
                columns = dict(zip(batch.schema.names, batch.columns, strict=True))
                for row in range(batch.num_rows):
                    number += 1
                    where = f" (row {number})"
                    try:
                        value = {name: column[row].as_py() for name, column in columns.items()}
                    except UnicodeDecodeError:
                        yield BrokenRecord(where, "its text is not UTF-8")
                    else:
                        yield Value(value, f"#{number}", where)
        except (pa.ArrowException, UnicodeDecodeError, MemoryError) as error:
            # Lengths are read from the file, so that wrong ones may exceed all memory.
            said = " ".join(str(error).split()) or "more memory is asked for than there is"
            detail = f"not a sound Parquet or Arrow file ({said}); fetch it again"
            raise FileLeftOut("damaged", detail, broken=True) from error


def _iter_batches(
    file: IO[bytes], choose: "Callable[[pa.Schema], Sequence[str]]"
) -> "Iterator[pa.RecordBatch]":
    """The columns that are chosen, some rows at a time. What the file is tells its start."""
    start = file.read(8)
    file.seek(0)
    if start.startswith(b"PAR1"):
        return _iter_parquet(file, choose)
    if start.startswith(b"ARROW1"):
        return _iter_arrow(file, choose, is_stream=False)
    if start.startswith(b"\xff\xff\xff\xff"):  # a message follows
        return _iter_arrow(file, choose, is_stream=True)
    if not start:
        raise FileLeftOut("empty", "no bytes")
    raise FileLeftOut("damaged", "neither Parquet nor Arrow", broken=True)


def _iter_parquet(
    file: IO[bytes], choose: "Callable[[pa.Schema], Sequence[str]]"
) -> "Iterator[pa.RecordBatch]":
    from pyarrow.parquet import ParquetFile

    # By default a whole row group is read ahead, which may be the whole file.
    table = ParquetFile(file, buffer_size=_PARQUET_BUFFER_BYTES, pre_buffer=False)
    columns = list(choose(table.schema_arrow))
    yield from table.iter_batches(_PARQUET_BATCH_ROWS, columns=columns, use_threads=False)


def _iter_arrow(
    file: IO[bytes], choose: "Callable[[pa.Schema], Sequence[str]]", *, is_stream: bool
) -> "Iterator[pa.RecordBatch]":
    from pyarrow import ipc

    open_arrow = ipc.open_stream if is_stream else ipc.open_file
    schema = open_arrow(file).schema
    fields = [schema.names.index(name) for name in choose(schema)]
    file.seek(0)
    reader = open_arrow(file, options=ipc.IpcReadOptions(included_fields=fields, use_threads=False))
    batches = reader if is_stream else map(reader.get_batch, range(reader.num_record_batches))
    for batch in batches:
        # Offsets are taken as they stand in the file: wrong ones would end the process.
        batch.validate(full=True)
        yield batch


def _string_columns(schema: "pa.Schema", text_field: str | None) -> list[str]:
    """The `text_columns` of a table that has types."""
    from pyarrow import types

    columns = text_columns(schema.names, text_field)
    for column in columns:
        kind = schema.types[schema.names.index(column)]
        values = kind.value_type if types.is_dictionary(kind) else kind
        if not (
            types.is_string(values) or types.is_large_string(values) or types.is_string_view(values)
        ):
            detail = f"column '{column}' holds {kind}, not strings"
            raise FileLeftOut("broken", detail, broken=True)
    return columns


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
        there = f"nothing is assigned to '{text_field}'; the names are: {listed(assigned)}"
        raise FileLeftOut("broken", f"{there} (set text_field)", broken=True)
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

    places: set[str] = set()
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
            # A mapping may be written with a key twice; both texts are there to be read.
            unique = next(name for name in _numbered(f"#{place}") if name not in places)
            places.add(unique)
            yield RawDocument(literal, unique)


def _numbered(name: str) -> Iterator[str]:
    """A name, and then the same with a number."""
    yield name
    yield from (f"{name} ({number})" for number in count(2))


READERS: dict[str, Reader] = {
    "markdown": read_markdown,
    "text": read_plain,
    "lines": read_lines,
    "json": read_json,
    "csv": read_csv,
    "parquet": read_parquet,
    "python": read_python,
}

ENDINGS: dict[str, tuple[str, ...]] = {
    "markdown": (".md", ".markdown", ".mdx"),
    "text": (".txt",),
    "lines": (".txt", ".tokens", ".raw"),
    "json": (".json", ".jsonl", ".ndjson"),
    "csv": (".csv", ".tsv"),
    "parquet": (".parquet", ".arrow", ".feather", ".ipc"),
    "python": (".py",),
}
"""The endings of each format, before those of a compression."""

# No one compresses them once more, and they are not read from start to end.
_COMPRESSED_WITHIN = frozenset({"parquet"})


LINE_READERS: dict[str, Callable[[str, str | None, Span | None], Iterator[Record]]] = {
    "lines": read_lines,
    "json": read_json,
}
"""Readers of files whose lines are records, which read any span of a file by itself."""


def has_lines(path: str, format_: str) -> bool:
    """Whether a file of some format is read line by line."""
    return format_ == "lines" or (format_ == "json" and path.lower().endswith(_JSON_LINES))


def file_endings(format_: str) -> tuple[str, ...]:
    """The endings that are read below a folder: a format's own, and each with a compression."""
    endings = ENDINGS[format_]
    if format_ in _COMPRESSED_WITHIN:
        return endings
    return endings + tuple(
        ending + compression for compression in COMPRESSIONS for ending in endings
    )
