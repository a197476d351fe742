"""Plain text and Markdown: a file, a line, or a paragraph of sentences is a document."""

import io
from collections.abc import Iterator

from mlmtune.config import SourceConfig
from mlmtune.corpus.decoding import MAX_DOCUMENT_BYTES, Span, iter_lines, read_text
from mlmtune.corpus.encodings import Decoding
from mlmtune.corpus.faults import BrokenRecord
from mlmtune.corpus.formats.records import RawDocument, Record

# What the parser makes of a page takes 20 times its size in memory, and in odd cases much more.
_MAX_PAGE_BYTES = 8 << 20


def read_markdown(path: str, source: SourceConfig, decoding: Decoding) -> Iterator[Record]:
    """The whole file, if it is not too large for a page."""
    yield RawDocument(read_text(path, _MAX_PAGE_BYTES, decoding))


def read_plain(path: str, source: SourceConfig, decoding: Decoding) -> Iterator[Record]:
    """The whole file."""
    yield RawDocument(read_text(path, decoding=decoding))


def read_lines(
    path: str, source: SourceConfig, decoding: Decoding, span: Span | None = None
) -> Iterator[Record]:
    """A document for each line that is not blank."""
    for number, line in _iter_any_lines(path, decoding, span):
        if isinstance(line, BrokenRecord):
            yield line
        elif line.strip():
            yield RawDocument(line, f"#{number}")


def read_sentences(path: str, source: SourceConfig, decoding: Decoding) -> Iterator[Record]:
    """A document for each run of lines that are not blank; each line is a sentence."""
    sentences = io.StringIO()  # a list of them would take many times their size
    first = num_characters = 0
    for number, line in _iter_any_lines(path, decoding):
        if isinstance(line, BrokenRecord):
            yield line
        elif line.strip():
            first = first if num_characters else number
            num_characters += len(line)
            if num_characters <= MAX_DOCUMENT_BYTES:
                sentences.write(line + "\n")
        else:
            yield from _document(sentences, first, num_characters)
            sentences, num_characters = io.StringIO(), 0
    yield from _document(sentences, first, num_characters)


def _document(sentences: io.StringIO, first: int, num_characters: int) -> Iterator[Record]:
    if num_characters > MAX_DOCUMENT_BYTES:
        message = (
            f"a document of over {MAX_DOCUMENT_BYTES >> 20} MiB; set blank lines between documents"
        )
        yield BrokenRecord(f":{first}", message)
    elif num_characters:
        yield RawDocument(sentences.getvalue().removesuffix("\n"), f"#{first}")


def _iter_any_lines(
    path: str, decoding: Decoding, span: Span | None = None
) -> Iterator[tuple[int, str | BrokenRecord]]:
    """The lines with their numbers."""
    for number, line in iter_lines(path, span, decoding):
        # Files from old Macs end their lines with a carriage return alone.
        if isinstance(line, str) and "\r" in line:
            yield from ((number, part) for part in _split(line, "\r"))
        else:
            yield number, line


def _split(text: str, separator: str) -> Iterator[str]:
    """The parts of `text.split(separator)`, one by one."""
    start = 0
    while (end := text.find(separator, start)) >= 0:
        yield text[start:end]
        start = end + len(separator)
    yield text[start:]
