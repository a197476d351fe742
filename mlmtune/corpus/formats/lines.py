"""Lines: a line of plain text is a document."""

import re
from collections.abc import Iterator

from mlmtune.config import SourceConfig
from mlmtune.corpus.decoding import Span, iter_lines
from mlmtune.corpus.encodings import Decoding
from mlmtune.corpus.formats import Format
from mlmtune.corpus.records import BrokenRecord, RawDocument, Record


def read_lines(
    path: str, source: SourceConfig, decoding: Decoding, span: Span | None = None
) -> Iterator[Record]:
    """Yield a document for each line that is not blank."""
    for number, line in iter_any_lines(path, decoding, span):
        if isinstance(line, BrokenRecord):
            yield line
        elif line.strip():
            yield RawDocument(line, f"#{number}")


def iter_any_lines(
    path: str, decoding: Decoding, span: Span | None = None
) -> Iterator[tuple[int, str | BrokenRecord]]:
    """Yield the lines of a file, numbered by its line feeds."""
    for number, line in iter_lines(path, span, decoding):
        # Files from old Macs end their lines with a carriage return alone.
        if isinstance(line, str) and "\r" in line:
            parts = re.finditer(r"[^\r]*\r|[^\r]+", line)  # one by one, to save memory
            yield from ((number, part[0].removesuffix("\r")) for part in parts)
        else:
            yield number, line


FORMAT = Format(
    read_lines,
    endings=(".txt", ".tokens", ".raw"),
    is_plain_text=True,
    read_span=read_lines,
    line_endings=("",),  # whatever a file is called
)
