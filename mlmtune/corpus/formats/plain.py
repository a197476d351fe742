"""Plain text and Markdown: a file or a line is a document."""

from collections.abc import Iterator

from mlmtune.corpus.decoding import BrokenRecord, Span, iter_lines, read_text
from mlmtune.corpus.formats.records import RawDocument, Record

# What the parser makes of a page takes 20 times its size in memory, and in odd cases much more.
_MAX_PAGE_BYTES = 8 << 20


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
