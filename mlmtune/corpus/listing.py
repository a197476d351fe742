"""The list of the files and datasets of a corpus, in a fixed order."""

import os
from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

import xxhash

from mlmtune.corpus.decoding import Span
from mlmtune.corpus.formats import format_of
from mlmtune.corpus.hub_datasets import ListedDataset
from mlmtune.corpus.remote import is_remote
from mlmtune.corpus.sources import CorpusSource


@dataclass(frozen=True, slots=True)
class ListedFile:
    """A file to read.

    Attributes:
        id: The path below the root of the source, with `/`; it is unique within the source.
        path: The path of the file, or its URL.
        size: The number of bytes; 0 if a server does not say.
        version: Changes with the content: the time of the last change, a commit, an entity tag.
        span: Which of its lines to read; None for all.
    """

    id: str
    path: str
    size: int
    version: str
    span: Span | None = None


class PassedOver(NamedTuple):
    """A path that a source selects but that is not read, such as a pipe or a broken link."""

    path: str
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class ListedSource:
    """The files of one source, or its dataset.

    Attributes:
        files: The files to read, sorted by id; empty for a dataset.
        endings_not_read: The number of files in its folders by each ending that is not read.
    """

    source: CorpusSource
    files: tuple[ListedFile, ...]
    passed_over: tuple[PassedOver, ...] = ()
    dataset: ListedDataset | None = None
    endings_not_read: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class Listing:
    """The files of all sources of a corpus.

    Attributes:
        sources: The sources that the corpus consists of, in the order of `corpus_sources`.
        references: The sources of `exclude_overlap_with`.
    """

    sources: tuple[ListedSource, ...]
    references: tuple[ListedSource, ...] = ()

    def paths_digest(self) -> str:
        """Return a digest of the paths of all files."""
        state = xxhash.xxh3_128()
        for listed in (*self.sources, *self.references):
            for file in listed.files:
                state.update(file.path.encode("utf-8", "surrogateescape") + b"\0")
        return state.hexdigest()

    def signature(self) -> str:
        """Return a digest of every file's source, id, size, version, and whether it can be read.

        The versions of added formats are part of it, too.

        Paths are not part of it, because another machine may keep the same files elsewhere.
        """
        state = xxhash.xxh3_128()
        for listed in (*self.sources, *self.references):
            source = listed.source
            state.update(f"{source.name}\0{source.is_validation}\0{len(listed.files)}\0".encode())
            for file in listed.files:
                state.update(describe_file(file))
            for entry in listed.passed_over:
                state.update(f"{entry.path}\0{entry.reason}\0".encode("utf-8", "surrogateescape"))
            if listed.dataset is not None:
                state.update(listed.dataset.signature.encode())
            else:
                state.update(format_of(source.config.format).version.encode())
        return state.hexdigest()


def describe_file(file: ListedFile) -> bytes:
    """Return bytes that change when the content of a file changes, for a digest."""
    # A change of permissions keeps size and time, so readability is part of it.
    is_readable = is_remote(file.path) or os.access(file.path, os.R_OK)
    line = f"{file.id}\0{file.size}\0{file.version}\0{is_readable}\0"
    return line.encode("utf-8", "surrogateescape")
