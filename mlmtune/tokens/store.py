"""TokenStore: a tokenized corpus on disk, memory-mapped.

A store is a folder: a manifest, and shards of some thirty million tokens each.

    store.json             the manifest, written last: format_version, dtype of the ids, `made_of`
                           (what the store follows from), sources, shards with the sizes and hashes
                           of their files, funnel
    shard-00000/           documents one after the other, as flat little-endian arrays:
      ids.bin              body ids, uint16 or int32; [CLS], [SEP] and the like are not stored
      word_starts.bin      one bit per token, most significant first: the token begins a word
      lengths.bin          int64 per document: its number of tokens
      content_hashes.bin   uint64 per document: decides its side of the split
      num_characters.bin   int64 per document
      num_bytes.bin        int64 per document, in UTF-8
      num_text_words.bin   int64 per document: its words by a rule that no tokenizer changes
      num_unknown_tokens.bin, num_unknown_bytes.bin, num_unknown_words.bin
                           int64 per document: what the tokenizer does not know of it
      sources.bin          uint16 per document: its source, by the manifest's list
      documents.jsonl      id of each document, a line each
      shard.json           what the manifest says of the shard; read where a writer goes on
    words-rjieba/          bits that were found later, from other rules; see `marks`

A shard is written under a temporary name and renamed when it is whole, and so is the store: each
is finished or absent. What was interrupted goes on after the last finished shard.

A store is verified when it is opened (see `integrity`), so that a damaged one is never trained on.
"""

import json
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from mlmtune.errors import ConfigError, DataError
from mlmtune.files import put_in_place, temporary_name, whole_folder, write_bytes
from mlmtune.integrity import (
    Damaged,
    VerifiedFiles,
    digest,
    file_digest,
    sealed,
    unsealed,
)
from mlmtune.redaction import redacted
from mlmtune.tokens.unknown import UnknownText

FORMAT_VERSION = 6

SHARD_TOKENS = 1 << 25
"""Tokens in a shard, more or less: a minute of work."""

KEPT_CHARACTERS = 100
"""Unknown characters whose counts are kept."""

ARRAYS = {
    "word_starts": "<u1",
    "lengths": "<i8",
    "content_hashes": "<u8",
    "num_characters": "<i8",
    "num_bytes": "<i8",
    "num_text_words": "<i8",
    "num_unknown_tokens": "<i8",
    "num_unknown_bytes": "<i8",
    "num_unknown_words": "<i8",
    "sources": "<u2",
}
"""What a shard holds beside `ids`, whose type is the manifest's."""

_READ_WHOLE = tuple(name for name in ARRAYS if name != "word_starts")
"""The arrays that have a value for each document; the others are mapped into memory."""

_ALL_ARRAYS = ("ids", *ARRAYS)

_MANIFEST = "store.json"
_SHARD = "shard.json"
_DOCUMENTS = "documents.jsonl"
_MADE_OF = "made_of.json"


@dataclass(frozen=True)
class Shard:
    """Some documents of a store, memory-mapped.

    Attributes:
        ids: (n,) uint16 or int32.
        word_starts: (ceil(n / 8),) uint8, packed bits.
    """

    ids: NDArray[Any]
    word_starts: NDArray[np.uint8]

    def starts_word(self, positions: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether the tokens at `positions` begin a word; any shape."""
        packed = self.word_starts[positions >> 3]
        bits: NDArray[np.uint8] = (packed >> (7 - (positions & 7)).astype(np.uint8)) & 1
        return bits.astype(bool)

    def all_word_starts(self) -> NDArray[np.bool_]:
        """(n,) whether each token begins a word."""
        return np.unpackbits(np.asarray(self.word_starts), count=len(self.ids)).view(bool)


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
        folders = [directory / _shard_name(number) for number in range(len(manifest["shards"]))]
        shards, tables = [], []
        for folder, entry in zip(folders, manifest["shards"], strict=True):
            tables.append(_read_tables(folder, entry, len(manifest["sources"])))
            shards.append(_map_tokens(folder, entry, manifest["dtype"]))
        _verify_large_files(directory, manifest, shards, notes)
        joined = {
            name: np.concatenate([np.empty(0, ARRAYS[name]), *(table[name] for table in tables)])
            for name in _READ_WHOLE
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
            unknown_characters=_most_frequent(
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
                path = self.directory / _shard_name(shard) / _DOCUMENTS
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


def read_manifest(directory: Path) -> dict[str, Any]:
    """The content of store.json.

    Raises:
        Damaged: it is damaged, or of another version.
        DataError: there is none.
    """
    path = directory / _MANIFEST
    try:
        text = path.read_bytes()
        version = json.loads(text).get("format_version")
        if version == FORMAT_VERSION:
            return unsealed(text)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DataError(f"{directory}: no token store (it has no {_MANIFEST})") from error
    except (IsADirectoryError, ValueError, AttributeError) as error:
        raise _damaged(path) from error
    fault = f"a token store of format {version}, and this mlmtune reads format {FORMAT_VERSION}"
    raise Damaged(directory, fault, _REMEDY)


def is_finished(directory: Path) -> bool:
    """Whether there is a whole store."""
    return (directory / _MANIFEST).exists()


def check_free(directory: Path) -> None:
    """Refuse to write a store where something else is: it would be deleted.

    Raises:
        ConfigError: there is a file, or a folder with something in it that is no store.
        DataError: there is a store without its manifest.
    """
    if (directory / _shard_name(0)).is_dir() and not is_finished(directory):
        raise DataError(
            f"{directory / _MANIFEST}: missing; copy the store again, or delete {directory} and "
            "run `mlmtune prepare`"
        )
    is_taken = directory.exists() and not is_finished(directory)
    if is_taken and not (directory.is_dir() and not any(directory.iterdir())):
        raise ConfigError(
            f"tokenization.store: {directory} is there and is no token store; name a new folder"
        )


_REMEDY = "copy the store again, or make it anew by `mlmtune prepare`"


def _damaged(path: Path, fault: str = "damaged") -> Damaged:
    return Damaged(path, fault, _REMEDY)


def _sizes(entry: dict[str, Any], dtype: str) -> dict[str, int]:
    """How many bytes each array of a shard has."""
    counts = {"ids": entry["num_tokens"], "word_starts": -(-entry["num_tokens"] // 8)}
    return {
        name: counts.get(name, entry["num_documents"]) * np.dtype(kind).itemsize
        for name, kind in {"ids": dtype, **ARRAYS}.items()
    }


def _array_path(folder: Path, name: str) -> Path:
    return folder / f"{name}.bin"


def _check_size(path: Path, size: int) -> None:
    """Refuse a file that is not there, or has not the size that it was written with."""
    found = path.stat().st_size if path.is_file() else -1
    if found != size:
        raise _damaged(path, "missing" if found < 0 else "cut short or damaged")


def _read_tables(folder: Path, entry: dict[str, Any], num_sources: int) -> dict[str, NDArray[Any]]:
    """The arrays that have a value for each document of a shard, verified.

    Raises:
        Damaged: a file is not what was written, or a value is out of its range.
    """
    sizes = _sizes(entry, "<u2")
    tables = {}
    for name in _READ_WHOLE:
        path = _array_path(folder, name)
        _check_size(path, sizes[name])
        content = path.read_bytes()
        if digest(content) != entry["digests"][name]:
            raise _damaged(path)
        tables[name] = np.frombuffer(content, ARRAYS[name])
    lengths = tables["lengths"]
    if (lengths < 0).any() or int(lengths.sum()) != entry["num_tokens"]:
        raise _damaged(_array_path(folder, "lengths"), "does not add up to the tokens")
    if (tables["sources"] >= num_sources).any():
        raise _damaged(_array_path(folder, "sources"), f"names more than {num_sources} sources")
    return tables


def _map_tokens(folder: Path, entry: dict[str, Any], dtype: str) -> Shard:
    """The tokens of a shard, mapped into memory and not verified yet."""
    sizes = _sizes(entry, dtype)
    arrays = []
    for name, kind in (("ids", dtype), ("word_starts", ARRAYS["word_starts"])):
        path = _array_path(folder, name)
        _check_size(path, sizes[name])
        arrays.append(np.memmap(path, kind, "r") if sizes[name] else np.empty(0, kind))
    return Shard(*arrays)


def _verify_large_files(
    directory: Path, manifest: dict[str, Any], shards: Sequence[Shard], notes: Path | None
) -> None:
    """Verify what is too large to be hashed at each opening: ids, word starts, names of documents.

    Raises:
        Damaged: a file is not what was written, or an id is beyond the vocabulary.
    """
    digests: dict[Path, str] = {}
    for number, entry in enumerate(manifest["shards"]):
        folder = directory / _shard_name(number)
        for name in ("ids", "word_starts"):
            digests[_array_path(folder, name)] = entry["digests"][name]
        digests[folder / _DOCUMENTS] = entry["digests"]["documents"]
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
            path = _array_path(directory / _shard_name(number), "ids")
            raise _damaged(path, "holds ids beyond the vocabulary")
    files.note()


def _shard_name(number: int) -> str:
    return f"shard-{number:05d}"


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
        while (entry := self._finished_shard(self._temporary / _shard_name(number))) is not None:
            yield entry
            number += 1
        while (left := self._temporary / _shard_name(number)).exists():
            shutil.rmtree(left)
            number += 1

    def _finished_shard(self, folder: Path) -> dict[str, Any] | None:
        try:
            entry = unsealed((folder / _SHARD).read_bytes())
            digests = {_array_path(folder, name): entry["digests"][name] for name in _ALL_ARRAYS}
            digests[folder / _DOCUMENTS] = entry["digests"]["documents"]
            is_whole = all(file_digest(path) == expected for path, expected in digests.items())
        except (FileNotFoundError, ValueError):
            return None
        return entry if is_whole else None

    def append(
        self,
        ids: NDArray[Any],
        word_starts: NDArray[np.bool_],
        lengths: NDArray[np.int64],
        content_hashes: NDArray[np.uint64],
        num_characters: NDArray[np.int64],
        num_bytes: NDArray[np.int64],
        num_text_words: NDArray[np.int64],
        sources: NDArray[np.uint16],
        document_ids: Sequence[str],
        unknown: UnknownText,
    ) -> None:
        """Append a batch of documents.

        Args:
            ids: (n,) body ids of all documents of the batch, one after the other.
            word_starts: (n,) whether each token begins a word.
            lengths: (D,) tokens of each document; they add up to n.
            content_hashes: (D,) hash of each document's normalised text.
            num_characters: (D,) characters of each document.
            num_bytes: (D,) bytes of each document.
            num_text_words: (D,) words of each document.
            sources: (D,) index of each document's source.
            document_ids: (D,) id of each document within its source.
            unknown: what the tokenizer does not know of them.
        """
        self._batches.append(
            {
                "ids": ids.astype(self._dtype, copy=False),
                "word_starts": word_starts,
                "lengths": lengths,
                "content_hashes": content_hashes,
                "num_characters": num_characters,
                "num_bytes": num_bytes,
                "num_text_words": num_text_words,
                "num_unknown_tokens": unknown.num_tokens,
                "num_unknown_bytes": unknown.num_bytes,
                "num_unknown_words": unknown.num_words,
                "sources": sources,
            }
        )
        self._unknown_characters.append(unknown.characters)
        self._ids += document_ids
        self._num_tokens += len(ids)
        if self._num_tokens >= SHARD_TOKENS:
            self._finish_shard()

    def _finish_shard(self) -> None:
        # One array after the other: a document may have so many tokens that two copies are much.
        arrays = {
            name: _joined([batch.pop(name) for batch in self._batches])
            for name in list(self._batches[0])
        }
        name = _shard_name(len(self._shards))
        entry: dict[str, Any] = {
            "num_documents": len(self._ids),
            "num_tokens": self._num_tokens,
            "num_tokens_by_source": sum_by_source(
                arrays["lengths"], arrays["sources"], len(self._sources)
            ).tolist(),
            "num_unknown_tokens_by_source": sum_by_source(
                arrays["num_unknown_tokens"], arrays["sources"], len(self._sources)
            ).tolist(),
            "unknown_characters": _most_frequent(self._unknown_characters),
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
                write_bytes(_array_path(temporary, array), content)
            lines = "".join(json.dumps(id_) + "\n" for id_ in self._ids).encode()
            digests["documents"] = digest(lines)
            write_bytes(temporary / _DOCUMENTS, lines)
            write_bytes(temporary / _SHARD, sealed(entry))
        self._shards.append(entry)
        self._batches, self._ids, self._num_tokens = [], [], 0
        self._unknown_characters = []

    def finish(self, funnel: dict[str, Any]) -> None:
        """Write what is left and the manifest, and give the store its name."""
        if self._batches:
            self._finish_shard()
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
        write_bytes(self._temporary / _MANIFEST, sealed(redacted(manifest)), durable=True)
        put_in_place(self._directory)
        (self._directory / _MADE_OF).unlink()


def _most_frequent(counters: Iterable[Counter[str]]) -> dict[str, int]:
    """The most frequent of what some counters counted, the most frequent first."""
    return dict(sum(counters, Counter[str]()).most_common(KEPT_CHARACTERS))


def _joined(arrays: list[NDArray[Any]]) -> NDArray[Any]:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def end_to_end(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """(n + 1,) where each of n stretches that follow each other begins, and where the last ends."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])


def sum_by_source(
    values: NDArray[np.int64], sources: NDArray[np.uint16], num_sources: int
) -> NDArray[np.int64]:
    """(num_sources,) the sum of the values of each source.

    Args:
        values: (n,) what is summed up.
        sources: (n,) index of each value's source.
        num_sources: how many there are.
    """
    by_source = np.zeros(num_sources, dtype=np.int64)
    np.add.at(by_source, sources, values)
    return by_source


def count_by_source(
    bits: NDArray[np.bool_],
    lengths: NDArray[np.int64],
    sources: NDArray[np.uint16],
    num_sources: int,
) -> list[int]:
    """How many bits are set in the documents of each source.

    Args:
        bits: (n,) one a token.
        lengths: (D,) tokens of each document; they add up to n.
        sources: (D,) index of each document's source.
        num_sources: how many there are.
    """
    # By document: a sum over all bits at once would take eight bytes for each of them.
    borders = pairwise(end_to_end(lengths).tolist())
    counts = [np.count_nonzero(bits[begin:end]) for begin, end in borders]
    counted: list[int] = sum_by_source(np.asarray(counts, np.int64), sources, num_sources).tolist()
    return counted
