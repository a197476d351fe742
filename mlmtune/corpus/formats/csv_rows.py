"""CSV: a document for each row below the header."""

import csv
import re
from collections.abc import Callable, Iterator, Sequence
from typing import TextIO

from mlmtune.corpus.decoding import BrokenRecord, FileLeftOut, open_text, uncompressed_name
from mlmtune.corpus.formats.records import Record, Value, text_columns, texts_of

# The parser takes 4 bytes for each; an open quote fills it with the rest of the file.
_MAX_FIELD_CHARACTERS = 1 << 26
_UNDECODED = re.compile("[\udc80-\udcff]")


Choose = Callable[[Sequence[str]], Sequence[str]]
"""From the columns of a table to those that are read."""


def read_csv(path: str, text_field: str | None) -> Iterator[Record]:
    """A document for each row."""
    return texts_of(csv_values(path, lambda columns: text_columns(columns, text_field)), text_field)


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
