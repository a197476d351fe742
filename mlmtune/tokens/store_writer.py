"""UnfinishedStore: a token store that is written shard by shard, in any order.

Each shard, and the store as a whole, gets its name only when it is complete (see `files`).
"""

import json
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlmtune.files import (
    MADE_OF,
    begin_folder,
    put_in_place,
    temporary_name,
    whole_folder,
    write_bytes,
)
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

_DEPENDENT = "dependent_words"


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


@dataclass(frozen=True)
class UnfinishedStore:
    """A store that is being written, under a temporary name beside its own.

    Its shards are written independently of each other, by any processes that see the folder.

    Attributes:
        directory: The folder that the store will be in.
        vocabulary_size: The size of the vocabulary, which decides how wide an id is.
        sources: The name of each source, and whether it is one of `corpus.validation_sources`.
        made_of: What the content of the store depends on.
    """

    directory: Path
    vocabulary_size: int
    sources: tuple[tuple[str, bool], ...]
    made_of: dict[str, str]

    @property
    def dtype(self) -> str:
        """The type of an id; ids are most of a store."""
        return "<u2" if self.vocabulary_size <= 2**16 else "<i4"

    def begin(self) -> None:
        """Create the folder; shards that an interrupted writer finished for the same store stay."""
        begin_folder(temporary_name(self.directory), self.made_of)

    def shard_folder(self, number: int) -> Path:
        """Return the folder of a shard, which is there once the shard is finished."""
        return temporary_name(self.directory) / shard_name(number)

    def finished_shard(self, number: int) -> dict[str, Any] | None:
        """Verify a shard, and return its entry in the manifest; None if it must be written."""
        folder = self.shard_folder(number)
        try:
            entry = unsealed((folder / SHARD).read_bytes())
            digests = {array_path(folder, name): entry["digests"][name] for name in ALL_ARRAYS}
            digests[folder / DOCUMENTS] = entry["digests"]["documents"]
            is_whole = all(file_digest(path) == expected for path, expected in digests.items())
        except (FileNotFoundError, ValueError):
            return None
        return entry if is_whole else None

    @contextmanager
    def write_shard(self, number: int) -> Iterator["ShardWriter"]:
        """Give the writer of a shard, whose folder is there after the block."""
        # A machine that was taken for lost may still write the same shard.
        with whole_folder(self.shard_folder(number), durable=True, shared=True) as folder:
            writer = ShardWriter(folder, self.dtype, len(self.sources))
            yield writer
            writer.finish()

    @property
    def has_dependent_words(self) -> bool:
        """Whether `discard_dependent` was called."""
        return (temporary_name(self.directory) / _DEPENDENT).exists()

    def discard_dependent(self) -> None:
        """Delete all shards, because words cannot be encoded one by one; and note that."""
        folder = temporary_name(self.directory)
        write_bytes(folder / _DEPENDENT, b"")
        for shard in folder.glob("*shard-*"):
            shutil.rmtree(shard)

    def finish(self, shards: Sequence[dict[str, Any]], funnel: dict[str, Any]) -> None:
        """Write the manifest from the entries of all shards, and give the store its name."""
        counts = ("num_tokens", "num_unknown_tokens", "num_words")
        sources = [
            {
                "name": name,
                "validation": is_validation,
                **{c: sum(s[f"{c}_by_source"][number] for s in shards) for c in counts},
            }
            for number, (name, is_validation) in enumerate(self.sources)
        ]
        manifest = {
            "format_version": FORMAT_VERSION,
            "dtype": self.dtype,
            "vocabulary_size": self.vocabulary_size,
            "made_of": self.made_of,
            "sources": sources,
            "shards": list(shards),
            "funnel": funnel,
        }
        folder = temporary_name(self.directory)
        _keep_only(folder, [MADE_OF, *map(shard_name, range(len(shards)))])
        write_bytes(folder / MANIFEST, sealed(redacted(manifest)), durable=True)
        put_in_place(self.directory)
        (self.directory / MADE_OF).unlink()  # the manifest has it now


def _keep_only(folder: Path, names: Sequence[str]) -> None:
    """Delete what else is in the folder, such as a shard that was begun twice."""
    for path in folder.iterdir():
        if path.name not in names:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


class ShardWriter:
    """A shard that is being written: its tokens as they come, the rest at the end.

    Args:
        folder: The folder that the shard is written into.
        dtype: The type of an id.
        num_sources: The number of sources of the corpus.

    Attributes:
        entry: The shard's entry in the manifest, once it is finished.
    """

    def __init__(self, folder: Path, dtype: str, num_sources: int) -> None:
        self._folder, self._dtype, self._num_sources = folder, dtype, num_sources
        self._ids = GrowingFile(array_path(folder, "ids"))
        self._word_starts = GrowingFile(array_path(folder, "word_starts"))
        self._open_byte = np.empty(0, dtype=bool)  # the last bits, if they fill no byte
        self._tables: list[DocumentArrays] = []
        self._num_words: list[NDArray[np.int64]] = []
        self._unknown_characters: list[Counter[str]] = []
        self._document_ids: list[str] = []
        self.entry: dict[str, Any] = {}

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

    def finish(self) -> None:
        """Write what is left."""
        arrays = DocumentArrays.joined(self._tables)
        by_source = partial(sum_by_source, sources=arrays.sources, num_sources=self._num_sources)
        self._word_starts.append(np.packbits(self._open_byte).data)
        digests = {"ids": self._ids.digest(), "word_starts": self._word_starts.digest()}
        for name, kind in DOCUMENT_ARRAYS.items():
            content = vars(arrays)[name].astype(kind, copy=False).data
            digests[name] = digest(content)
            write_bytes(array_path(self._folder, name), content)
        lines = "".join(json.dumps(id_) + "\n" for id_ in self._document_ids).encode()
        digests["documents"] = digest(lines)
        write_bytes(self._folder / DOCUMENTS, lines)
        self.entry = {
            "num_documents": len(self._document_ids),
            "num_tokens": int(arrays.lengths.sum()),
            "num_tokens_by_source": by_source(arrays.lengths).tolist(),
            "num_unknown_tokens_by_source": by_source(arrays.num_unknown_tokens).tolist(),
            "num_words_by_source": by_source(np.concatenate(self._num_words)).tolist(),
            "unknown_characters": most_frequent(self._unknown_characters),
            "digests": digests,
        }
        write_bytes(self._folder / SHARD, sealed(self.entry))
