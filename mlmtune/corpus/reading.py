"""From listed files to the documents of the corpus: a stream from end to end."""

import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import numpy as np

from mlmtune import randomness
from mlmtune.config import CorpusConfig, MarkdownConfig, SourceConfig
from mlmtune.corpus.cleaning import clean_markdown, clean_plain, content_hash
from mlmtune.corpus.decoding import BrokenRecord, FileLeftOut
from mlmtune.corpus.document import Document
from mlmtune.corpus.funnel import Funnel
from mlmtune.corpus.readers import READERS
from mlmtune.corpus.scanning import ListedFile, ListedSource, Listing
from mlmtune.errors import DataError

_SAMPLE_STREAM = 0x5341_4D50_4C45  # "SAMPLE": tells these draws from others with the same seed
_SAMPLE_BATCH = 256  # a vectorised draw costs as much for one document as for hundreds

_LOW_64_BITS = (1 << 64) - 1

# What to change when nothing is left, by the commonest reason.
_REMEDIES = {
    "too_short": "lower corpus.min_characters",
    "duplicate": "set corpus.deduplicate: false, or give other files",
    "binary": "name the files that hold text (include)",
    "too_large": "read large files with format: text or lines",
    "undecodable": "convert the files to UTF-8",
    "not_a_file": "give regular files",
    "link_outside": "give the folder that the links lead to as a path of its own",
    "unreadable": "make the files readable",
}


@dataclass(frozen=True, slots=True)
class KeptDocument:
    """A document of the corpus.

    Attributes:
        document: cleaned.
        content_hash: 64 bits of its normalised text.
        validation: it comes from `validation_sources`.
    """

    document: Document
    content_hash: int
    validation: bool


class CleanDocument(NamedTuple):
    """A document of one file, cleaned; `content_hash` has 128 bits."""

    id: str
    text: str
    content_hash: int


class FileOutcome(NamedTuple):
    """The last thing said of a file.

    Attributes:
        reason: why it was left out; None where it was read.
        detail: the reason, for people.
        broken: it is damaged, so that `corpus.on_error` decides whether to go on.
    """

    reason: str | None = None
    detail: str = ""
    broken: bool = False


FileEvent = CleanDocument | BrokenRecord | FileOutcome


def read_file(
    file: ListedFile, source: SourceConfig, markdown: MarkdownConfig
) -> Iterator[FileEvent]:
    """Read and clean one file: its documents and broken records, then one `FileOutcome`.

    It depends on its arguments only, and all that goes in or out can be pickled.
    """
    clean: Callable[[str], str] = clean_plain
    if source.format == "markdown":

        def clean(text: str) -> str:
            return clean_markdown(text, markdown)

    num_records = 0
    try:
        for record in READERS[source.format](file.path, source.text_field):
            num_records += 1
            if isinstance(record, BrokenRecord):
                yield record
            else:
                text = clean(record.text)
                yield CleanDocument(file.id + record.place, text, content_hash(text))
    except FileLeftOut as fault:
        if num_records == 0:
            yield FileOutcome(fault.reason, fault.detail, fault.broken)
            return
        # The records before the fault are in use, so that the file is not left out.
        where = f" (after {num_records} records)"
        yield BrokenRecord(where, f"{fault.reason}: {fault.detail}")
    yield FileOutcome() if num_records else FileOutcome("empty", "holds no documents")


def read_documents(
    config: CorpusConfig, listing: Listing, funnel: Funnel
) -> Iterator[KeptDocument]:
    """Stream the documents of the corpus, those of `validation_sources` first.

    Coming first, a validation document is kept, and a training document that equals it is left out.

    Args:
        config: the section `corpus`.
        listing: what `scan` found.
        funnel: counts what is kept and left out as the stream goes on.

    Raises:
        DataError: a broken record or file with `on_error: fail`; or, at the end, nothing is left to
            train on or, where `validation_sources` are given, to validate on.
    """
    for source in listing.sources:
        funnel.add_source(source.name)

    seen: set[int] = set()
    for source in listing.sources:
        documents = _distinct(
            _clean_documents(source, config, funnel), seen, source, config, funnel
        )
        if source.config.max_documents is not None:
            documents = _sample(documents, source.config.max_documents, source, config, funnel)
        for clean in documents:
            # Only here: a document that was not sampled must not shut out its equal elsewhere.
            if config.deduplicate or source.validation:
                seen.add(clean.content_hash)
            funnel.document_kept(source.name, len(clean.text))
            document = Document(text=clean.text, id=clean.id, source=source.name)
            yield KeptDocument(document, clean.content_hash & _LOW_64_BITS, source.validation)

    for validation in (True, False):
        names = [source.name for source in listing.sources if source.validation == validation]
        if names and not any(funnel.num_kept(name) for name in names):
            raise _nothing_left(validation, funnel)


def _clean_documents(
    source: ListedSource, config: CorpusConfig, funnel: Funnel
) -> Iterator[CleanDocument]:
    """The documents of one source that are neither broken, empty nor too short."""
    for place in source.passed_over:
        funnel.file_left_out(source.name, place.path, place.reason, place.detail)
    for file in source.files:
        for event in read_file(file, source.config, config.markdown):
            match event:
                case BrokenRecord():
                    where = f"{file.path}{event.place}"
                    _fail_unless_skipped(config, f"{where}: {event.message}")
                    funnel.record_broken(source.name, where, event.message)
                case FileOutcome(reason=None):
                    funnel.file_read(source.name)
                case FileOutcome(reason=str(reason)):
                    if event.broken:
                        _fail_unless_skipped(config, f"{file.path}: {reason}: {event.detail}")
                    funnel.file_left_out(source.name, file.path, reason, event.detail)
                case CleanDocument(text=text):
                    if not text:
                        funnel.document_left_out(source.name, "empty")
                    elif len(text) < config.min_characters:
                        funnel.document_left_out(source.name, "too_short")
                    else:
                        yield event


def _fail_unless_skipped(config: CorpusConfig, problem: str) -> None:
    if config.on_error == "fail":
        raise DataError(f"{problem}; or set corpus.on_error: skip to leave out what is broken")


def _distinct(
    documents: Iterator[CleanDocument],
    seen: set[int],
    source: ListedSource,
    config: CorpusConfig,
    funnel: Funnel,
) -> Iterator[CleanDocument]:
    """The documents that equal none before them, in this source or among those `seen`.

    Without `deduplicate` duplicates stay, but for training documents that equal one of validation.
    """
    if source.validation and not config.deduplicate:
        yield from documents
        return
    seen_here: set[int] = set()
    for document in documents:
        if document.content_hash in seen or document.content_hash in seen_here:
            funnel.document_left_out(source.name, "duplicate")
        else:
            # What is kept lands in `seen`; only a sampled source needs a memory of its own.
            if config.deduplicate and source.config.max_documents is not None:
                seen_here.add(document.content_hash)
            yield document


def _sample(
    documents: Iterator[CleanDocument],
    max_documents: int,
    source: ListedSource,
    config: CorpusConfig,
    funnel: Funnel,
) -> Iterator[CleanDocument]:
    """A uniform random subset in the original order: the documents with the lowest draws.

    Holds no more than the subset and one batch. A draw is keyed by the content, so that the subset
    hardly changes when documents are added.
    """
    # Entries are (-draw, -order, document): the first of the heap is the first to go.
    heap: list[tuple[int, int, CleanDocument]] = []
    order = 0
    while batch := list(islice(documents, _SAMPLE_BATCH)):
        hashes = np.array([document.content_hash & _LOW_64_BITS for document in batch], np.uint64)
        draws = randomness.key(config.split_seed, _SAMPLE_STREAM, hashes)
        for draw, document in zip(draws.tolist(), batch, strict=True):
            entry = (-draw, -order, document)
            order += 1
            if len(heap) < max_documents:
                heapq.heappush(heap, entry)
            else:
                heapq.heappushpop(heap, entry)
                funnel.document_left_out(source.name, "not_sampled")
    heap.sort(key=lambda entry: -entry[1])
    yield from (document for _, _, document in heap)


def _nothing_left(validation: bool, funnel: Funnel) -> DataError:
    """The error for a side without documents, with what to change."""
    counts = funnel.to_json()
    reasons = {**counts["files"]["left_out"], **counts["documents"]["left_out"]}
    commonest = max(reasons, key=reasons.__getitem__, default="")
    remedy = _REMEDIES.get(commonest, "give files that hold text")
    section, purpose = ("validation_sources", "validate") if validation else ("sources", "train")
    return DataError(
        f"corpus.{section}: no document is left to {purpose} on; {funnel.summary()}; {remedy}"
    )
