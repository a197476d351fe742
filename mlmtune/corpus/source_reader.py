"""One file, or one dataset, to cleaned documents."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from mlmtune.config import CleaningConfig, MarkdownConfig, SourceConfig
from mlmtune.corpus.cleaning import clean, content_hash, letter_share
from mlmtune.corpus.decoding import Span
from mlmtune.corpus.encodings import Decoding, Encoding
from mlmtune.corpus.faults import BrokenRecord, FileLeftOut
from mlmtune.corpus.formats import format_of
from mlmtune.corpus.hub_datasets import ListedDataset, read_dataset
from mlmtune.corpus.listing import ListedFile
from mlmtune.corpus.markdown_text import PageTooLarge
from mlmtune.corpus.records import Record
from mlmtune.corpus.remote import local_copy
from mlmtune.errors import HubError
from mlmtune.redaction import public_location


class CleanDocument(NamedTuple):
    """A document, cleaned.

    Attributes:
        id: names it within its source.
        text: may be empty.
        content_hash: 64 bits of the normalised text.
        letter_share: letters among its characters that are not white space.
    """

    id: str
    text: str
    content_hash: int
    letter_share: float


class FileOutcome(NamedTuple):
    """The last thing said of a file.

    Attributes:
        reason: why it was left out; None where it was read.
        detail: the reason, for people.
        broken: it is damaged, so that `corpus.on_error` decides whether to go on.
        is_misread: the config has to change, whatever `corpus.on_error` says.
        encoding: what its text was decoded by; None where it is no text, or was not read.
    """

    reason: str | None = None
    detail: str = ""
    broken: bool = False
    is_misread: bool = False
    encoding: Encoding | None = None


FileEvent = CleanDocument | BrokenRecord | FileOutcome


@dataclass
class Tally:
    """Characters, counted as documents are cleaned.

    Attributes:
        num_characters: before cleaning.
        removed: by cleaning step; with what is left they add up to `num_characters`.
    """

    num_characters: int = 0
    removed: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class SourceReader:
    """Reads and cleans what a source holds. What it says depends on its arguments alone.

    Attributes:
        source: format, text field and markup.
        cleaning: what is done to all text.
        markdown: how Markdown becomes text.
    """

    source: SourceConfig
    cleaning: CleaningConfig
    markdown: MarkdownConfig

    def read_file(
        self, file: ListedFile, tally: Tally, scratch: Path | None = None
    ) -> Iterator[FileEvent]:
        """The documents and broken records of a file, then one `FileOutcome`.

        Args:
            file: what to read.
            tally: counts characters.
            scratch: where a remote file is copied to meanwhile.

        Raises:
            HubError: the file lies elsewhere and cannot be fetched.
        """
        decoding = Decoding(self.source.encoding)
        num_records = 0
        goes_on = file.span is not None and file.span.start > 0  # its start has the outcome
        try:
            with local_copy(file.path, scratch) as path:
                for record in self._records(path, file.span, decoding):
                    num_records += 1
                    yield self._clean(record, file.id, tally)
        except FileLeftOut as fault:
            if fault.reason == "unreachable":
                # It may be there a minute later, so that it must not be noted as left out.
                raise HubError(
                    f"{public_location(file.path)}: {fault.detail}; try again"
                ) from fault
            if num_records == 0 and not goes_on:
                yield FileOutcome(fault.reason, fault.detail, fault.broken, fault.is_misread)
                return
            # The records before the fault are in use, so that the file is not left out.
            where = f" (after {num_records} records)"
            yield BrokenRecord(where, f"{fault.reason}: {fault.detail}")
        if not goes_on:
            is_read = num_records > 0 or file.span is not None
            if is_read:
                yield FileOutcome(encoding=decoding.found)
            else:
                yield FileOutcome("empty", "holds no documents")

    def _records(self, path: str, span: Span | None, decoding: Decoding) -> Iterator[Record]:
        format_ = format_of(self.source.format)
        if span is None:
            return format_.read(path, self.source, decoding)
        assert format_.read_span is not None  # only files of lines are cut into spans
        return format_.read_span(path, self.source, decoding, span)

    def read_dataset(self, dataset: ListedDataset, tally: Tally) -> Iterator[FileEvent]:
        """The documents and broken records of the dataset that the source is."""
        assert self.source.dataset is not None
        for record in read_dataset(self.source, dataset):
            yield self._clean(record, self.source.dataset, tally)

    def _clean(self, record: Record, id_: str, tally: Tally) -> CleanDocument | BrokenRecord:
        if isinstance(record, BrokenRecord):
            return record
        markup = self.source.markup or ("markdown" if self.source.format == "markdown" else "none")
        removed: Counter[str] = Counter()
        try:
            text = clean(record.text, markup, self.cleaning, self.markdown, removed)
        except PageTooLarge as error:
            return BrokenRecord(record.place, f"{error}; cut it, or set markup: none")
        tally.removed.update(removed)
        tally.num_characters += len(record.text)
        return CleanDocument(id_ + record.place, text, content_hash(text), letter_share(text))
