"""TokenStore: a tokenized corpus on disk, memory-mapped and opened for reading.

`store_format` says which files it has; `store_writer` writes them.
"""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from mlmtune.errors import DataError
from mlmtune.tokens.store_format import (
    ARRAYS,
    DOCUMENT_ARRAYS,
    DOCUMENTS,
    Shard,
    map_tokens,
    read_document_arrays,
    read_manifest,
    shard_name,
    verify_large_files,
)
from mlmtune.tokens.sums import end_to_end

KEPT_CHARACTERS = 100
"""Unknown characters whose counts are kept."""


@dataclass(frozen=True)
class StoredSource:
    """A source of the corpus.

    Attributes:
        name: in reports.
        validation: it is one of `corpus.validation_sources`.
        num_tokens: of its documents that are in the store.
        num_unknown_tokens: those that stand for what the tokenizer does not know.
        num_words: those that begin a word.
    """

    name: str
    validation: bool
    num_tokens: int
    num_unknown_tokens: int
    num_words: int


@dataclass(frozen=True)
class TokenStore:
    """A tokenized corpus, opened for reading.

    A position is the number of a token in the store, whatever shard it is in.

    Attributes:
        shards: in order.
        lengths: (num_documents,) int64, tokens of each document.
        content_hashes: (num_documents,) uint64.
        num_characters: (num_documents,) int64.
        num_bytes: (num_documents,) int64, of the text in UTF-8.
        num_text_words: (num_documents,) int64, words of the text, as `cleaning.words` finds them:
            equal for every tokenizer.
        num_unknown_tokens: (num_documents,) int64, tokens that stand for what the tokenizer does
            not know.
        num_unknown_bytes: (num_documents,) int64, bytes of the text under them.
        num_unknown_words: (num_documents,) int64, words of the text under them.
        unknown_characters: how often each character that the tokenizer does not know occurs, the
            most frequent first; the most frequent ones alone.
        document_sources: (num_documents,) uint16, indices into `sources`.
        sources: where the documents come from.
        funnel: what was found, read and left out, as in corpus.json.
        made_of: what the store follows from, by name; see `tokenization.describe`.
        directory: where the store lies.
        num_documents_of_shards: how many documents each shard holds.
    """

    shards: tuple[Shard, ...]
    lengths: NDArray[np.int64]
    content_hashes: NDArray[np.uint64]
    num_characters: NDArray[np.int64]
    num_bytes: NDArray[np.int64]
    num_text_words: NDArray[np.int64]
    num_unknown_tokens: NDArray[np.int64]
    num_unknown_bytes: NDArray[np.int64]
    num_unknown_words: NDArray[np.int64]
    unknown_characters: dict[str, int]
    document_sources: NDArray[np.uint16]
    sources: tuple[StoredSource, ...]
    funnel: dict[str, Any]
    made_of: dict[str, Any]
    directory: Path
    num_documents_of_shards: tuple[int, ...]

    @classmethod
    def open(cls, directory: Path, notes: Path | None = None) -> Self:
        """Map a finished store, once it has been verified.

        Args:
            directory: where it lies.
            notes: where it is noted that its large files were verified since this machine was
                started; None to verify them whatever is noted.

        Raises:
            Damaged: it is of another version, or its files are not what its manifest says.
            DataError: there is none.
        """
        manifest = read_manifest(directory)
        folders = [directory / shard_name(number) for number in range(len(manifest["shards"]))]
        shards, tables = [], []
        for folder, entry in zip(folders, manifest["shards"], strict=True):
            tables.append(read_document_arrays(folder, entry, len(manifest["sources"])))
            shards.append(map_tokens(folder, entry, manifest["dtype"]))
        verify_large_files(directory, manifest, shards, notes)
        joined = {
            name: np.concatenate([np.empty(0, ARRAYS[name]), *(table[name] for table in tables)])
            for name in DOCUMENT_ARRAYS
        }
        return cls(
            shards=tuple(shards),
            lengths=joined["lengths"],
            content_hashes=joined["content_hashes"],
            num_characters=joined["num_characters"],
            num_bytes=joined["num_bytes"],
            num_text_words=joined["num_text_words"],
            num_unknown_tokens=joined["num_unknown_tokens"],
            num_unknown_bytes=joined["num_unknown_bytes"],
            num_unknown_words=joined["num_unknown_words"],
            unknown_characters=most_frequent(
                Counter(entry["unknown_characters"]) for entry in manifest["shards"]
            ),
            document_sources=joined["sources"],
            sources=tuple(StoredSource(**source) for source in manifest["sources"]),
            funnel=manifest["funnel"],
            made_of=manifest["made_of"],
            directory=directory,
            num_documents_of_shards=tuple(entry["num_documents"] for entry in manifest["shards"]),
        )

    def with_word_starts(
        self, word_starts: Sequence[NDArray[np.uint8]], num_words: Sequence[int]
    ) -> Self:
        """The same tokens with other words.

        Args:
            word_starts: packed bits of each shard.
            num_words: words of each source.
        """
        return replace(
            self,
            shards=tuple(
                replace(shard, word_starts=bits)
                for shard, bits in zip(self.shards, word_starts, strict=True)
            ),
            sources=tuple(
                replace(source, num_words=count)
                for source, count in zip(self.sources, num_words, strict=True)
            ),
        )

    @property
    def fingerprint(self) -> str:
        """Equal for stores of the same text, cleaned and tokenized in the same way."""
        return str(self.made_of["fingerprint"])

    @property
    def num_documents(self) -> int:
        """Number of documents, of both sides of the split."""
        return len(self.lengths)

    @cached_property
    def offsets(self) -> NDArray[np.int64]:
        """(num_documents + 1,) the position where each document begins, and the end."""
        return end_to_end(self.lengths)

    @property
    def num_tokens(self) -> int:
        """Number of body tokens."""
        return int(self.shard_offsets[-1])

    @cached_property
    def shard_offsets(self) -> NDArray[np.int64]:
        """(shards + 1,) the position where each shard begins, and the end."""
        return np.cumsum([0, *(len(shard.ids) for shard in self.shards)], dtype=np.int64)

    def documents_at(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """The documents that the tokens at some positions are of; any shape."""
        return np.searchsorted(self.offsets, positions, side="right") - 1

    def tokens_at(self, positions: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """(n,) ids of the tokens at some positions, and whether each begins a word."""
        if len(self.shards) == 1:
            return self.shards[0].ids[positions], self.shards[0].starts_word(positions)
        shards = np.searchsorted(self.shard_offsets, positions, side="right") - 1
        ids = np.empty(positions.shape, dtype=np.int32)
        starts = np.empty(positions.shape, dtype=bool)
        for number in np.unique(shards).tolist():
            here = shards == number
            local = positions[here] - self.shard_offsets[number]
            ids[here] = self.shards[number].ids[local]
            starts[here] = self.shards[number].starts_word(local)
        return ids, starts

    def document_ids(self, documents: Sequence[int]) -> list[str]:
        """The ids of some documents within their sources.

        Raises:
            DataError: the store was deleted or changed after it was opened.
        """
        wanted = set(documents)
        found: dict[int, str] = {}
        number = 0
        try:
            for shard in range(len(self.shards)):
                path = self.directory / shard_name(shard) / DOCUMENTS
                with path.open(encoding="utf-8") as file:
                    for line in file:
                        if number in wanted:
                            found[number] = json.loads(line)
                        number += 1
            return [found[document] for document in documents]
        except (FileNotFoundError, NotADirectoryError, ValueError, KeyError) as error:
            raise DataError(
                f"{self.directory}: the token store was deleted or replaced while it was in use; "
                "leave it where it is until the run has ended"
            ) from error


def most_frequent(counters: Iterable[Counter[str]]) -> dict[str, int]:
    """The most frequent of what some counters counted, the most frequent first."""
    return dict(sum(counters, Counter[str]()).most_common(KEPT_CHARACTERS))
