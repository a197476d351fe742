"""Markdown: a file is a document."""

from collections.abc import Iterator

from mlmtune.config import SourceConfig
from mlmtune.corpus.decoding import read_text
from mlmtune.corpus.encodings import Decoding
from mlmtune.corpus.formats import Format
from mlmtune.corpus.records import RawDocument, Record

# What the parser makes of a page takes 20 times its size in memory, and in odd cases much more.
_MAX_PAGE_BYTES = 8 << 20


def read_markdown(path: str, source: SourceConfig, decoding: Decoding) -> Iterator[Record]:
    """Read the whole file, unless it is too large for a page."""
    yield RawDocument(read_text(path, _MAX_PAGE_BYTES, decoding))


FORMAT = Format(read_markdown, endings=(".md", ".markdown", ".mdx"), markup="markdown")
