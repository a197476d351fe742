"""CSV: a row below the header is a document."""

import csv
import io
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TextIO

from mlmtune.config import SourceConfig
from mlmtune.corpus.compression import uncompressed_name
from mlmtune.corpus.decoding import open_text
from mlmtune.corpus.encodings import ADVICE, Decoding
from mlmtune.corpus.formats import Format
from mlmtune.corpus.records import BrokenRecord, FileLeftOut, Record, Value, text_columns, texts_of

# The parser needs 4 bytes per character, and an open quote takes the rest of the file.
MAX_FIELD_CHARACTERS = 1 << 26
MAX_LINE_CHARACTERS = 1 << 26
_UNDECODED = re.compile("[\udc80-\udcff]")

_SAMPLE_CHARACTERS = 1 << 16
"""The delimiter and the quoting are detected from this many characters of a file."""
_DELIMITERS = (",", "\t", ";", "|")
# Excel writes such a line above the header if the delimiter is not the usual one.
_DELIMITER_LINE = re.compile(r"sep=(.)\r?\n?", re.IGNORECASE)

Choose = Callable[[Sequence[str]], Sequence[str]]
"""A function from the columns of a table to those that are read."""


@dataclass(frozen=True)
class Dialect:
    """How the fields of a table are separated and quoted.

    Attributes:
        delimiter: Separates the fields of a row; None to detect it.
        quoting: With `minimal` a field that begins with a quote ends at the next quote that is not
            doubled, maybe lines later; with `none` a quote is an ordinary character. None to
            detect it.
    """

    delimiter: str | None = None
    quoting: Literal["minimal", "none"] | None = None

    def reader(self, lines: Iterable[str]) -> Any:
        """Return a parser of lines; the delimiter must be known."""
        assert self.delimiter is not None
        if self.quoting == "none":
            return csv.reader(lines, delimiter=self.delimiter, quoting=csv.QUOTE_NONE)
        # Without strict, an open quote would silently take the rest of the file for one field.
        return csv.reader(lines, delimiter=self.delimiter, strict=True)


def read_csv(path: str, source: SourceConfig, decoding: Decoding) -> Iterator[Record]:
    """Yield a document for each row."""
    choose = partial(text_columns, text_field=source.text_field)
    dialect = Dialect(source.delimiter, source.quoting)
    return texts_of(csv_values(path, choose, dialect, decoding), source.text_field)


def csv_values(
    path: str, choose: Choose, dialect: Dialect, decoding: Decoding
) -> Iterator[Value | BrokenRecord]:
    """Yield the rows below the header, by RFC 4180 unless the table shows another dialect.

    Args:
        path: The file; in a `.tsv` tabs separate the fields.
        choose: Returns which columns to read.
        dialect: What is known of the dialect.
        decoding: The encoding that is wanted; it records the one that is used.

    Raises:
        FileLeftOut: See `decoding.open_text`; or the header cannot be parsed.
    """
    csv.field_size_limit(MAX_FIELD_CHARACTERS)  # the whole process has one limit
    usual = "\t" if uncompressed_name(path).endswith(".tsv") else ","
    with open_text(path, "surrogateescape", decoding) as stream:
        sample = stream.read(_SAMPLE_CHARACTERS)
    used, num_passed, asks = _find_dialect(sample, dialect, usual)
    with open_text(path, "surrogateescape", decoding) as stream:
        rows = _iter_rows(stream, used, num_passed, asks=asks)
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
                separator = "a tab" if used.delimiter == "\t" else f"'{used.delimiter}'"
                message = (
                    f"a row of {len(row)} fields below a header of {len(header)}; quote the fields "
                    f"that hold {separator}, or set delimiter and quoting"
                )
                yield BrokenRecord(f":{line}", message)
            else:
                value = {name: row[index] for name, index in indices.items()}
                if any(_UNDECODED.search(text) for text in value.values()):
                    yield BrokenRecord(f":{line}", f"not {stream.encoding}; {ADVICE}")
                else:
                    yield Value(value, f"#{number}", f":{line}")


def _find_dialect(sample: str, given: Dialect, usual: str) -> tuple[Dialect, int, bool]:
    """Detect the dialect of a table from its first characters.

    Returns:
        The dialect, how many lines precede the header, and whether to ask the user about a field
        that takes whole rows.
    """
    delimiter, num_passed = given.delimiter, 0
    lines = list(io.StringIO(sample, newline=""))
    if len(sample) == _SAMPLE_CHARACTERS:
        del lines[-1:]  # it may be cut
    if delimiter is None:
        if lines and (line := _DELIMITER_LINE.fullmatch(lines[0])) is not None:
            delimiter, num_passed = line[1], 1
        else:
            delimiter = _find_delimiter(lines, usual)
    if given.quoting is not None:
        return Dialect(delimiter, given.quoting), num_passed, False
    lines = [line for line in lines[num_passed:] if line.strip("\r\n")]
    widths = {len(line.split(delimiter)) for line in lines}
    has_quotes = '"' in sample
    if has_quotes and len(widths) == 1 and widths != {1} and _takes_rows(lines, delimiter):
        return Dialect(delimiter, "none"), num_passed, False
    # Prose contains commas: if quotes enclose some of them, a line with as many commas as the
    # header is not necessarily a row.
    encloses = has_quotes and len(widths) > 1 and delimiter in ",;"
    return Dialect(delimiter, "minimal"), num_passed, not encloses


def _find_delimiter(lines: list[str], usual: str) -> str:
    """Return what divides the header into the most fields, preferably the usual delimiter."""

    def num_fields(delimiter: str) -> int:
        try:
            return len(next(Dialect(delimiter).reader(lines), []))
        except csv.Error:
            return 0

    return max((usual, *_DELIMITERS), key=num_fields)


def _takes_rows(lines: list[str], delimiter: str) -> bool:
    """Whether parsing with quotes gives rows that are not one for each line."""
    try:
        return sum(1 for row in Dialect(delimiter).reader(lines)) != len(lines)
    except csv.Error:
        return True


class _Lines:
    """The lines of a table with their ends.

    A line that is too long for memory is an error of CSV; the lines after it are still read. Each
    line is added to `of_row`, which the caller replaces by an empty list at each row.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.num_read = 0
        self.of_row: list[str] = []

    def read(self) -> str:
        """Read the next line; it is empty at the end of the file."""
        line = self._stream.readline(MAX_LINE_CHARACTERS + 1)
        if not line:
            return line
        self.num_read += 1
        if len(line) > MAX_LINE_CHARACTERS:
            while line and not line.endswith(("\n", "\r")):
                line = self._stream.readline(MAX_LINE_CHARACTERS)
            raise csv.Error(f"a line of over {MAX_LINE_CHARACTERS:,} characters")
        self.of_row.append(line)
        return line


def _iter_rows(
    stream: TextIO, dialect: Dialect, num_lines_passed: int, *, asks: bool
) -> Iterator[tuple[int, list[str] | BrokenRecord]]:
    """Yield (number of its first line, fields) of each row that is not blank.

    With `asks`, a field over several lines is an error if each of them is a whole row, because it
    is not known whether the quotes enclose the field.
    """
    assert dialect.delimiter is not None
    lines = _Lines(stream)
    for _ in range(num_lines_passed):
        lines.read()
    rows = dialect.reader(iter(lines.read, ""))
    num_columns = 0
    while True:
        line = lines.num_read + 1
        lines_of_row = lines.of_row = []
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            # An open quote takes the rest of the file, so the error says how much is lost.
            last = lines.num_read
            lost = f", and with it all up to line {last:,}" if last > line else ""
            message = f"not CSV ({error}){lost}; fix its quotes, or set quoting: none"
            yield line, BrokenRecord(f":{line}", message)
            continue
        num_columns = num_columns or len(row)
        if asks and num_columns > 1 and len(lines_of_row) > 1:
            widths = {len(text.split(dialect.delimiter)) for text in lines_of_row}
            if widths == {num_columns}:
                message = (
                    f"a quote takes the {len(lines_of_row)} lines from here for one field, and "
                    "each of them is a whole row; set quoting: none if quotes are "
                    "characters, or minimal if they enclose fields"
                )
                yield line, BrokenRecord(f":{line}", message)
                continue
        if row:
            yield line, row


FORMAT = Format(read_csv, endings=(".csv", ".tsv"))
