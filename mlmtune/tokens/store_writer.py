"""StoreWriter: writes a token store shard by shard, and goes on where an earlier writer stopped.

A shard is written under a temporary name and renamed when it is whole, and so is the store: each
is finished or absent.
"""

import json
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlmtune.files import put_in_place, temporary_name, whole_folder, write_bytes
from mlmtune.integrity import digest, file_digest, sealed, unsealed
from mlmtune.redaction import redacted
from mlmtune.tokens.store import StoredSource, most_frequent
from mlmtune.tokens.store_format import (
    ALL_ARRAYS,
    ARRAYS,
    DOCUMENTS,
    FORMAT_VERSION,
    MANIFEST,
    SHARD,
    array_path,
    shard_name,
)
from mlmtune.tokens.sums import count_by_source, sum_by_source
from mlmtune.tokens.unknown import UnknownText

SHARD_TOKENS = 1 << 25
"""The number of tokens at which a shard ends: about a minute of work."""

_MADE_OF = "made_of.json"


@dataclass(frozen=True)
class TokenizedDocuments:
    """D documents and their n tokens, one document after the other.

    Attributes:
        ids: (n,) body ids.
        word_starts: (n,) whether each token begins a word.
        lengths: (D,) tokens of each document; they add up to n.
        content_hashes: (D,) uint64, the hash of each document's normalised text.
        num_characters: (D,) characters of each document.
        num_bytes: (D,) bytes of each document in UTF-8.
        num_text_words: (D,) words of each document, as `cleaning.count_words` counts them.
        sources: (D,) the index of each document's source.
        document_ids: (D,) the id of each document within its source.
        unknown: the text of these documents that the tokenizer does not know.
    """

    ids: NDArray[Any]
    word_starts: NDArray[np.bool_]
    lengths: NDArray[np.int64]
    content_hashes: NDArray[np.uint64]
    num_characters: NDArray[np.int64]
    num_bytes: NDArray[np.int64]
    num_text_words: NDArray[np.int64]
    sources: NDArray[np.uint16]
    document_ids: Sequence[str]
    unknown: UnknownText

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the arrays by the names that they have in a shard."""
        return {
            "ids": self.ids,
            "word_starts": self.word_starts,
            "lengths": self.lengths,
            "content_hashes": self.content_hashes,
            "num_characters": self.num_characters,
            "num_bytes": self.num_bytes,
            "num_text_words": self.num_text_words,
            "num_unknown_tokens": self.unknown.num_tokens,
            "num_unknown_bytes": self.unknown.num_bytes,
            "num_unknown_words": self.unknown.num_words,
            "sources": self.sources,
        }


class StoreWriter:
    """Writes a store, shard by shard, beside the place where it will be.

    Args:
        directory: where the store will be.
        vocabulary_size: decides how wide an id is.
        sources: name of each source, and whether it is one of `corpus.validation_sources`.
        made_of: what the store follows from. What an interrupted writer of the same left is gone on
            with; what others left is deleted.

    Attributes:
        num_documents: how many are in finished shards: where to go on.
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
        self._dtype = "<u2" if vocabulary_size <= 2**16 else "<i4"
        self._made_of = made_of
        marker = self._temporary / _MADE_OF
        if not (marker.exists() and marker.read_text(encoding="utf-8") == json.dumps(made_of)):
            shutil.rmtree(self._temporary, ignore_errors=True)
            self._temporary.mkdir(parents=True)
            write_bytes(marker, json.dumps(made_of).encode())
        self._shards: list[dict[str, Any]] = list(self._finished_shards())
        self._batches: list[dict[str, NDArray[Any]]] = []
        self._unknown_characters: list[Counter[str]] = []
        self._ids: list[str] = []
        self._num_tokens = 0

    @property
    def num_documents(self) -> int:
        """Documents in finished shards."""
        return sum(shard["num_documents"] for shard in self._shards)

    def _finished_shards(self) -> Iterator[dict[str, Any]]:
        """What is whole of what an interrupted writer left; the rest is deleted."""
        number = 0
        while (entry := self._finished_shard(self._temporary / shard_name(number))) is not None:
            yield entry
            number += 1
        while (left := self._temporary / shard_name(number)).exists():
            shutil.rmtree(left)
            number += 1

    def _finished_shard(self, folder: Path) -> dict[str, Any] | None:
        try:
            entry = unsealed((folder / SHARD).read_bytes())
            digests = {array_path(folder, name): entry["digests"][name] for name in ALL_ARRAYS}
            digests[folder / DOCUMENTS] = entry["digests"]["documents"]
            is_whole = all(file_digest(path) == expected for path, expected in digests.items())
        except (FileNotFoundError, ValueError):
            return None
        return entry if is_whole else None

    def append(self, documents: TokenizedDocuments) -> None:
        """Append a batch of documents; a shard that has become full is written."""
        arrays = documents.arrays()
        arrays["ids"] = arrays["ids"].astype(self._dtype, copy=False)
        self._batches.append(arrays)
        self._unknown_characters.append(documents.unknown.characters)
        self._ids += documents.document_ids
        self._num_tokens += len(documents.ids)
        if self._num_tokens >= SHARD_TOKENS:
            self.finish_shard()

    def finish_shard(self) -> None:
        # One array after the other: a document may have so many tokens that two copies are much.
        arrays = {
            name: _joined([batch.pop(name) for batch in self._batches])
            for name in list(self._batches[0])
        }
        name = shard_name(len(self._shards))
        entry: dict[str, Any] = {
            "num_documents": len(self._ids),
            "num_tokens": self._num_tokens,
            "num_tokens_by_source": sum_by_source(
                arrays["lengths"], arrays["sources"], len(self._sources)
            ).tolist(),
            "num_unknown_tokens_by_source": sum_by_source(
                arrays["num_unknown_tokens"], arrays["sources"], len(self._sources)
            ).tolist(),
            "unknown_characters": most_frequent(self._unknown_characters),
            "num_words_by_source": count_by_source(
                arrays["word_starts"], arrays["lengths"], arrays["sources"], len(self._sources)
            ),
        }
        arrays["word_starts"] = np.packbits(arrays["word_starts"])
        with whole_folder(self._temporary / name, durable=True) as temporary:
            digests = entry["digests"] = {}
            for array, kind in {"ids": self._dtype, **ARRAYS}.items():
                content = arrays[array].astype(kind, copy=False).data
                digests[array] = digest(content)
                write_bytes(array_path(temporary, array), content)
            lines = "".join(json.dumps(id_) + "\n" for id_ in self._ids).encode()
            digests["documents"] = digest(lines)
            write_bytes(temporary / DOCUMENTS, lines)
            write_bytes(temporary / SHARD, sealed(entry))
        self._shards.append(entry)
        self._batches, self._ids, self._num_tokens = [], [], 0
        self._unknown_characters = []

    def finish(self, funnel: dict[str, Any]) -> None:
        """Write what is left and the manifest, and give the store its name."""
        if self._batches:
            self.finish_shard()
        counts = ("num_tokens", "num_unknown_tokens", "num_words")
        sources = [
            StoredSource(
                name,
                validation,
                **{c: sum(s[f"{c}_by_source"][number] for s in self._shards) for c in counts},
            )
            for number, (name, validation) in enumerate(self._sources)
        ]
        manifest = {
            "format_version": FORMAT_VERSION,
            "dtype": self._dtype,
            "vocabulary_size": self._vocabulary_size,
            "made_of": self._made_of,
            "sources": [asdict(source) for source in sources],
            "shards": self._shards,
            "funnel": funnel,
        }
        write_bytes(self._temporary / MANIFEST, sealed(redacted(manifest)), durable=True)
        put_in_place(self._directory)
        (self._directory / _MADE_OF).unlink()


def _joined(arrays: list[NDArray[Any]]) -> NDArray[Any]:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
