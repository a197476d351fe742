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

from mlmtune.files import put_in_place, temporary_name, whole_folder, write_bytes
from mlmtune.integrity import digest, file_digest, sealed, unsealed
from mlmtune.redaction import redacted
from mlmtune.tokens.store import most_frequent
from mlmtune.tokens.store_format import (
    ALL_ARRAYS,
    ARRAYS,
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
        self._shards = self._finished_shards()
        self._begin_shard()

    def _begin_shard(self) -> None:
        self._batches: list[dict[str, NDArray[Any]]] = []
        self._unknown_characters: list[Counter[str]] = []
        self._ids: list[str] = []
        self._num_tokens = 0

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
        self._shards = []
        self._begin_shard()

    def append(self, documents: TokenizedDocuments) -> None:
        """Append a batch of documents, and write the shard if it is full."""
        ids = documents.ids.astype(self._dtype, copy=False)
        self._batches.append(
            {"ids": ids, "word_starts": documents.word_starts, **vars(documents.arrays)}
        )
        self._unknown_characters.append(documents.unknown_characters)
        self._ids += documents.document_ids
        self._num_tokens += len(documents.ids)
        if self._num_tokens >= SHARD_TOKENS:
            self.finish_shard()

    def finish_shard(self) -> None:
        """Write the appended documents as a shard."""
        # The batches let go of each array once it is joined, because a shard fills much memory.
        arrays = {
            name: np.concatenate([batch.pop(name) for batch in self._batches])
            for name in ALL_ARRAYS
        }
        by_source = partial(
            sum_by_source, sources=arrays["sources"], num_sources=len(self._sources)
        )
        num_words = count_by_document(arrays["word_starts"], arrays["lengths"])
        entry: dict[str, Any] = {
            "num_documents": len(self._ids),
            "num_tokens": self._num_tokens,
            "num_tokens_by_source": by_source(arrays["lengths"]).tolist(),
            "num_unknown_tokens_by_source": by_source(arrays["num_unknown_tokens"]).tolist(),
            "num_words_by_source": by_source(num_words).tolist(),
            "unknown_characters": most_frequent(self._unknown_characters),
        }
        arrays["word_starts"] = np.packbits(arrays["word_starts"])
        folder = self._temporary / shard_name(len(self._shards))
        with whole_folder(folder, durable=True) as temporary:
            digests = entry["digests"] = {}
            for name, kind in {"ids": self._dtype, **ARRAYS}.items():
                content = arrays[name].astype(kind, copy=False).data
                digests[name] = digest(content)
                write_bytes(array_path(temporary, name), content)
            lines = "".join(json.dumps(id_) + "\n" for id_ in self._ids).encode()
            digests["documents"] = digest(lines)
            write_bytes(temporary / DOCUMENTS, lines)
            write_bytes(temporary / SHARD, sealed(entry))
        self._shards.append(entry)
        self._begin_shard()

    def finish(self, funnel: dict[str, Any]) -> None:
        """Write the last shard and the manifest, and give the store its name."""
        if self._batches:
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
