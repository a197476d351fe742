"""TokenStore: a tokenized corpus on disk, memory-mapped and opened for reading.

`store_format` describes its files, and `store_writer` writes them.
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
from mlmtune.randomness import key, permute
from mlmtune.tokens.store_format import (
    DOCUMENTS,
    DocumentArrays,
    Shard,
    open_shard,
    read_manifest,
    shard_name,
    verify_large_files,
)
from mlmtune.tokens.sums import end_to_end

KEPT_CHARACTERS = 100
"""The number of unknown characters whose counts are kept."""


@dataclass(frozen=True)
class StoredSource:
    """A source of the corpus, with the totals of its documents.

    Attributes:
        name: The name in reports.
        validation: Whether it is one of `corpus.validation_sources`.
        num_unknown_tokens: The number of tokens for text that the tokenizer does not know.
        num_words: The number of tokens that begin a word.
    """

    name: str
    validation: bool
    num_tokens: int
    num_unknown_tokens: int
    num_words: int


@dataclass(frozen=True)
class TokenStore:
    """A tokenized corpus, opened for reading.

    A position is the number of a token in the store, across all shards.

    Attributes:
        unknown_characters: How often each character occurs that the tokenizer does not know; only
            the most frequent ones, in descending order.
        funnel: What was found, read and left out, as in corpus.json.
        made_of: What the content of the store depends on, by name; see `opening.StoreOrigin`.
    """

    shards: tuple[Shard, ...]
    documents: DocumentArrays
    unknown_characters: dict[str, int]
    sources: tuple[StoredSource, ...]
    funnel: dict[str, Any]
    made_of: dict[str, Any]
    directory: Path
    num_documents_of_shards: tuple[int, ...]

    @classmethod
    def open(cls, directory: Path, notes: Path | None = None) -> Self:
        """Verify a finished store and map it into memory.

        Args:
            directory: The folder of the store.
            notes: The folder of notes on which stores were verified since this machine started;
                None to verify the large files again in any case.

        Raises:
            Damaged: The store has another version, or its files are not what its manifest says.
            DataError: There is no store.
        """
        manifest = read_manifest(directory)
        opened = [
            open_shard(directory / shard_name(number), entry, manifest)
            for number, entry in enumerate(manifest["shards"])
        ]
        shards = tuple(shard for _, shard in opened)
        verify_large_files(directory, manifest, shards, notes)
        return cls(
            shards=shards,
            documents=DocumentArrays.joined([documents for documents, _ in opened]),
            unknown_characters=most_frequent(
                Counter(entry["unknown_characters"]) for entry in manifest["shards"]
            ),
            sources=tuple(StoredSource(**source) for source in manifest["sources"]),
            funnel=manifest["funnel"],
            made_of=manifest["made_of"],
            directory=directory,
            num_documents_of_shards=tuple(entry["num_documents"] for entry in manifest["shards"]),
        )

    def with_word_starts(
        self, word_starts: Sequence[NDArray[np.uint8]], num_words: Sequence[int]
    ) -> Self:
        """Return a store of the same tokens with other words.

        Args:
            word_starts: The packed bits of each shard.
            num_words: The number of words of each source.
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
        """A hash that is equal for stores of the same text, cleaned and tokenized alike."""
        return str(self.made_of["fingerprint"])

    @property
    def num_documents(self) -> int:
        """The number of documents on both sides of the split together."""
        return len(self.documents.lengths)

    @cached_property
    def offsets(self) -> NDArray[np.int64]:
        """(num_documents + 1,) The position at which each document begins, and the end."""
        return end_to_end(self.documents.lengths)

    @property
    def num_tokens(self) -> int:
        """The number of body tokens."""
        return int(self.shard_offsets[-1])

    @cached_property
    def shard_offsets(self) -> NDArray[np.int64]:
        """(num_shards + 1,) The position at which each shard begins, and the end."""
        return np.cumsum([0, *(len(shard.ids) for shard in self.shards)], dtype=np.int64)

    def documents_at(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the number of the document at each position, in the shape of `positions`."""
        return np.searchsorted(self.offsets, positions, side="right") - 1

    def tokens_at(self, positions: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Return (n,) the ids of the tokens at some positions, and whether each begins a word."""
        if len(self.shards) == 1:  # the usual case: no shard must be searched for
            return self.shards[0].ids[positions], self.shards[0].starts_word(positions)
        shards = np.searchsorted(self.shard_offsets, positions, side="right") - 1
        ids = np.empty(positions.shape, dtype=np.int32)
        starts = np.empty(positions.shape, dtype=bool)
        for number in np.flatnonzero(np.bincount(shards.ravel())).tolist():
            here = shards == number
            local = positions[here] - self.shard_offsets[number]
            ids[here] = self.shards[number].ids[local]
            starts[here] = self.shards[number].starts_word(local)
        return ids, starts

    def positions_of(self, documents: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return (n,) the positions of all tokens of some documents, document by document."""
        lengths = self.documents.lengths[documents]
        borders = end_to_end(lengths)
        within = np.arange(borders[-1])
        return np.repeat(self.offsets[documents] - borders[:-1], lengths) + within

    def sample(
        self, documents: NDArray[np.int64], num_tokens: int, stream: int
    ) -> NDArray[np.int64]:
        """Return some documents in the order of the store: all, or drawn ones of so many tokens.

        `stream` keeps the draw apart from others.
        """
        drawn = documents[permute(np.arange(len(documents)), len(documents), key(0, stream))]
        before = end_to_end(self.documents.lengths[drawn])[:-1]
        return np.sort(drawn[before < num_tokens])

    def document_ids(self, documents: Sequence[int]) -> list[str]:
        """Read the ids that some documents have within their sources.

        Raises:
            DataError: The store was deleted or replaced after it was opened.
        """
        wanted = set(documents)
        ids: dict[int, str] = {}
        first = 0
        try:
            for shard, num_documents in enumerate(self.num_documents_of_shards):
                path = self.directory / shard_name(shard) / DOCUMENTS
                with path.open(encoding="utf-8") as file:
                    lines = enumerate(file, first)
                    ids |= {number: json.loads(line) for number, line in lines if number in wanted}
                first += num_documents
            return [ids[document] for document in documents]
        except (FileNotFoundError, NotADirectoryError, ValueError, KeyError) as error:
            raise DataError(
                f"{self.directory}: the token store was deleted or replaced while it was in use; "
                "leave it where it is until the run has ended"
            ) from error


def most_frequent(counters: Iterable[Counter[str]]) -> dict[str, int]:
    """Add up some counters, and return their highest counts in descending order."""
    return dict(sum(counters, Counter[str]()).most_common(KEPT_CHARACTERS))
