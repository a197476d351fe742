"""The files of a token store: their names, their types, and whether they hold what was written.

A store is a folder with a manifest and with shards of about 134 million characters each, which is
some thirty million tokens of English. Where a shard ends follows from the cleaned documents alone,
so shards are written independently of each other.

    store.json             the manifest, written last: format_version, dtype of the ids, `made_of`
                           (what the store was made from), sources, shards with the sizes and
                           hashes of their files, funnel
    shard-00000/           documents one after the other, as flat little-endian arrays:
      ids.bin              body ids, uint16 or int32; [CLS], [SEP] and the like are not stored
      word_starts.bin      one bit per token, most significant first: the token begins a word
      lengths.bin, ...     one value per document; see `DocumentArrays`
      documents.jsonl      the id of each document, one per line
      shard.json           the manifest's entry of the shard, for a writer that was interrupted
    words-rjieba/          bits that were added later, by other rules; see `marks`

A store is verified when it is opened (see `integrity`), so that no run trains on a damaged one.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from mlmtune.errors import ConfigError, DataError
from mlmtune.integrity import Damaged, VerifiedFiles, digest, file_digest, unsealed

FORMAT_VERSION = 8

MANIFEST = "store.json"
SHARD = "shard.json"
DOCUMENTS = "documents.jsonl"

_REMEDY = "copy the store again, or build it again with `mlmtune prepare`"


@dataclass(frozen=True)
class DocumentArrays:
    """What a store holds about each of D documents, besides its tokens. All arrays are (D,).

    Attributes:
        lengths: The number of tokens.
        content_hashes: The hash of the normalised text, which decides the side of the split.
        num_bytes: The number of bytes in UTF-8.
        num_text_words: The number of words as `cleaning.count_words` counts them, which is the
            same for every tokenizer.
        num_unknown_tokens: The number of tokens for text that the tokenizer does not know.
        num_unknown_bytes: The number of bytes of that text.
        num_unknown_words: The number of words that hold such text.
        title_lengths: The number of tokens at the beginning that are the title (`titles.title_of`).
        sources: The index of the document's source in the manifest's list.
    """

    lengths: NDArray[np.int64]
    content_hashes: NDArray[np.uint64]
    num_characters: NDArray[np.int64]
    num_bytes: NDArray[np.int64]
    num_text_words: NDArray[np.int64]
    num_unknown_tokens: NDArray[np.int64]
    num_unknown_bytes: NDArray[np.int64]
    num_unknown_words: NDArray[np.int64]
    title_lengths: NDArray[np.int64]
    sources: NDArray[np.uint16]

    @classmethod
    def joined(cls, tables: Sequence["DocumentArrays"]) -> Self:
        """Return the arrays of consecutive groups of documents as one."""
        return cls(
            **{
                name: np.concatenate([np.empty(0, kind), *(vars(table)[name] for table in tables)])
                for name, kind in DOCUMENT_ARRAYS.items()
            }
        )


DOCUMENT_ARRAYS = {
    **{field.name: "<i8" for field in fields(DocumentArrays)},
    "content_hashes": "<u8",
    "sources": "<u2",
}
"""The types of the arrays with one value per document. They are read whole; others are mapped."""

ARRAYS = {"word_starts": "<u1", **DOCUMENT_ARRAYS}
"""The types of a shard's arrays, except `ids`, whose type is in the manifest."""

ALL_ARRAYS = ("ids", *ARRAYS)


@dataclass(frozen=True)
class Shard:
    """The tokens of some documents of a store, memory-mapped.

    Attributes:
        ids: (n,) The body ids, uint16 or int32.
        word_starts: (ceil(n / 8),) One bit per token, packed into uint8.
    """

    ids: NDArray[Any]
    word_starts: NDArray[np.uint8]

    def starts_word(self, positions: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return whether the tokens at some positions begin a word, in the shape of `positions`."""
        packed = self.word_starts[positions >> 3]  # eight tokens per byte, the first one highest
        bits: NDArray[np.uint8] = (packed >> (7 - (positions & 7)).astype(np.uint8)) & 1
        return bits.astype(bool)

    def all_word_starts(self) -> NDArray[np.bool_]:
        """Return (n,) whether each token begins a word."""
        return np.unpackbits(np.asarray(self.word_starts), count=len(self.ids)).view(bool)


def shard_name(number: int) -> str:
    """Return the name of a shard's folder."""
    return f"shard-{number:05d}"


def array_path(folder: Path, name: str) -> Path:
    """Return the file of one array of a shard."""
    return folder / f"{name}.bin"


def read_manifest(directory: Path) -> dict[str, Any]:
    """Read store.json.

    Raises:
        Damaged: The manifest is damaged, or has another version.
        DataError: There is no manifest.
    """
    path = directory / MANIFEST
    try:
        text = path.read_bytes()
        version = json.loads(text).get("format_version")
        if version == FORMAT_VERSION:
            return unsealed(text)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DataError(f"{directory}: no token store (it has no {MANIFEST})") from error
    except (IsADirectoryError, ValueError, AttributeError) as error:
        raise _damaged(path) from error
    fault = f"a token store of format {version}, and this mlmtune reads format {FORMAT_VERSION}"
    raise Damaged(directory, fault, _REMEDY)


def is_finished(directory: Path) -> bool:
    """Whether a complete store is in the folder."""
    return (directory / MANIFEST).exists()


def check_free(directory: Path) -> None:
    """Refuse to write a store over something else, because that would be deleted.

    Raises:
        ConfigError: The path is a file, or a folder that is neither empty nor a store.
        DataError: The folder holds a store that has lost its manifest.
    """
    if is_finished(directory) or not directory.exists():
        return
    if (directory / shard_name(0)).is_dir():
        raise DataError(
            f"{directory / MANIFEST}: missing; copy the store again, or delete {directory} and "
            "run `mlmtune prepare`"
        )
    if not directory.is_dir() or any(directory.iterdir()):
        raise ConfigError(
            f"tokenization.store: {directory} exists and is not a token store; name a new folder"
        )


def _damaged(path: Path, fault: str = "damaged") -> Damaged:
    return Damaged(path, fault, _REMEDY)


def open_shard(
    folder: Path, entry: dict[str, Any], manifest: dict[str, Any]
) -> tuple[DocumentArrays, Shard]:
    """Read the arrays of a shard's documents, and map its tokens into memory.

    Of the tokens, only their number is verified; see `verify_large_files`.

    Raises:
        Damaged: A file is not what was written, or a value is out of its range.
    """
    num_tokens = entry["num_tokens"]
    mapped = {"ids": num_tokens, "word_starts": -(-num_tokens // 8)}
    arrays: dict[str, NDArray[Any]] = {}
    for name, kind in {"ids": manifest["dtype"], **ARRAYS}.items():
        path = array_path(folder, name)
        size = mapped.get(name, entry["num_documents"]) * np.dtype(kind).itemsize
        if not path.is_file():
            raise _damaged(path, "missing")
        if path.stat().st_size != size:
            raise _damaged(path, "cut short or damaged")
        if name in mapped:
            arrays[name] = np.memmap(path, kind, "r") if size else np.empty(0, kind)
            continue
        content = path.read_bytes()
        if digest(content) != entry["digests"][name]:
            raise _damaged(path)
        arrays[name] = np.frombuffer(content, kind)
    shard = Shard(arrays.pop("ids"), arrays.pop("word_starts"))
    documents = DocumentArrays(**arrays)
    if (documents.lengths < 0).any() or int(documents.lengths.sum()) != num_tokens:
        raise _damaged(array_path(folder, "lengths"), "does not add up to the tokens")
    num_sources = len(manifest["sources"])
    if (documents.sources >= num_sources).any():
        raise _damaged(array_path(folder, "sources"), f"names more than {num_sources} sources")
    return documents, shard


def verify_large_files(
    directory: Path, manifest: dict[str, Any], shards: Sequence[Shard], notes: Path | None
) -> None:
    """Verify the files that are hashed only once per start of the machine, because they are large.

    Raises:
        Damaged: A file is not what was written, or an id is beyond the vocabulary.
    """
    digests: dict[Path, str] = {}
    for number, entry in enumerate(manifest["shards"]):
        folder = directory / shard_name(number)
        for name in ("ids", "word_starts"):
            digests[array_path(folder, name)] = entry["digests"][name]
        digests[folder / DOCUMENTS] = entry["digests"]["documents"]
    missing = next((path for path in digests if not path.is_file()), None)
    if missing is not None:
        raise _damaged(missing, "missing")
    files = VerifiedFiles(notes, directory, digests)
    if files.are_noted():
        return
    for path, expected in digests.items():
        if file_digest(path) != expected:
            raise _damaged(path)
    for number, shard in enumerate(shards):
        ids = shard.ids
        if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < manifest["vocabulary_size"]:
            path = array_path(directory / shard_name(number), "ids")
            raise _damaged(path, "holds ids beyond the vocabulary")
    files.note()
