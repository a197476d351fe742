"""Sentences: a line is a sentence, and blank lines separate documents."""

import io
from collections.abc import Iterator

from mlmtune.config import SourceConfig
from mlmtune.corpus.decoding import MAX_DOCUMENT_BYTES
from mlmtune.corpus.encodings import Decoding
from mlmtune.corpus.formats import Format
from mlmtune.corpus.formats.lines import iter_any_lines
from mlmtune.corpus.records import BrokenRecord, RawDocument, Record


def read_sentences(path: str, source: SourceConfig, decoding: Decoding) -> Iterator[Record]:
    """Yield a document for each run of lines that are not blank; each line is a sentence."""
    sentences = io.StringIO()  # a list of strings would take many times their size
    first = num_characters = 0
    for number, line in iter_any_lines(path, decoding):
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


FORMAT = Format(read_sentences, endings=(".txt",), is_plain_text=True, is_by_lines=True)
