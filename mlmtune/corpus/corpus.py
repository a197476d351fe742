"""The corpus: the documents of a listing, cleaned in parallel, filtered and counted."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mlmtune.config import ADDED_FORMATS, CorpusConfig
from mlmtune.console import Console
from mlmtune.corpus import formats, near_duplicates, optional_steps
from mlmtune.corpus.comparing import Comparison, compared
from mlmtune.corpus.dividing import plan_parts, with_line_numbers
from mlmtune.corpus.document import Document
from mlmtune.corpus.domain_selection import select
from mlmtune.corpus.engine import Engine, Work
from mlmtune.corpus.filtering import (
    KEPT,
    OUTCOMES,
    DocumentTable,
    leave_out_by_content,
    leave_out_repeated,
)
from mlmtune.corpus.funnel import Funnel, Overlap, Pair, Scored, Selected, SourceFunnel
from mlmtune.corpus.listing import ListedSource, Listing
from mlmtune.corpus.overlap import OverlapIndex
from mlmtune.corpus.part_files import PartFiles
from mlmtune.corpus.parts import (
    DamagedPart,
    Part,
    PartTable,
    Rows,
    read_part,
    write_part,
    write_part_elsewhere,
)
from mlmtune.corpus.sources import SOURCES_KEY, CorpusSource
from mlmtune.corpus.splitting import validation_mask
from mlmtune.errors import DataError
from mlmtune.printable import printable

SMALL_BYTES = 1 << 20
"""A smaller corpus is read in this process, because new ones would take longer to start."""
DOCUMENTS_AT_ONCE = 4096
"""The number of documents that a process compares at a time."""

_MAX_NAMED_FILES = 100
_MAX_NAMED_PAIRS = 10
_MAX_NAMED_SCORES = 5
_MAX_NAMED_OVERLAPS = 10_000

# What to change when nothing is left, by the commonest reason.
_REMEDIES = {
    "too_short": "lower corpus.min_characters",
    "too_long": "raise corpus.max_characters",
    "few_letters": "lower corpus.min_letter_share",
    "other_language": "add the languages of the text to corpus.languages",
    "duplicate": "set corpus.deduplicate: false, or give other files",
    "overlap": "the test set is in the corpus: give other files",
    "near_duplicate": "raise corpus.near_duplicates.threshold",
    "binary": "name the files that hold text (include)",
    "too_large": "cut large files, or read them with format: lines",
    "undecodable": "set the source's encoding, or convert the files to UTF-8",
    "empty": "give files that hold text, or set text_field to the field that does",
    "encrypted": "save the files without their password",
    "no_text": "recognise the text of scanned pages first (ocrmypdf)",
    "not_a_file": "give regular files",
    "link_outside": "give the folder that the links lead to as a path of its own",
    "unreadable": "make the files readable",
}


@dataclass(frozen=True)
class Corpus:
    """The documents that are kept, as rows of finished parts.

    Attributes:
        sources: The records of the sources, in the order of `corpus_sources`.
        parts: The parts of all sources, in this order.
        table: The numbers of each document, and whether it is kept.
        funnel: The counts of what was found, kept and left out.
    """

    sources: tuple[CorpusSource, ...]
    parts: list[Part]
    table: DocumentTable
    funnel: Funnel

    def documents(self) -> Iterator[Document]:
        """Yield the kept documents in order."""
        yield from documents_in(self.rows(self.table.kept()))

    def some_documents(self, numbers: NDArray[np.int64]) -> Iterator[Document]:
        """Yield some of the kept documents, by their ascending numbers, and read no others."""
        yield from documents_in(self.rows(self.table.kept()[numbers]))

    def rows(self, documents: NDArray[np.int64]) -> list[Rows]:
        """Return what is needed to read some documents of the table, which are ascending."""
        table = self.table
        return [
            Rows(self.parts[part], rows, table.content_hashes[table.part_offsets[part] + rows])
            for part, rows in table.by_part(documents)
        ]


def documents_in(blocks: Sequence[Rows]) -> Iterator[Document]:
    """Yield the documents in some rows of parts.

    Raises:
        Damaged: A part is damaged.
    """
    for part, rows, hashes in blocks:
        for (id_, text), content_hash in zip(read_part(part, rows), hashes.tolist(), strict=True):
            yield Document(text, id_, part.source, content_hash)


def read_corpus(
    config: CorpusConfig,
    listing: Listing,
    place: PartFiles,
    console: Console,
    engine: Engine,
    key: str = SOURCES_KEY,
) -> Corpus:
    """Clean the files of a listing, and filter their documents.

    Finished parts are kept in `place`. Errors call the sources by their `key` in the config.

    Raises:
        DataError: A record or file is broken with `on_error: fail`; no document is left to train
            on or, with `validation_sources`, to validate on; or a source cannot be selected from,
            because its domain has no words.
        ConfigError: An extra is missing.
        HubError: A remote file or dataset cannot be fetched.
        ResourceError: A process died.
        OSError: The folder cannot be written.
    """
    # Before cleaning, which may take hours.
    optional_steps.check_available(config.cleaning, config.languages)
    if config.near_duplicates is not None:
        near_duplicates.check_available()
    for listed in (*listing.sources, *listing.references):
        if listed.dataset is None:
            formats.check_available(listed.source.config.format)
    parts = plan_parts(listing.sources, config, place)
    tables = list(_clean(parts, config, console, engine))
    _check_texts_are_found(listing.sources, parts, tables)
    funnel = _count_files(listing.sources, parts, tables)
    table = DocumentTable.of(parts, tables, len(listing.sources))
    corpus = Corpus(tuple(listed.source for listed in listing.sources), parts, table, funnel)

    leave_out_by_content(table, config)
    duplicates = leave_out_repeated(table, corpus.sources, config)
    if listing.references or config.near_duplicates is not None:
        references = plan_parts(listing.references, config, place)
        _leave_out_by_text(corpus, references, config, place.folder, console, engine)
    ids = _names(corpus, np.unique(np.asarray(duplicates, dtype=np.int64)))
    funnel.duplicates = [Pair(ids[document], ids[first], 1.0) for document, first in duplicates]
    _leave_out_unlike(corpus, config, engine)
    _count_documents(corpus)
    _check_something_is_left(corpus, key)
    return corpus


def _clean(
    parts: list[Part], config: CorpusConfig, console: Console, engine: Engine
) -> Iterator[PartTable]:
    """Yield the table of each part, which is written first if it is not finished."""
    finished = parts[0].place.finished([part.name for part in parts]) if parts else set()
    missing = {part.name: part for part in parts if part.name not in finished}
    sizes = [part.num_bytes for part in missing.values()]
    work = Work(
        "reading and cleaning", "B", keeps_bar=True,
        is_small=sum(sizes) < SMALL_BYTES and all(sizes),
        # Another process has no formats that were added to this one.
        is_ours=any(part.reader.source.format in ADDED_FORMATS for part in missing.values()),
    )  # fmt: skip
    write = write_part_elsewhere if engine.is_remote else write_part
    listed = with_line_numbers(list(missing.values()))
    written = engine.map(write, listed, None, work, sizes=sizes)
    with closing(written):
        for part in parts:
            if missing.pop(part.name, None) is not None:
                next(written)
            table = _table_of(part, console)
            if table.counts.misread is not None:
                raise DataError(table.counts.misread)
            if config.on_error == "fail" and table.counts.first_fault is not None:
                advice = "; or set corpus.on_error: skip to leave out what is broken"
                raise DataError(table.counts.first_fault + advice * (not _lacks_all_text(table)))
            yield table
        next(written, None)  # so that its progress bar ends


def _table_of(part: Part, console: Console) -> PartTable:
    """Read the table of a finished part, which is cleaned again if it is damaged."""
    try:
        return PartTable.of(part)
    except DamagedPart as error:
        console.say(f"{error.what}; it is cleaned again")
        error.discard()
        write_part(*with_line_numbers([part]))
        return PartTable.of(part)


def _lacks_all_text(table: PartTable) -> bool:
    """Whether no record of a part has a text in the field that must hold it."""
    counts = table.counts
    has_none = counts.num_empty == 0 and len(table.content_hashes) == 0
    return has_none and 0 < counts.num_lacking_text == counts.num_broken


def _check_texts_are_found(
    sources: tuple[ListedSource, ...], parts: list[Part], tables: list[PartTable]
) -> None:
    """Raise if no record of a source has a text in the field that must hold it."""
    for number in range(len(sources)):
        of_source = [t for p, t in zip(parts, tables, strict=True) if p.source == number]
        has_text = any(len(t.content_hashes) or t.counts.num_empty for t in of_source)
        lacking = next((t for t in of_source if _lacks_all_text(t)), None)
        if lacking is not None and not has_text:
            location, detail = lacking.counts.named_records[0]
            fault = detail.removesuffix(" (set text_field)")
            raise DataError(
                f"{location}: {fault}; no record of the source has a text there (set text_field)"
            )


def _leave_out_by_text(
    corpus: Corpus,
    references: list[Part],
    config: CorpusConfig,
    folder: Path,
    console: Console,
    engine: Engine,
) -> None:
    """Leave out documents that overlap with the references, then near-duplicates."""
    table, near = corpus.table, config.near_duplicates
    index = _index_references(corpus, references, config, console, engine)
    kept = table.kept()
    if len(kept) == 0:
        return
    blocks = [(corpus.parts[n], rows) for n, rows in table.blocks(kept, DOCUMENTS_AT_ONCE)]
    work = Work("comparing texts", "document", is_small=_is_small(table))
    with compared(blocks, index, near, folder, engine, work) as comparison:
        overlaps: dict[int, str] = {}
        first = 0
        for (_, rows), shared_words in zip(blocks, comparison.overlaps, strict=True):
            overlaps |= {int(kept[first + row]): words for row, words in shared_words}
            first += len(rows)
        overlapping = np.asarray(list(overlaps), dtype=np.int64)
        table.leave_out(overlapping, "overlap")
        names = _names(corpus, overlapping[:_MAX_NAMED_OVERLAPS])
        corpus.funnel.overlaps = [
            Overlap(name, overlaps[document]) for document, name in names.items()
        ]
        if near is not None:
            _leave_out_near_duplicates(corpus, comparison, kept, config)


def _index_references(
    corpus: Corpus,
    references: list[Part],
    config: CorpusConfig,
    console: Console,
    engine: Engine,
) -> OverlapIndex | None:
    """Return the index of the texts of `exclude_overlap_with`; None if there are none."""
    if not references:
        return None
    tables = _clean(references, config, console, engine)
    sizes = [len(table.content_hashes) for table in tables]
    if not any(sizes):
        raise DataError("corpus.exclude_overlap_with: holds no text; name the files that do")
    texts = (
        text
        for part, size in zip(references, sizes, strict=True)
        for _, text in read_part(part, np.arange(size))
    )
    index = OverlapIndex.of(texts, config.overlap_words)
    corpus.funnel.num_references_too_short = index.num_too_short
    return index


def _leave_out_near_duplicates(
    corpus: Corpus, comparison: Comparison, documents: NDArray[np.int64], config: CorpusConfig
) -> None:
    """Leave out near-duplicates among the (n,) documents that were compared."""
    table = corpus.table
    order = np.flatnonzero(table.outcomes[documents] == KEPT)
    if config.split_by == "document" and len(order) > 1:
        # Validation documents come first, so that they do not depend on training documents, and
        # nothing is trained on that nearly equals one of them.
        hashes = table.content_hashes[documents[order]]
        on_validation = validation_mask(hashes, table.sources_of(documents[order]), config)
        order = np.concatenate([order[on_validation], order[~on_validation]])
    pairs = [
        near._replace(document=int(documents[near.document]), kept=int(documents[near.kept]))
        for near in comparison.find_near_duplicates(order)
    ]
    table.leave_out(np.asarray([pair.document for pair in pairs], np.int64), "near_duplicate")
    # A user judges the threshold by the pairs that are nearest to it.
    shown = sorted(pairs, key=lambda pair: pair.similarity)[:_MAX_NAMED_PAIRS]
    names = _names(corpus, np.unique(np.asarray([pair[:2] for pair in shown], np.int64)))
    corpus.funnel.near_duplicates = [
        Pair(names[pair.document], names[pair.kept], round(pair.similarity, 4)) for pair in shown
    ]


def _leave_out_unlike(corpus: Corpus, config: CorpusConfig, engine: Engine) -> None:
    """Leave out the documents of sources with `select` that are least like their domain."""
    is_small = _is_small(corpus.table)
    for selection in select(
        corpus.parts, corpus.table, corpus.sources, config, engine, is_small=is_small
    ):
        documents, scores = selection.documents, selection.scores
        ends = (slice(_MAX_NAMED_SCORES), slice(None, -_MAX_NAMED_SCORES - 1, -1))
        names = _names(corpus, np.unique(np.concatenate([documents[end] for end in ends])))
        most, least = (
            [
                Scored(names[document], round(score, 4))
                for document, score in zip(
                    documents[end].tolist(), scores[end].tolist(), strict=True
                )
            ]
            for end in ends
        )
        corpus.funnel.selections.append(
            Selected(
                corpus.sources[selection.pool].name,
                corpus.sources[selection.domain].name,
                selection.num_kept,
                len(documents) - selection.num_kept,
                int((scores > 0).sum()),
                round(float(scores[selection.num_kept - 1]), 4),
                round(selection.domain_median, 4),
                most,
                least,
            )
        )


def _is_small(table: DocumentTable) -> bool:
    """Whether this process reads the texts of all documents before new ones have started."""
    return int(table.num_characters.sum()) <= SMALL_BYTES


def _names(corpus: Corpus, documents: NDArray[np.int64]) -> dict[int, str]:
    """Return the source and id of some documents, which are given in order."""
    names: dict[int, str] = {}
    offsets = corpus.table.part_offsets
    numbers = np.searchsorted(offsets, documents, side="right") - 1
    for number in np.unique(numbers).tolist():
        part, of_part = corpus.parts[number], documents[numbers == number]
        rows = read_part(part, of_part - offsets[number])
        source = corpus.sources[part.source].name
        for document, (id_, _) in zip(of_part.tolist(), rows, strict=True):
            names[document] = f"{source}: {id_}"
    return names


def _count_files(
    sources: tuple[ListedSource, ...], parts: list[Part], tables: list[PartTable]
) -> Funnel:
    """Count files and broken records, and characters up to the cleaning of documents."""
    names = [listed.source.name for listed in sources]
    funnel = Funnel({name: SourceFunnel() for name in names})
    for name, listed in zip(names, sources, strict=True):
        funnel.sources[name].endings_not_read.update(listed.endings_not_read)
        funnel.sources[name].files_left_out.update(entry.reason for entry in listed.passed_over)
        funnel.files_left_out += [
            {"path": printable(path), "reason": reason, "detail": printable(detail)}
            for path, reason, detail in listed.passed_over
        ]
    for part, table in zip(parts, tables, strict=True):
        counts = table.counts
        of_part = SourceFunnel(
            files_read=counts.files_read,
            files_left_out=counts.files_left_out,
            encodings=counts.encodings,
            encodings_guessed=counts.encodings_guessed,
            languages=counts.languages,
            documents_left_out=+Counter(broken=counts.num_broken, empty=counts.num_empty),
            characters_found=counts.num_characters,
            cleaned_away=counts.removed,
        )
        funnel.sources[names[part.source]].add(of_part)
        funnel.files_left_out += [
            {"path": path, "reason": reason, "detail": detail}
            for path, reason, detail in counts.named_files
        ]
        funnel.guesses += [
            {"path": path, "encoding": encoding} for path, encoding in counts.named_guesses
        ]
        funnel.records_broken += [
            {"place": place, "detail": detail} for place, detail in counts.named_records
        ]
        funnel.other_languages += [
            {"document": f"{names[part.source]}: {id_}", "language": language}
            for id_, language in counts.named_languages
        ]
    for named in (
        funnel.files_left_out, funnel.guesses, funnel.records_broken, funnel.other_languages,
    ):  # fmt: skip
        del named[_MAX_NAMED_FILES:]
    return funnel


def _count_documents(corpus: Corpus) -> None:
    """Count what became of the cleaned documents of each source."""
    table = corpus.table
    for number, source in enumerate(corpus.sources):
        of_source = table.of_source(number)
        counts = corpus.funnel.sources[source.name]
        for code, outcome in enumerate(OUTCOMES):
            lengths = table.num_characters[of_source][table.outcomes[of_source] == code]
            if outcome == "kept":
                counts.documents_kept, counts.characters_kept = len(lengths), int(lengths.sum())
            elif len(lengths):
                counts.documents_left_out[outcome] = len(lengths)
                counts.characters_left_out[outcome] = int(lengths.sum())


def _check_something_is_left(corpus: Corpus, key: str) -> None:
    """Raise if a side has no document, and say what to change."""
    purpose_of_sources = "train" if key == SOURCES_KEY else "measure"  # general text
    for role, where, purpose in (
        ("validation", "corpus.validation_sources", "validate"),
        ("train", key, purpose_of_sources),
    ):
        names = [source.name for source in corpus.sources if source.role == role]
        sources = corpus.funnel.sources
        if not names or any(sources[name].documents_kept for name in names):
            continue
        total = corpus.funnel.total()
        reasons = total.files_left_out + total.documents_left_out
        commonest = max(reasons, key=lambda reason: reasons[reason], default="")
        remedy = _REMEDIES.get(commonest, "give files that hold text")
        raise DataError(
            f"{where}: no document is left to {purpose} on; {corpus.funnel.summary()}; {remedy}"
        )
