"""The list of what makes up the corpus: files and datasets, in a fixed order."""

import os
from collections import Counter
from dataclasses import dataclass, field

import xxhash

from mlmtune.config import SourceConfig
from mlmtune.corpus.decoding import Span
from mlmtune.corpus.hub_datasets import ListedDataset
from mlmtune.corpus.remote import is_remote


@dataclass(frozen=True, slots=True)
class ListedFile:
    """A file that is to be read.

    Attributes:
        id: path below the source's root, with `/`; names the file within its source.
        path: where it is: a path, or a URL for `remote`.
        size: bytes; 0 where a server does not tell.
        version: changes with the content: time of the last change, commit, entity tag.
        span: which of its lines are meant; None for all of it.
    """

    id: str
    path: str
    size: int
    version: str
    span: Span | None = None


@dataclass(frozen=True, slots=True)
class PassedOver:
    """A place that was found and will not be read: a pipe, a link that leads out, ..."""

    path: str
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class ListedSource:
    """What one source holds.

    Attributes:
        config: the source in the config.
        name: its name in reports; no other source has it.
        validation: it is one of `validation_sources`.
        files: sorted by id.
        passed_over: what matched but cannot be read.
        dataset: in the place of files, where the source is a dataset.
        endings_not_read: how many files of its folders have an ending that is not read, by ending.
    """

    config: SourceConfig
    name: str
    validation: bool
    files: tuple[ListedFile, ...]
    passed_over: tuple[PassedOver, ...] = ()
    dataset: ListedDataset | None = None
    endings_not_read: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class Listing:
    """All that the corpus is made of.

    Attributes:
        sources: those of `validation_sources` first.
        references: those of `exclude_overlap_with`.
    """

    sources: tuple[ListedSource, ...]
    references: tuple[ListedSource, ...] = ()

    def place(self) -> str:
        """A digest of where the files are."""
        state = xxhash.xxh3_128()
        for source in (*self.sources, *self.references):
            for file in source.files:
                state.update(file.path.encode("utf-8", "surrogateescape") + b"\0")
        return state.hexdigest()

    def signature(self) -> str:
        """A digest of every file's source, id, size, version, and whether it may be read.

        Not of where it is: the same files may lie elsewhere on another machine.
        """
        state = xxhash.xxh3_128()
        for source in (*self.sources, *self.references):
            state.update(f"{source.name}\0{source.validation}\0{len(source.files)}\0".encode())
            for file in source.files:
                state.update(describe_file(file))
            for place in source.passed_over:
                state.update(f"{place.path}\0{place.reason}\0".encode("utf-8", "surrogateescape"))
            if source.dataset is not None:
                state.update(source.dataset.signature.encode())
        return state.hexdigest()


def describe_file(file: ListedFile) -> bytes:
    """What a file's content follows from, for a digest."""
    # A file whose permission is mended keeps its size and time.
    is_readable = is_remote(file.path) or os.access(file.path, os.R_OK)
    line = f"{file.id}\0{file.size}\0{file.version}\0{is_readable}\0"
    return line.encode("utf-8", "surrogateescape")
