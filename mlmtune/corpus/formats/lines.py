"""Lines: a line of plain text is a document."""

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
    """Yield the lines of a file with their numbers."""
    for number, line in iter_lines(path, span, decoding):
        # Files from old Macs end their lines with a carriage return alone.
        if isinstance(line, str) and "\r" in line:
            yield from ((number, part) for part in _split(line, "\r"))
        else:
            yield number, line


def _split(text: str, separator: str) -> Iterator[str]:
    """Yield the parts of `text.split(separator)` one by one, to save memory."""
    start = 0
    while (end := text.find(separator, start)) >= 0:
        yield text[start:end]
        start = end + len(separator)
    yield text[start:]


FORMAT = Format(
    read_lines,
    endings=(".txt", ".tokens", ".raw"),
    is_plain_text=True,
    read_span=read_lines,
    line_endings=("",),  # whatever a file is called
)
