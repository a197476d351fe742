"""Parts: the cleaned documents of some files, kept as one Parquet file each.

Cleaning is the slowest thing done to a corpus, so it is done once, by all processors, a part at a
time. A part's name follows from its files, their versions, and how they are cleaned; it is there
when it is finished, or it is not. So what was interrupted goes on with the parts that are missing,
and where files are added or changed, only their parts are made anew.

A part is a plain Parquet file that any tool opens, with the columns

    id              the document within its source
    text            cleaned, never empty
    content_hash    uint64 of the normalised text
    num_characters  int32 of the text
    letter_share    float, letters among the characters that are not white space

and, under the key `mlmtune` of its metadata, as JSON: a `PartCounts`, a hash of each of the three
columns of numbers, and one of the ids and texts of each row group. Parquet's own checksums are of
pages, and leave out what says where a page is and how it is read.
"""

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash
from numpy.typing import NDArray

from mlmtune.corpus.faults import BrokenRecord
from mlmtune.corpus.hub_datasets import ListedDataset
from mlmtune.corpus.listing import ListedFile
from mlmtune.corpus.source_reader import (
    CleanDocument,
    FileEvent,
    FileOutcome,
    SourceReader,
    Tally,
)
from mlmtune.files import whole_file
from mlmtune.integrity import Damaged, digest, sealed, unsealed
from mlmtune.printable import printable
from mlmtune.redaction import public_location

_ROW_GROUP_CHARACTERS = 1 << 21
ROW_GROUP_DOCUMENTS = 4096
_MAX_NAMED = 100
_METADATA_KEY = b"mlmtune"
_PARQUET_MARK = b"PAR1"
FORMAT_VERSION = 2
_NUMBERS = ("content_hash", "num_characters", "letter_share")

_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("text", pa.large_string()),
        ("content_hash", pa.uint64()),
        ("num_characters", pa.int32()),
        ("letter_share", pa.float32()),
    ]
)


@dataclass
class PartCounts:
    """What became of a part's files and characters.

    Attributes:
        files_read: files that gave documents.
        files_left_out: files that gave none, by reason.
        encodings: what the files were decoded by, by number of files.
        encodings_guessed: those of them that other encodings might have been as well.
        named_guesses: path and encoding of the first of these files.
        named_files: path, reason and detail of the first of them.
        num_broken: records that could not be read.
        num_lacking_text: those of them without the field that the text is looked for under.
        named_records: place and detail of the first of them.
        first_fault: what `on_error: fail` says of the part; None where nothing is broken.
        misread: what is said whatever `on_error` is: a file that cannot be read in this way at all.
        num_empty: documents of which cleaning left nothing.
        num_characters: before cleaning.
        removed: characters that cleaning took away, by step.
    """

    files_read: int = 0
    files_left_out: Counter[str] = field(default_factory=Counter)
    encodings: Counter[str] = field(default_factory=Counter)
    encodings_guessed: Counter[str] = field(default_factory=Counter)
    named_guesses: list[tuple[str, str]] = field(default_factory=list)
    named_files: list[tuple[str, str, str]] = field(default_factory=list)
    num_broken: int = 0
    num_lacking_text: int = 0
    named_records: list[tuple[str, str]] = field(default_factory=list)
    first_fault: str | None = None
    misread: str | None = None
    num_empty: int = 0
    num_characters: int = 0
    removed: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Part:
    """Some files of a source, or the dataset that it is, and the file their documents go to.

    Attributes:
        path: of the Parquet file, once it is finished.
        source: index of the source in the listing.
        reader: how to read and clean.
        files: what to read; empty for a dataset.
        dataset: in the place of files.
    """

    path: Path
    source: int
    reader: SourceReader
    files: tuple[ListedFile, ...]
    dataset: ListedDataset | None

    @property
    def num_bytes(self) -> int:
        """Size of what is to be read, as far as it is known."""
        if self.dataset is not None:
            return self.dataset.num_bytes or 0
        return sum(file.size for file in self.files)

    def is_finished(self) -> bool:
        """Whether its documents are there, whole: a Parquet file ends with its mark."""
        try:
            with self.path.open("rb") as file:
                file.seek(-len(_PARQUET_MARK), os.SEEK_END)
                return file.read() == _PARQUET_MARK
        except OSError:
            return False


def write_part(part: Part, _: Any = None) -> None:
    """Read and clean a part's files, unless it is finished.

    Raises:
        HubError: a remote file or a dataset cannot be fetched.
        OSError: the part cannot be written.
    """
    if part.is_finished():
        return
    part.path.parent.mkdir(parents=True, exist_ok=True)
    counts = PartCounts()
    numbers = {name: xxhash.xxh3_128() for name in _NUMBERS}
    texts: list[tuple[int, str]] = []
    with (
        whole_file(part.path, shared=True) as temporary,
        pq.ParquetWriter(
            temporary, _SCHEMA, compression="zstd", use_dictionary=False, write_statistics=False,
            write_page_checksum=True,
        ) as writer,
    ):  # fmt: skip
        for documents in _row_groups(_documents(part, counts)):
            batch = to_record_batch(documents)
            writer.write_batch(batch)
            texts.append((len(documents), _digest_of_texts(batch)))
            for name, state in numbers.items():
                state.update(np.from_dlpack(batch[name]).data)
        digests = [state.hexdigest() for state in numbers.values()]
        content = {"counts": vars(counts), "numbers": digests, "texts": texts}
        writer.add_key_value_metadata({_METADATA_KEY: sealed(content)})


def _documents(part: Part, counts: PartCounts) -> Iterator[CleanDocument]:
    """The documents of a part that are not empty; all else is counted."""
    tally = Tally(removed=counts.removed)
    for place, event in _events(part, tally):
        match event:
            case CleanDocument(text=""):
                counts.num_empty += 1
            case CleanDocument():
                yield event
            case BrokenRecord():
                where = f"{place}{event.place}"
                counts.num_broken += 1
                counts.num_lacking_text += event.lacks_text
                counts.first_fault = counts.first_fault or f"{where}: {event.message}"
                if len(counts.named_records) < _MAX_NAMED:
                    counts.named_records.append((where, event.message))
            case FileOutcome(reason=None, encoding=encoding):
                counts.files_read += 1
                if encoding is not None:
                    counts.encodings[encoding.name] += 1
                if encoding is not None and encoding.is_guess:
                    counts.encodings_guessed[encoding.name] += 1
                    if len(counts.named_guesses) < _MAX_NAMED:
                        counts.named_guesses.append((place, encoding.name))
            case FileOutcome(reason=str(reason)):
                counts.files_left_out[reason] += 1
                if event.is_misread:
                    counts.misread = counts.misread or f"{place}: {event.detail}"
                if event.broken:
                    fault = f"{place}: {reason}: {event.detail}"
                    counts.first_fault = counts.first_fault or fault
                if len(counts.named_files) < _MAX_NAMED:
                    counts.named_files.append((place, reason, event.detail))
    counts.num_characters = tally.num_characters


def _events(part: Part, tally: Tally) -> Iterator[tuple[str, FileEvent]]:
    """What is said of each file, with where a user finds it."""
    source = part.reader.source
    if part.dataset is not None:
        for event in part.reader.read_dataset(part.dataset, tally):
            yield str(source.dataset), event
    for file in part.files:
        path = f"{source.git}: {file.id}" if source.git else public_location(file.path)
        place = printable(path)
        for event in part.reader.read_file(file, tally, part.path.parent):
            yield place, event


def _row_groups(documents: Iterator[CleanDocument]) -> Iterator[list[CleanDocument]]:
    """Few enough at once that memory stays flat; at least one group, so that a file is written."""
    group: list[CleanDocument] = []
    num_characters = 0
    for document in documents:
        group.append(document)
        num_characters += len(document.text)
        if num_characters >= _ROW_GROUP_CHARACTERS or len(group) >= ROW_GROUP_DOCUMENTS:
            yield group
            group, num_characters = [], 0
    yield group


def to_record_batch(documents: list[CleanDocument]) -> pa.RecordBatch:
    columns = [
        [printable(document.id) for document in documents],
        [document.text for document in documents],
        [document.content_hash for document in documents],
        [len(document.text) for document in documents],
        [document.letter_share for document in documents],
    ]
    arrays = [pa.array(c, type=f.type) for c, f in zip(columns, _SCHEMA, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=_SCHEMA)


def _digest_of_texts(batch: pa.RecordBatch | pa.Table) -> str:
    """The hash of the ids and texts of a row group."""
    state = xxhash.xxh3_128()
    for name, offset in (("id", np.int32), ("text", np.int64)):
        column = batch[name]
        values = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
        _, offsets, content = values.buffers()
        borders: NDArray[Any] = np.frombuffer(offsets, offset)[
            values.offset : values.offset + len(values) + 1
        ]
        state.update((borders - borders[:1]).data)
        if len(values):
            state.update(memoryview(content)[int(borders[0]) : int(borders[-1])])
        state.update(str(values.null_count).encode())
    return state.hexdigest()


@contextmanager
def _opened(part: Part) -> Iterator[tuple[pq.ParquetFile, dict[str, Any]]]:
    """A finished part's file, and what its metadata says under our key.

    Raises:
        Damaged: the file cannot be read, or the caller finds that it is not what was written.
    """
    try:
        with pq.ParquetFile(part.path, page_checksum_verification=True) as file:
            if not file.schema_arrow.equals(_SCHEMA):
                raise ValueError("the columns have other types")
            yield file, unsealed(file.metadata.metadata[_METADATA_KEY])
    except Exception as error:  # a damaged file may raise anything
        # What the operating system says has a number; what is wrong inside the file has none.
        if isinstance(error, MemoryError) or getattr(error, "errno", None) is not None:
            raise
        raise Damaged(
            part.path, "a part of the cleaned corpus is damaged",
            "delete it and run the same command again, which makes it anew",
        ) from error  # fmt: skip


class PartTable(NamedTuple):
    """What is known of a finished part's documents, in their order.

    Attributes:
        counts: of its files and characters.
        content_hashes: (D,) uint64.
        num_characters: (D,) int32.
        letter_shares: (D,) float32.
    """

    counts: PartCounts
    content_hashes: NDArray[np.uint64]
    num_characters: NDArray[np.int32]
    letter_shares: NDArray[np.float32]

    @classmethod
    def of(cls, part: Part) -> Self:
        """Read it; no text is touched.

        Raises:
            Damaged: it is not what was written.
        """
        with _opened(part) as (file, content):
            table = file.read(list(_NUMBERS))
            # Their own to_numpy() imports pandas, and a signal's exception is lost in there.
            arrays: list[Any] = [
                np.from_dlpack(column.combine_chunks()) for column in table.columns
            ]
            if [digest(array.data) for array in arrays] != content["numbers"]:
                raise ValueError("the numbers do not match their hashes")
            counts = PartCounts(**content["counts"])
        for name in ("files_left_out", "encodings", "encodings_guessed", "removed"):
            setattr(counts, name, Counter(getattr(counts, name)))
        return cls(counts, *arrays)


def read_part(part: Part, rows: NDArray[np.int64]) -> Iterator[tuple[str, str]]:
    """Id and text of some documents of a finished part.

    Args:
        part: which.
        rows: their numbers, in order.

    Raises:
        Damaged: the part is not what was written.
    """
    with _opened(part) as (file, content):
        first = 0
        for group, (num_rows, expected) in enumerate(content["texts"]):
            end = first + num_rows
            here = rows[np.searchsorted(rows, first) : np.searchsorted(rows, end)]
            if len(here):
                table = file.read_row_group(group, ["id", "text"])
                if _digest_of_texts(table) != expected:
                    raise ValueError("the texts do not match their hash")
                found = [
                    (table["id"][row].as_py(), table["text"][row].as_py())
                    for row in (here - first).tolist()
                ]
                # A document may be so large that two copies of it are much, and Arrow keeps what it
                # no longer uses, also of the time when the part was written.
                del table
                pa.default_memory_pool().release_unused()
                while found:
                    yield found.pop(0)
            first = end
