"""From a listing to the documents of the corpus: cleaned in parallel, counted, a stream to read."""

import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlmtune.config import CorpusConfig, NearDuplicatesConfig
from mlmtune.console import Console
from mlmtune.corpus.dividing import plan_parts, with_line_numbers
from mlmtune.corpus.document import Document
from mlmtune.corpus.filtering import (
    OUTCOMES,
    DocumentTable,
    leave_out_by_content,
    leave_out_repeated,
)
from mlmtune.corpus.funnel import Funnel, Overlap, Pair, SourceFunnel
from mlmtune.corpus.listing import ListedSource, Listing
from mlmtune.corpus.near_duplicates import check_available, find_near_duplicates, signature
from mlmtune.corpus.overlap import OverlapIndex
from mlmtune.corpus.parallel import num_processors, ordered_map
from mlmtune.corpus.parts import Part, PartTable, read_part, write_part
from mlmtune.corpus.sources import SOURCES_KEY, CorpusSource
from mlmtune.corpus.splitting import validation_mask
from mlmtune.errors import DataError
from mlmtune.integrity import Damaged
from mlmtune.printable import printable

_SMALL_BYTES = 1 << 20
"""Less is read here: processes would take longer to start."""

_MAX_NAMED_FILES = 100
_MAX_NAMED_PAIRS = 10
_MAX_NAMED_OVERLAPS = 10_000
_EXAMINED_AT_ONCE = 4096
"""Documents whose text is looked at by one process at a time."""

# What to change when nothing is left, by the commonest reason.
_REMEDIES = {
    "too_short": "lower corpus.min_characters",
    "too_long": "raise corpus.max_characters",
    "few_letters": "lower corpus.min_letter_share",
    "duplicate": "set corpus.deduplicate: false, or give other files",
    "overlap": "the test set is in the corpus: give other files",
    "near_duplicate": "raise corpus.near_duplicates.threshold",
    "binary": "name the files that hold text (include)",
    "too_large": "cut large files, or read them with format: lines",
    "undecodable": "set the source's encoding, or convert the files to UTF-8",
    "empty": "give files that hold text, or set text_field to the field that does",
    "not_a_file": "give regular files",
    "link_outside": "give the folder that the links lead to as a path of its own",
    "unreadable": "make the files readable",
}


@dataclass(frozen=True)
class Corpus:
    """The documents that are kept, as rows of finished parts.

    Attributes:
        sources: the records of the listing's sources.
        parts: in the corpus's order.
        table: what is known of each document, and whether it is kept.
        funnel: what was found, kept and left out.
    """

    sources: tuple[CorpusSource, ...]
    parts: list[Part]
    table: DocumentTable
    funnel: Funnel

    def documents(self, start: int = 0) -> Iterator[Document]:
        """The kept documents in order, those of `validation_sources` first.

        Args:
            start: how many to pass over; their text is not read.
        """
        for number, part in enumerate(self.parts):
            kept = self.table.kept_rows(number)
            rows, start = kept[start:], max(0, start - len(kept))
            hashes = self.table.content_hashes[self.table.part_offsets[number] + rows].tolist()
            for (id_, text), content_hash in zip(read_part(part, rows), hashes, strict=True):
                yield Document(text, id_, part.source, content_hash)


def read_corpus(
    config: CorpusConfig,
    listing: Listing,
    folder: Path,
    console: Console,
    key: str = SOURCES_KEY,
) -> Corpus:
    """Clean what a listing holds, and decide what of it stays.

    Args:
        config: the section `corpus`.
        listing: what `scan` found.
        folder: where cleaned parts are kept.
        console: shows how far it is.
        key: where the config names the sources, for errors.

    Raises:
        DataError: a broken record or file with `on_error: fail`; or nothing is left to train on or,
            where `validation_sources` are given, to validate on.
        ConfigError: an extra is missing.
        HubError: a remote file or dataset cannot be fetched.
        ResourceError: a process died.
        OSError: the folder cannot be written.
    """
    if config.near_duplicates is not None:
        check_available()
    parts = plan_parts(listing.sources, config, folder)
    tables = list(_clean(parts, config, console))
    _check_texts_are_found(listing.sources, parts, tables)
    funnel = _count_files(listing.sources, parts, tables)
    table = DocumentTable.of(parts, tables, len(listing.sources))
    corpus = Corpus(tuple(listed.source for listed in listing.sources), parts, table, funnel)

    leave_out_by_content(table, config)
    duplicates = leave_out_repeated(table, corpus.sources, config)
    if listing.references or config.near_duplicates is not None:
        references = plan_parts(listing.references, config, folder)
        _leave_out_by_text(corpus, references, config, folder, console)
    ids = _names(corpus, np.unique(np.asarray(duplicates, dtype=np.int64)))
    funnel.duplicates = [Pair(ids[document], ids[first], 1.0) for document, first in duplicates]
    _count_documents(corpus)
    _check_something_is_left(corpus, key)
    return corpus


def _clean(parts: list[Part], config: CorpusConfig, console: Console) -> Iterator[PartTable]:
    """The table of each part, written where it is not finished yet."""
    missing = {part.path: part for part in parts if not part.is_finished()}
    num_bytes = sum(part.num_bytes for part in missing.values())
    is_small = num_bytes < _SMALL_BYTES and all(part.num_bytes for part in missing.values())
    written = ordered_map(
        write_part,
        with_line_numbers(list(missing.values())),
        None,
        num_processes=1 if is_small else num_processors(),
    )
    with console.bar(total=num_bytes, unit="B", what="reading and cleaning") as bar:
        for part in parts:
            if missing.pop(part.path, None) is not None:
                next(written)
                bar.update(part.num_bytes)
            table = _table_of(part, console)
            if table.counts.misread is not None:
                written.close()
                raise DataError(table.counts.misread)
            if config.on_error == "fail" and table.counts.first_fault is not None:
                written.close()
                advice = "; or set corpus.on_error: skip to leave out what is broken"
                raise DataError(table.counts.first_fault + advice * (not _lacks_all_text(table)))
            yield table


def _table_of(part: Part, console: Console) -> PartTable:
    """The table of a finished part, which is cleaned again if it is damaged."""
    try:
        return PartTable.of(part)
    except Damaged as error:
        console.say(f"{error.what}; it is cleaned again")
        error.path.unlink(missing_ok=True)
        write_part(*with_line_numbers([part]))
        return PartTable.of(part)


def _lacks_all_text(table: PartTable) -> bool:
    """Whether the field of the text is missing altogether: no record of a part has it."""
    counts = table.counts
    has_none = counts.num_empty == 0 and len(table.content_hashes) == 0
    return has_none and 0 < counts.num_lacking_text == counts.num_broken


def _check_texts_are_found(
    sources: tuple[ListedSource, ...], parts: list[Part], tables: list[PartTable]
) -> None:
    """Raise if no record of a source has the field that its text is looked for under."""
    for number in range(len(sources)):
        of_source = [t for p, t in zip(parts, tables, strict=True) if p.source == number]
        has_text = any(len(t.content_hashes) or t.counts.num_empty for t in of_source)
        lacking = next((t for t in of_source if _lacks_all_text(t)), None)
        if lacking is not None and not has_text:
            place, detail = lacking.counts.named_records[0]
            raise DataError(f"{place}: {detail}, and no record of the source has it")


class _Examined(NamedTuple):
    """What the text of a part says.

    Attributes:
        overlaps: number among those examined and words, of documents that share text.
        signatures: (n, num_perm) for near-duplicates.
    """

    overlaps: list[tuple[int, str]]
    signatures: NDArray[np.uint32]


def _examine(
    item: tuple[Part, NDArray[np.int64]],
    shared: tuple[OverlapIndex | None, NearDuplicatesConfig | None],
) -> _Examined:
    (part, rows), (index, near) = item, shared
    overlaps: list[tuple[int, str]] = []
    found = np.empty((len(rows), near.num_perm if near else 0), dtype=np.uint32)
    for number, (_, text) in enumerate(read_part(part, rows)):
        words = index.first_shared(text) if index is not None else None
        if words is not None:
            overlaps.append((number, words))
        if near is not None:
            found[number] = signature(text, near)
    return _Examined(overlaps, found)


def _leave_out_by_text(
    corpus: Corpus, references: list[Part], config: CorpusConfig, folder: Path, console: Console
) -> None:
    """Leave out documents that overlap with the references, then near-duplicates."""
    table, near = corpus.table, config.near_duplicates
    index = _index_references(corpus, references, config, console)
    kept = table.kept()
    items = [
        (part, rows[begin : begin + _EXAMINED_AT_ONCE])
        for number, part in enumerate(corpus.parts)
        for rows in [table.kept_rows(number)]
        for begin in range(0, len(rows), _EXAMINED_AT_ONCE)
    ]
    examined = ordered_map(
        _examine,
        items,
        (index, near),
        num_processes=num_processors() if table.num_characters.sum() > _SMALL_BYTES else 1,
    )
    # On disk: signatures are larger than all else that is known of a document.
    with tempfile.TemporaryFile(dir=folder) as file:
        overlaps: list[tuple[int, str]] = []
        first = 0
        counted = console.counted(examined, total=len(items), unit="block", what="comparing texts")
        for (_, rows), found in zip(items, counted, strict=True):
            overlaps += [(first + number, words) for number, words in found.overlaps]
            file.write(found.signatures.tobytes())
            first += len(rows)
        numbers = np.asarray([number for number, _ in overlaps], dtype=np.int64)
        table.leave_out(kept[numbers], "overlap")
        names = _names(corpus, kept[numbers][:_MAX_NAMED_OVERLAPS])
        corpus.funnel.overlaps = [
            Overlap(names[int(kept[number])], words)
            for number, words in overlaps[:_MAX_NAMED_OVERLAPS]
        ]
        file.flush()
        if near is not None and len(kept):
            shape = (len(kept), near.num_perm)
            rows = np.memmap(file, dtype=np.uint32, mode="r", shape=shape)
            _leave_out_near_duplicates(corpus, rows, kept, config, near)


def _index_references(
    corpus: Corpus, references: list[Part], config: CorpusConfig, console: Console
) -> OverlapIndex | None:
    """What `exclude_overlap_with` says must not be learned."""
    if not references:
        return None
    sizes = [len(table.content_hashes) for table in _clean(references, config, console)]
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
    corpus: Corpus,
    rows: NDArray[np.uint32],
    documents: NDArray[np.int64],
    config: CorpusConfig,
    near: NearDuplicatesConfig,
) -> None:
    """Leave out near-duplicates of earlier documents; those of validation are the earliest.

    So that the validation set follows from its own documents alone, and nothing nearly equal to
    one of them is trained on.

    Args:
        corpus: the corpus.
        rows: (n, num_perm) signatures.
        documents: (n,) whose they are.
        config: the section `corpus`.
        near: its section `near_duplicates`.
    """
    table = corpus.table
    order = np.flatnonzero(table.outcomes[documents] == OUTCOMES.index("kept"))
    if config.split_by == "document" and len(order) > 1:
        hashes = table.content_hashes[documents[order]]
        on_validation = validation_mask(hashes, table.sources_of(documents[order]), config)
        order = np.concatenate([order[on_validation], order[~on_validation]])
    found = find_near_duplicates(rows, order, near.threshold)
    pairs = [(int(documents[pair.document]), int(documents[pair.kept])) for pair in found]
    table.leave_out(np.asarray([left_out for left_out, _ in pairs], np.int64), "near_duplicate")
    # Those nearest to the threshold are the ones to judge it by.
    shown = sorted(zip(found, pairs, strict=True), key=lambda both: both[0].similarity)
    shown = shown[:_MAX_NAMED_PAIRS]
    names = _names(corpus, np.unique([document for _, pair in shown for document in pair]))
    corpus.funnel.near_duplicates = [
        Pair(names[left_out], names[first], round(pair.similarity, 4))
        for pair, (left_out, first) in shown
    ]


def _names(corpus: Corpus, documents: NDArray[np.int64]) -> dict[int, str]:
    """Source and id of some documents, given in order."""
    names: dict[int, str] = {}
    offsets = corpus.table.part_offsets
    numbers = np.searchsorted(offsets, documents, side="right") - 1
    for number in np.unique(numbers).tolist():
        part, here = corpus.parts[number], documents[numbers == number]
        rows = read_part(part, here - offsets[number])
        source = corpus.sources[part.source].name
        for document, (id_, _) in zip(here.tolist(), rows, strict=True):
            names[document] = f"{source}: {id_}"
    return names


def _count_files(
    sources: tuple[ListedSource, ...], parts: list[Part], tables: list[PartTable]
) -> Funnel:
    """The funnel up to where documents are cleaned."""
    names = [listed.source.name for listed in sources]
    funnel = Funnel({name: SourceFunnel() for name in names})
    for name, listed in zip(names, sources, strict=True):
        funnel.sources[name].endings_not_read.update(listed.endings_not_read)
        for place in listed.passed_over:
            funnel.sources[name].files_left_out[place.reason] += 1
            funnel.files_left_out.append(
                {
                    "path": printable(place.path),
                    "reason": place.reason,
                    "detail": printable(place.detail),
                }
            )
    for part, table in zip(parts, tables, strict=True):
        counts, source_funnel = table.counts, funnel.sources[names[part.source]]
        source_funnel.files_read += counts.files_read
        source_funnel.files_left_out += counts.files_left_out
        source_funnel.encodings += counts.encodings
        source_funnel.encodings_guessed += counts.encodings_guessed
        source_funnel.documents_left_out += Counter(
            broken=counts.num_broken, empty=counts.num_empty
        )
        source_funnel.characters_found += counts.num_characters
        source_funnel.cleaned_away.update(counts.removed)
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
    for named in (funnel.files_left_out, funnel.guesses, funnel.records_broken):
        del named[_MAX_NAMED_FILES:]
    return funnel


def _count_documents(corpus: Corpus) -> None:
    """The rest of the funnel: what became of the cleaned documents of each source."""
    table = corpus.table
    for number, source in enumerate(corpus.sources):
        place = table.of_source(number)
        outcomes = table.outcomes[place]
        documents = np.bincount(outcomes, minlength=len(OUTCOMES))
        characters = np.bincount(
            outcomes, weights=table.num_characters[place], minlength=len(OUTCOMES)
        )
        counts = corpus.funnel.sources[source.name]
        for outcome, num_documents, num_characters in zip(
            OUTCOMES, documents.tolist(), characters.tolist(), strict=True
        ):
            if outcome == "kept":
                counts.documents_kept = num_documents
                counts.characters_kept = int(num_characters)
            elif num_documents:
                counts.documents_left_out[outcome] = num_documents
                counts.characters_left_out[outcome] = int(num_characters)


def _check_something_is_left(corpus: Corpus, key: str) -> None:
    """Raise if a side has no document, with what to change."""
    on_training = "train" if key == SOURCES_KEY else "measure"  # general text is not trained on
    for role, where, purpose in (
        ("validation", "corpus.validation_sources", "validate"),
        ("train", key, on_training),
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
