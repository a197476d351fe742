"""The list of what makes up the corpus: files and datasets, in a fixed order."""

import os
from collections import Counter
from dataclasses import dataclass, field

import xxhash

from mlmtune.corpus.decoding import Span
from mlmtune.corpus.hub_datasets import ListedDataset
from mlmtune.corpus.remote import is_remote
from mlmtune.corpus.sources import CorpusSource


@dataclass(frozen=True, slots=True)
class ListedFile:
    """A file to read.

    Attributes:
        id: the path below the root of the source, with `/`; it is unique within the source.
        path: the path of the file, or its URL.
        size: the number of bytes; 0 if a server does not say.
        version: changes with the content: the time of the last change, a commit, an entity tag.
        span: which of its lines to read; None for all.
    """

    id: str
    path: str
    size: int
    version: str
    span: Span | None = None


@dataclass(frozen=True, slots=True)
class PassedOver:
    """Something that matches but is not read, such as a pipe or a link that leads out."""

    path: str
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class ListedSource:
    """The files of one source, or its dataset.

    Attributes:
        source: the source that they belong to.
        files: the files to read, sorted by id.
        passed_over: what matches but cannot be read.
        dataset: the dataset to read, if the source is one; it then has no files.
        endings_not_read: the number of files in its folders by each ending that is not read.
    """

    source: CorpusSource
    files: tuple[ListedFile, ...]
    passed_over: tuple[PassedOver, ...] = ()
    dataset: ListedDataset | None = None
    endings_not_read: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class Listing:
    """Everything that the corpus consists of.

    Attributes:
        sources: the sources of validation text, then those of training text.
        references: the sources of `exclude_overlap_with`.
    """

    sources: tuple[ListedSource, ...]
    references: tuple[ListedSource, ...] = ()

    def place(self) -> str:
        """Return a digest of the paths of all files."""
        state = xxhash.xxh3_128()
        for source in (*self.sources, *self.references):
            for file in source.files:
                state.update(file.path.encode("utf-8", "surrogateescape") + b"\0")
        return state.hexdigest()

    def signature(self) -> str:
        """Return a digest of every file's source, id, size, version, and whether it can be read.

        Paths are not part of it, because another machine may keep the same files elsewhere.
        """
        state = xxhash.xxh3_128()
        for source in (*self.sources, *self.references):
            record = source.source
            state.update(f"{record.name}\0{record.is_validation}\0{len(source.files)}\0".encode())
            for file in source.files:
                state.update(describe_file(file))
            for entry in source.passed_over:
                state.update(f"{entry.path}\0{entry.reason}\0".encode("utf-8", "surrogateescape"))
            if source.dataset is not None:
                state.update(source.dataset.signature.encode())
        return state.hexdigest()


def describe_file(file: ListedFile) -> bytes:
    """Return what changes when the content of a file does, for a digest."""
    # A file whose permissions are fixed keeps its size and time.
    is_readable = is_remote(file.path) or os.access(file.path, os.R_OK)
    line = f"{file.id}\0{file.size}\0{file.version}\0{is_readable}\0"
    return line.encode("utf-8", "surrogateescape")
