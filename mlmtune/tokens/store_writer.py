"""StoreWriter: writes a token store shard by shard, and continues an interrupted one.

Each shard, and the store as a whole, gets its name only when it is complete (see `files`).
"""

import json
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlmtune.files import put_in_place, sweep, temporary_name, write_bytes
from mlmtune.integrity import GrowingFile, digest, file_digest, sealed, unsealed
from mlmtune.redaction import redacted
from mlmtune.tokens.store import most_frequent
from mlmtune.tokens.store_format import (
    ALL_ARRAYS,
    DOCUMENT_ARRAYS,
    DOCUMENTS,
    FORMAT_VERSION,
    MANIFEST,
    SHARD,
    DocumentArrays,
    array_path,
    shard_name,
)
from mlmtune.tokens.sums import count_by_document, sum_by_source

SHARD_TOKENS = 1 << 25
"""The number of tokens at which a shard ends, after about a minute of work."""

_MADE_OF = "made_of.json"


@dataclass(frozen=True)
class TokenizedDocuments:
    """D documents and their n tokens, one document after the other.

    Attributes:
        ids: (n,) The ids of the tokens, without special tokens.
        word_starts: (n,) Whether each token begins a word.
        arrays: What is known about each document; its lengths add up to n.
        document_ids: (D,) The id of each document within its source.
        unknown_characters: How often each character occurs that the tokenizer does not know.
    """

    ids: NDArray[Any]
    word_starts: NDArray[np.bool_]
    arrays: DocumentArrays
    document_ids: Sequence[str]
    unknown_characters: Counter[str]


class StoreWriter:
    """Writes a store, shard by shard, under a temporary name beside its own.

    Args:
        directory: The folder that the store will be in.
        vocabulary_size: The size of the vocabulary, which decides how wide an id is.
        sources: The name of each source, and whether it is one of `corpus.validation_sources`.
        made_of: What the content of the store depends on. The finished shards of an interrupted
            writer with the same `made_of` are kept, and those of any other are deleted.
    """

    def __init__(
        self,
        directory: Path,
        vocabulary_size: int,
        sources: Sequence[tuple[str, bool]],
        made_of: dict[str, str],
    ) -> None:
        self._sources = sources
        self._directory = directory
        self._temporary = temporary_name(directory)
        self._vocabulary_size = vocabulary_size
        self._dtype = "<u2" if vocabulary_size <= 2**16 else "<i4"  # ids are most of a store
        self._made_of = made_of
        marker = self._temporary / _MADE_OF
        if not (marker.exists() and marker.read_text(encoding="utf-8") == json.dumps(made_of)):
            shutil.rmtree(self._temporary, ignore_errors=True)
            self._temporary.mkdir(parents=True)
            write_bytes(marker, json.dumps(made_of).encode())
        sweep(self._temporary)
        self._shards = self._finished_shards()
        self._growing: _GrowingShard | None = None

    @property
    def num_documents(self) -> int:
        """The number of documents in finished shards, after which appending continues."""
        return sum(shard["num_documents"] for shard in self._shards)

    def _finished_shards(self) -> list[dict[str, Any]]:
        """Read the entries of the shards that an interrupted writer finished; delete the others."""
        entries: list[dict[str, Any]] = []
        for folder in sorted(self._temporary.glob("shard-*")):
            # Shards after one that is deleted have the wrong number, and are deleted, too.
            is_next = folder.name == shard_name(len(entries))
            if is_next and (entry := self._finished_shard(folder)) is not None:
                entries.append(entry)
            else:
                shutil.rmtree(folder)
        return entries

    def _finished_shard(self, folder: Path) -> dict[str, Any] | None:
        """Read the entry of a shard; None if the shard is incomplete or damaged."""
        try:
            entry = unsealed((folder / SHARD).read_bytes())
            digests = {array_path(folder, name): entry["digests"][name] for name in ALL_ARRAYS}
            digests[folder / DOCUMENTS] = entry["digests"]["documents"]
            is_whole = all(file_digest(path) == expected for path, expected in digests.items())
        except (FileNotFoundError, ValueError):
            return None
        return entry if is_whole else None

    def discard(self) -> None:
        """Delete all documents that were appended, so that others can be appended instead."""
        for number in range(len(self._shards)):
            shutil.rmtree(self._temporary / shard_name(number))
        self._shards, self._growing = [], None
        sweep(self._temporary)

    def append(self, documents: TokenizedDocuments) -> None:
        """Write a batch of documents, and finish the shard if it is full."""
        if self._growing is None:
            folder = self._temporary / shard_name(len(self._shards))
            self._growing = _GrowingShard(folder, self._dtype, len(self._sources))
        self._growing.append(documents)
        if self._growing.num_tokens >= SHARD_TOKENS:
            self.finish_shard()

    def finish_shard(self) -> None:
        """Finish the shard that documents are written to."""
        assert self._growing is not None
        self._shards.append(self._growing.finish())
        self._growing = None

    def finish(self, funnel: dict[str, Any]) -> None:
        """Write the last shard and the manifest, and give the store its name."""
        if self._growing is not None:
            self.finish_shard()
        counts = ("num_tokens", "num_unknown_tokens", "num_words")
        sources = [
            {
                "name": name,
                "validation": is_validation,
                **{c: sum(s[f"{c}_by_source"][number] for s in self._shards) for c in counts},
            }
            for number, (name, is_validation) in enumerate(self._sources)
        ]
        manifest = {
            "format_version": FORMAT_VERSION,
            "dtype": self._dtype,
            "vocabulary_size": self._vocabulary_size,
            "made_of": self._made_of,
            "sources": sources,
            "shards": self._shards,
            "funnel": funnel,
        }
        write_bytes(self._temporary / MANIFEST, sealed(redacted(manifest)), durable=True)
        put_in_place(self._directory)
        (self._directory / _MADE_OF).unlink()  # the manifest has it now


class _GrowingShard:
    """A shard that is being written: its tokens as they come, the rest at the end.

    Args:
        folder: The folder that the shard will be in.
        dtype: The type of an id.
        num_sources: The number of sources of the corpus.
    """

    def __init__(self, folder: Path, dtype: str, num_sources: int) -> None:
        self._folder, self._dtype, self._num_sources = folder, dtype, num_sources
        temporary = temporary_name(folder)
        temporary.mkdir()
        self._ids = GrowingFile(array_path(temporary, "ids"))
        self._word_starts = GrowingFile(array_path(temporary, "word_starts"))
        self._open_byte = np.empty(0, dtype=bool)  # the last bits, if they fill no byte
        self._tables: list[DocumentArrays] = []
        self._num_words: list[NDArray[np.int64]] = []
        self._unknown_characters: list[Counter[str]] = []
        self._document_ids: list[str] = []
        self.num_tokens = 0

    def append(self, documents: TokenizedDocuments) -> None:
        self._ids.append(documents.ids.astype(self._dtype, copy=False).data)
        bits = np.concatenate([self._open_byte, documents.word_starts])
        num_whole = len(bits) // 8 * 8
        self._word_starts.append(np.packbits(bits[:num_whole]).data)
        self._open_byte = bits[num_whole:].copy()
        self._num_words.append(count_by_document(documents.word_starts, documents.arrays.lengths))
        self._tables.append(documents.arrays)
        self._unknown_characters.append(documents.unknown_characters)
        self._document_ids += documents.document_ids
        self.num_tokens += len(documents.ids)

    def finish(self) -> dict[str, Any]:
        """Write what is left, give the shard its name, and return its entry in the manifest."""
        arrays = DocumentArrays.joined(self._tables)
        by_source = partial(sum_by_source, sources=arrays.sources, num_sources=self._num_sources)
        self._word_starts.append(np.packbits(self._open_byte).data)
        temporary = temporary_name(self._folder)
        digests = {"ids": self._ids.digest(), "word_starts": self._word_starts.digest()}
        for name, kind in DOCUMENT_ARRAYS.items():
            content = vars(arrays)[name].astype(kind, copy=False).data
            digests[name] = digest(content)
            write_bytes(array_path(temporary, name), content)
        lines = "".join(json.dumps(id_) + "\n" for id_ in self._document_ids).encode()
        digests["documents"] = digest(lines)
        write_bytes(temporary / DOCUMENTS, lines)
        entry = {
            "num_documents": len(self._document_ids),
            "num_tokens": self.num_tokens,
            "num_tokens_by_source": by_source(arrays.lengths).tolist(),
            "num_unknown_tokens_by_source": by_source(arrays.num_unknown_tokens).tolist(),
            "num_words_by_source": by_source(np.concatenate(self._num_words)).tolist(),
            "unknown_characters": most_frequent(self._unknown_characters),
            "digests": digests,
        }
        write_bytes(temporary / SHARD, sealed(entry))
        put_in_place(self._folder, durable=True)
        return entry
