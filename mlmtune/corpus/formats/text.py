"""Plain text: a file is a document."""

from collections.abc import Iterator

from mlmtune.config import SourceConfig
from mlmtune.corpus.decoding import read_text
from mlmtune.corpus.encodings import Decoding
from mlmtune.corpus.formats import Format
from mlmtune.corpus.records import RawDocument, Record


def read_plain(path: str, source: SourceConfig, decoding: Decoding) -> Iterator[Record]:
    """Read the whole file."""
    yield RawDocument(read_text(path, decoding=decoding))


FORMAT = Format(read_plain, endings=(".txt",), is_plain_text=True)
