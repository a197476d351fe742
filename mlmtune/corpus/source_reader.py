"""The reader of a source: from one file, or from its dataset, to cleaned documents."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from mlmtune.config import CleaningConfig, MarkdownConfig, SourceConfig
from mlmtune.corpus.cleaning import clean, content_hash, letter_share
from mlmtune.corpus.decoding import Span
from mlmtune.corpus.encodings import Decoding, Encoding
from mlmtune.corpus.formats import format_of
from mlmtune.corpus.hub_datasets import ListedDataset, read_dataset
from mlmtune.corpus.languages import Recognition, recognise
from mlmtune.corpus.listing import ListedFile
from mlmtune.corpus.markdown_text import UnreadablePage
from mlmtune.corpus.records import BrokenRecord, FileLeftOut, Record
from mlmtune.corpus.remote import local_copy
from mlmtune.errors import HubError
from mlmtune.redaction import public_location


class CleanDocument(NamedTuple):
    """A cleaned document; `content_hash` and `letter_share` are those of `cleaning`.

    Attributes:
        id: Names the document within its source.
        text: The cleaned text, which may be empty.
        recognition: Its language; an empty one if languages are not recognised.
    """

    id: str
    text: str
    content_hash: int
    letter_share: float
    recognition: Recognition


class FileRead(NamedTuple):
    """The end of a file that was read; the encoding is None if the file is not text."""

    encoding: Encoding | None


FileEvent = CleanDocument | BrokenRecord | FileLeftOut | FileRead


@dataclass
class Tally:
    """The number of characters, counted as documents are cleaned.

    Attributes:
        num_characters: The characters before cleaning.
        removed: The characters that each cleaning step removed.
    """

    num_characters: int = 0
    removed: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class SourceReader:
    """Reads and cleans the files of a source, or its dataset.

    Attributes:
        languages: The languages that are wanted; if empty, none is recognised.
    """

    source: SourceConfig
    cleaning: CleaningConfig
    markdown: MarkdownConfig
    languages: Sequence[str] = ()

    def read_file(
        self, file: ListedFile, tally: Tally, scratch: Path | None = None
    ) -> Iterator[FileEvent]:
        """Yield the documents and broken records of a file, then whether it was read or left out.

        Args:
            file: The file to read. If it is a later span of a file, nothing is said of its end.
            tally: Counts characters.
            scratch: The folder of the temporary copy of a remote file.

        Raises:
            HubError: A remote file cannot be fetched.
        """
        decoding = Decoding(self.source.encoding)
        num_records = 0
        # Only the first span of a file says how it ended, so that the file is counted once.
        is_later_span = file.span is not None and file.span.start > 0
        try:
            with local_copy(file.path, scratch) as path:
                for record in self._records(path, file.span, decoding):
                    num_records += 1
                    yield self._clean(record, file.id, tally)
        except FileLeftOut as fault:
            if fault.reason == "unreachable":
                # It may be reachable a minute later, so it must not be recorded as left out.
                raise HubError(
                    f"{public_location(file.path)}: {fault.detail}; try again"
                ) from fault
            if num_records == 0 and not is_later_span:
                yield fault
                return
            # The records before the fault are used, so the file does not count as left out.
            where = f" (after {num_records} records)"
            yield BrokenRecord(where, f"{fault.reason}: {fault.detail}")
        if not is_later_span:
            is_empty = num_records == 0 and file.span is None
            yield (
                FileLeftOut("empty", "holds no documents") if is_empty else FileRead(decoding.used)
            )

    def _records(self, path: str, span: Span | None, decoding: Decoding) -> Iterator[Record]:
        format_ = format_of(self.source.format)
        if span is None:
            return format_.read(path, self.source, decoding)
        assert format_.read_span is not None  # only files of lines are cut into spans
        return format_.read_span(path, self.source, decoding, span)

    def read_dataset(self, dataset: ListedDataset, tally: Tally) -> Iterator[FileEvent]:
        """Yield the documents and broken records of the dataset of the source."""
        assert self.source.dataset is not None
        for record in read_dataset(self.source, dataset):
            yield self._clean(record, self.source.dataset, tally)

    def _clean(self, record: Record, id_: str, tally: Tally) -> CleanDocument | BrokenRecord:
        if isinstance(record, BrokenRecord):
            return record
        markup = self.source.markup or (
            "none" if self.source.dataset else format_of(self.source.format).markup
        )
        removed = Counter(record.removed)
        try:
            text = clean(record.text, markup, self.cleaning, self.markdown, removed)
        except UnreadablePage as error:
            return BrokenRecord(record.position, str(error))
        tally.removed.update(removed)
        tally.num_characters += len(record.text) + sum(record.removed.values())
        recognition = recognise(text, self.languages) if self.languages else Recognition("", 1.0)
        return CleanDocument(
            id_ + record.position, text, content_hash(text), letter_share(text), recognition
        )
