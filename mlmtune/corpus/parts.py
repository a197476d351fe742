"""Parts: Parquet files with the cleaned documents of some files each.

Cleaning is the slowest step of preparing a corpus, so each part is cleaned once, in parallel. The
name of a part follows from its files, their versions, and how they are cleaned, and only a finished
part has its name. So an interrupted run continues with the missing parts, and if files are added or
changed, only their parts are made again.

Any tool opens a part. Its columns are those of `_SCHEMA`. Its metadata has, under the key
`mlmtune`, a JSON object with a `PartCounts`, a hash of each column of numbers, and a hash of the
ids and texts of each row group. The checksums of Parquet are not enough, because they do not cover
the metadata that says where a page is and how it is read.
"""

import os
import platform
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash
from numpy.typing import NDArray

from mlmtune.corpus.document import Document
from mlmtune.corpus.hub_datasets import ListedDataset
from mlmtune.corpus.languages import LEAST_PROBABILITY
from mlmtune.corpus.listing import ListedFile
from mlmtune.corpus.part_files import PartFiles
from mlmtune.corpus.records import BrokenRecord, FileLeftOut
from mlmtune.corpus.remote import is_remote
from mlmtune.corpus.source_reader import CleanDocument, FileEvent, FileRead, SourceReader, Tally
from mlmtune.errors import DataError, HubError
from mlmtune.integrity import Damaged, digest, sealed, unsealed
from mlmtune.printable import printable
from mlmtune.redaction import public_location

DocumentT = TypeVar("DocumentT", Document, CleanDocument)
Named = TypeVar("Named", bound=tuple[str, ...])

_ROW_GROUP_CHARACTERS = 1 << 21
ROW_GROUP_DOCUMENTS = 4096
_MAX_NAMED = 100
_METADATA_KEY = b"mlmtune"
FORMAT_VERSION = 3
_NUMBERS = ("content_hash", "num_characters", "letter_share", "language_probability")

_SCHEMA = pa.schema(
    [
        ("id", pa.string()),  # unique within the source
        ("text", pa.large_string()),  # cleaned, never empty
        ("content_hash", pa.uint64()),  # of the normalised text
        ("num_characters", pa.int32()),
        ("letter_share", pa.float32()),  # among the characters that are not white space
        ("language_probability", pa.float32()),  # of being in one of corpus.languages
    ]
)


@dataclass
class PartCounts:
    """The counts of a part's files, records and characters.

    Attributes:
        files_left_out: Files by the reason that they are left out for.
        encodings: Files by encoding.
        encodings_guessed: Files that other encodings would fit as well, by encoding.
        named_guesses: The path and encoding of the first of these files.
        named_files: The path, reason and detail of the first files that were left out.
        num_broken: Records that could not be read.
        num_lacking_text: Those of them that have no text in the field that must hold it.
        named_records: The position and detail of the first broken records.
        first_fault: The error with `on_error: fail`; None if nothing is broken.
        misread: The error of a file that cannot be read with these settings; None without one.
        languages: Documents that are not empty, by their language if it was recognised.
        named_languages: The id and language of the first documents in other languages.
        num_empty: Documents that are empty after cleaning.
        num_characters: Characters before cleaning.
        removed: Characters that cleaning removed, by step.
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
    languages: Counter[str] = field(default_factory=Counter)
    named_languages: list[tuple[str, str]] = field(default_factory=list)
    num_empty: int = 0
    num_characters: int = 0
    removed: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Part:
    """Some files of a source, or its dataset, and the file that their documents are written to.

    Attributes:
        place: Where the Parquet file is.
        name: Its name there, under which it exists once it is finished.
        source: The index of the source in the listing.
        files: The files to read; empty for a dataset.
    """

    place: PartFiles
    name: str
    source: int
    reader: SourceReader
    files: tuple[ListedFile, ...]
    dataset: ListedDataset | None

    @property
    def num_bytes(self) -> int:
        """The size of the files in bytes, as far as it is known."""
        if self.dataset is not None:
            return self.dataset.num_bytes or 0
        return sum(file.size for file in self.files)

    @property
    def path(self) -> Path:
        """The file, if it is in a folder."""
        return self.place.folder / self.name

    def is_finished(self) -> bool:
        """Whether the file is complete."""
        return self.place.is_finished(self.name)


class DamagedPart(Damaged):
    """A part is not what was written."""

    def __init__(self, part: Part) -> None:
        super().__init__(
            part.place.shown(part.name), "a part of the cleaned corpus is damaged",
            "delete it and run the same command again, which makes it again",
        )  # fmt: skip
        self.args = (part,)
        self.part = part

    def discard(self) -> None:
        """Delete the part, so that it is made again."""
        self.part.place.delete(self.part.name)


def write_part(part: Part, _: Any = None) -> None:
    """Read and clean the files of a part, unless it is finished.

    Raises:
        HubError: A remote file or a dataset cannot be fetched.
        OSError: The part cannot be written.
    """
    if part.is_finished():
        return
    counts = PartCounts()
    numbers = {name: xxhash.xxh3_128() for name in _NUMBERS}
    texts: list[tuple[int, str]] = []
    with (
        part.place.writing(part.name) as temporary,
        pq.ParquetWriter(
            temporary, _SCHEMA, compression="zstd", use_dictionary=False, write_statistics=False,
            write_page_checksum=True,
        ) as writer,
    ):  # fmt: skip
        for documents in row_groups(_documents(part, counts)):
            batch = to_record_batch(documents)
            writer.write_batch(batch)
            texts.append((len(documents), _digest_of_texts(batch)))
            for name, state in numbers.items():
                state.update(np.from_dlpack(batch[name]).data)
        digests = [state.hexdigest() for state in numbers.values()]
        content = {"counts": vars(counts), "numbers": digests, "texts": texts}
        writer.add_key_value_metadata({_METADATA_KEY: sealed(content)})


def write_part_elsewhere(part: Part, _: Any = None) -> None:
    """Do what `write_part` does on another machine, which must see the files that were listed.

    Raises:
        DataError: A file is not there, or is another one, so that it would count as unreadable.
        MlmtuneError: See `write_part`.
    """
    for file in part.files:
        if is_remote(file.path):
            continue
        try:
            found = os.stat(file.path)
        except OSError as error:
            raise DataError(
                f"{printable(file.path)}: cannot be seen on {platform.node()} ({error.strerror}); "
                "keep the text in a folder that all machines share"
            ) from error
        version = file.version if file.span is None else file.version.split()[0]
        if part.reader.source.git is None and str(found.st_mtime_ns) != version:
            raise DataError(
                f"{printable(file.path)}: {platform.node()} has another version of it than the "
                "machine that submitted the work; keep the text in a folder that all machines "
                "share, or copy it with its times (rsync -a)"
            )
    write_part(part)


def _documents(part: Part, counts: PartCounts) -> Iterator[CleanDocument]:
    """Yield the documents of a part that are not empty, and count everything else."""
    tally = Tally(removed=counts.removed)
    for path, event in _events(part, tally):
        match event:
            case CleanDocument(text=""):
                counts.num_empty += 1
            case CleanDocument(recognition=recognition):
                if recognition.language:
                    counts.languages[recognition.language] += 1
                if recognition.probability < LEAST_PROBABILITY:
                    named = (printable(event.id), recognition.language)
                    _append(counts.named_languages, named)
                yield event
            case BrokenRecord():
                where = f"{path}{event.position}"
                counts.num_broken += 1
                counts.num_lacking_text += event.lacks_text
                counts.first_fault = counts.first_fault or f"{where}: {event.message}"
                _append(counts.named_records, (where, event.message))
            case FileRead(encoding):
                counts.files_read += 1
                if encoding is not None:
                    counts.encodings[encoding.name] += 1
                if encoding is not None and encoding.is_guess:
                    counts.encodings_guessed[encoding.name] += 1
                    _append(counts.named_guesses, (path, encoding.name))
            case FileLeftOut(reason=reason):
                counts.files_left_out[reason] += 1
                if event.is_misread:
                    counts.misread = counts.misread or f"{path}: {event.detail}"
                if event.broken:
                    fault = f"{path}: {reason}: {event.detail}"
                    counts.first_fault = counts.first_fault or fault
                _append(counts.named_files, (path, reason, event.detail))
    counts.num_characters = tally.num_characters


def _append(named: list[Named], entry: Named) -> None:
    if len(named) < _MAX_NAMED:
        named.append(entry)


def _events(part: Part, tally: Tally) -> Iterator[tuple[str, FileEvent]]:
    """Yield the events of each file, with its path for reports."""
    source = part.reader.source
    if part.dataset is not None:
        for event in part.reader.read_dataset(part.dataset, tally):
            yield str(source.dataset), event
    for file in part.files:
        location = f"{source.git}: {file.id}" if source.git else public_location(file.path)
        for event in part.reader.read_file(file, tally, part.place.folder):
            yield printable(location), event


def row_groups(documents: Iterator[DocumentT]) -> Iterator[list[DocumentT]]:
    """Group documents, so that few are in memory; the last group may be empty."""
    group: list[DocumentT] = []
    num_characters = 0
    for document in documents:
        group.append(document)
        num_characters += len(document.text)
        if num_characters >= _ROW_GROUP_CHARACTERS or len(group) >= ROW_GROUP_DOCUMENTS:
            yield group
            group, num_characters = [], 0
    yield group


def to_record_batch(documents: list[CleanDocument]) -> pa.RecordBatch:
    numbers: list[NDArray[Any]] = [
        np.asarray([document.content_hash for document in documents], np.uint64),
        np.asarray([len(document.text) for document in documents], np.int32),
        np.asarray([document.letter_share for document in documents], np.float32),
        np.asarray([document.recognition.probability for document in documents], np.float32),
    ]
    buffers = [
        _strings([printable(document.id).encode() for document in documents], np.int32),
        _strings([document.text.encode() for document in documents], np.int64),
        *([values] for values in numbers),
    ]
    # Not by pa.array(), which imports pandas: that takes 0.4 s and 50 MB in each process.
    arrays = [
        pa.Array.from_buffers(field.type, len(documents), [None, *map(pa.py_buffer, columns)])
        for field, columns in zip(_SCHEMA, buffers, strict=True)
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=_SCHEMA)


def _strings(encoded: list[bytes], offset: type[np.signedinteger[Any]]) -> list[Any]:
    """Return the borders of strings in their content, and the content."""
    lengths = np.fromiter(map(len, encoded), dtype=offset, count=len(encoded))
    borders = np.concatenate([np.zeros(1, offset), np.cumsum(lengths, dtype=offset)])
    return [borders, b"".join(encoded)]


def _digest_of_texts(batch: pa.RecordBatch | pa.Table) -> str:
    """Return the hash of the ids and texts of a row group."""
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
    """Open the file of a finished part, and read our JSON object in its metadata.

    Raises:
        Damaged: The file cannot be read, or the caller raises an error about its content.
    """
    try:
        with (
            part.place.reading(part.name) as path,
            pq.ParquetFile(path, page_checksum_verification=True) as file,
        ):
            if not file.schema_arrow.equals(_SCHEMA):
                raise ValueError("the columns have other types")
            yield file, unsealed(file.metadata.metadata[_METADATA_KEY])
    except Exception as error:  # a damaged file may raise anything
        # Errors of the operating system have a number; errors about the content have none.
        if isinstance(error, MemoryError | HubError) or getattr(error, "errno", None) is not None:
            raise
        raise DamagedPart(part) from error


class PartTable(NamedTuple):
    """The counts of a finished part, and the (D,) numbers of its D documents, in their order."""

    counts: PartCounts
    content_hashes: NDArray[np.uint64]
    num_characters: NDArray[np.int32]
    letter_shares: NDArray[np.float32]
    language_probabilities: NDArray[np.float32]

    @classmethod
    def of(cls, part: Part) -> Self:
        """Read the numbers of a part, and none of its texts.

        Raises:
            Damaged: The part is damaged.
        """
        with _opened(part) as (file, content):
            table = file.read(list(_NUMBERS))
            # Arrow's to_numpy() imports pandas, which swallows the exception of a signal.
            arrays: list[Any] = [
                np.from_dlpack(column.combine_chunks()) for column in table.columns
            ]
            if [digest(array.data) for array in arrays] != content["numbers"]:
                raise ValueError("the numbers do not match their hashes")
            counts = PartCounts(**content["counts"])
        for name, empty in vars(PartCounts()).items():
            if isinstance(empty, Counter):
                setattr(counts, name, Counter(getattr(counts, name)))  # JSON has no counters
        return cls(counts, *arrays)


class Rows(NamedTuple):
    """Some documents of a finished part, as another process or machine needs to know them.

    Attributes:
        rows: (n,) The numbers of the rows, ascending.
        content_hashes: (n,) The hashes of their normalised texts.
    """

    part: Part
    rows: NDArray[np.int64]
    content_hashes: NDArray[np.uint64]


def read_part(part: Part, rows: NDArray[np.int64]) -> Iterator[tuple[str, str]]:
    """Yield the id and text of the documents in some rows of a finished part.

    Args:
        part: The part.
        rows: The numbers of the rows, ascending.

    Raises:
        Damaged: The part is damaged.
    """
    with _opened(part) as (file, content):
        first = 0
        for group, (num_rows, expected) in enumerate(content["texts"]):
            end = first + num_rows
            in_group = rows[np.searchsorted(rows, first) : np.searchsorted(rows, end)]
            if len(in_group):
                table = file.read_row_group(group, ["id", "text"])
                if _digest_of_texts(table) != expected:
                    raise ValueError("the texts do not match their hash")
                documents = [
                    (table["id"][row].as_py(), table["text"][row].as_py())
                    for row in (in_group - first).tolist()
                ]
                # Two copies of a large document may not fit, and Arrow keeps memory that it no
                # longer uses, also from when the part was written.
                del table
                pa.default_memory_pool().release_unused()
                while documents:
                    yield documents.pop(0)
            first = end
