"""TokenStore: a tokenized corpus on disk, memory-mapped.

A store is a folder of flat little-endian arrays, documents one after the other:

    ids.bin               body ids, uint16 or int32; special tokens are never stored
    word_starts.bin       one bit a token, most significant first: the token begins a word
    offsets.bin           int64, num_documents + 1: where each document's ids begin and end
    content_hashes.bin    uint64 a document: decides its side of the split
    given.bin             uint8 a document: 1 if it came from `corpus.validation_sources`
    num_characters.bin    int64 a document
    documents.jsonl       id and source of each document, a line each
    store.json            dtype, counts and the corpus funnel; written last

A store is written under a temporary name and renamed when it is whole, so a folder with the
final name is always complete.
"""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO, Self

import numpy as np
from numpy.typing import NDArray

FORMAT_VERSION = 1

ARRAYS = ("ids", "word_starts", "offsets", "content_hashes", "given", "num_characters")


@dataclass(frozen=True)
class TokenStore:
    """A tokenized corpus, opened for reading.

    Attributes:
        ids: (num_tokens,) uint16 or int32.
        word_starts: (ceil(num_tokens / 8),) uint8, packed bits.
        offsets: (num_documents + 1,) int64.
        content_hashes: (num_documents,) uint64.
        given: (num_documents,) bool; the document came from `corpus.validation_sources`.
        num_characters: (num_documents,) int64.
        funnel: what was found, read and left out, as in corpus.json.
        directory: where the store lies.
    """

    ids: NDArray[Any]
    word_starts: NDArray[np.uint8]
    offsets: NDArray[np.int64]
    content_hashes: NDArray[np.uint64]
    given: NDArray[np.bool_]
    num_characters: NDArray[np.int64]
    funnel: dict[str, Any]
    directory: Path

    @classmethod
    def open(cls, directory: Path) -> Self:
        """Map a finished store."""
        header = json.loads((directory / "store.json").read_text(encoding="utf-8"))

        def array(name: str, dtype: str) -> NDArray[Any]:
            path = directory / f"{name}.bin"
            if path.stat().st_size == 0:
                return np.empty(0, dtype=dtype)
            return np.memmap(path, dtype=dtype, mode="r")

        return cls(
            ids=array("ids", header["dtype"]),
            word_starts=array("word_starts", "u1"),
            offsets=array("offsets", "<i8"),
            content_hashes=array("content_hashes", "<u8"),
            given=np.asarray(array("given", "u1"), dtype=bool),
            num_characters=array("num_characters", "<i8"),
            funnel=header["funnel"],
            directory=directory,
        )

    @property
    def num_documents(self) -> int:
        """Number of documents, of both sides of the split."""
        return len(self.offsets) - 1

    @property
    def num_tokens(self) -> int:
        """Number of body tokens."""
        return len(self.ids)

    def document_lengths(self) -> NDArray[np.int64]:
        """(num_documents,) number of body tokens of each document."""
        return np.diff(self.offsets)

    def starts_word(self, positions: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether the tokens at `positions` begin a word; any shape."""
        packed = self.word_starts[positions >> 3]
        bits: NDArray[np.uint8] = (packed >> (7 - (positions & 7)).astype(np.uint8)) & 1
        return bits.astype(bool)


class StoreWriter:
    """Appends documents to a store that is being written. Made by `writing`."""

    def __init__(self, directory: Path, vocabulary_size: int) -> None:
        self.directory = directory
        self.dtype = "<u2" if vocabulary_size <= 2**16 else "<i4"
        self._files: dict[str, BinaryIO] = {
            name: (directory / f"{name}.bin").open("wb") for name in ARRAYS
        }
        self._documents = (directory / "documents.jsonl").open("w", encoding="utf-8")
        self._num_tokens = 0
        self._loose_bits: NDArray[np.bool_] = np.empty(0, dtype=bool)
        self._write("offsets", np.zeros(1, dtype="<i8"))

    def _write(self, name: str, values: NDArray[Any]) -> None:
        self._files[name].write(values.tobytes())

    def append(
        self,
        ids: NDArray[Any],
        word_starts: NDArray[np.bool_],
        lengths: NDArray[np.int64],
        content_hashes: NDArray[np.uint64],
        given: NDArray[np.bool_],
        num_characters: NDArray[np.int64],
        names: list[tuple[str, str]],
    ) -> None:
        """Append a batch of documents.

        Args:
            ids: (n,) body ids of all documents of the batch, one after the other.
            word_starts: (n,) whether each token begins a word.
            lengths: (D,) tokens of each document; they add up to n.
            content_hashes: (D,) hash of each document's normalised text.
            given: (D,) whether the document was given for validation.
            num_characters: (D,) characters of each document.
            names: (D,) id and source of each document.
        """
        self._write("ids", ids.astype(self.dtype))
        self._write("offsets", (self._num_tokens + np.cumsum(lengths)).astype("<i8"))
        self._write("content_hashes", content_hashes.astype("<u8"))
        self._write("given", given.astype("u1"))
        self._write("num_characters", num_characters.astype("<i8"))
        for id_, source in names:
            self._documents.write(json.dumps({"id": id_, "source": source}) + "\n")
        self._num_tokens += len(ids)

        loose = np.concatenate([self._loose_bits, word_starts])
        whole = len(loose) - len(loose) % 8
        self._write("word_starts", np.packbits(loose[:whole]))
        self._loose_bits = loose[whole:]

    def finish(self, funnel: dict[str, Any]) -> None:
        """Write what is left and the header, and make all of it durable."""
        self._write("word_starts", np.packbits(self._loose_bits))
        header = {"format_version": FORMAT_VERSION, "dtype": self.dtype, "funnel": funnel}
        with (self.directory / "store.json").open("w", encoding="utf-8") as file:
            json.dump(header, file)
            for written in [*self._all_files(), file]:
                written.flush()
                os.fsync(written.fileno())
        self.close()

    def close(self) -> None:
        """Close all files; safe to call twice."""
        for file in self._all_files():
            file.close()

    def _all_files(self) -> list[IO[Any]]:
        return [*self._files.values(), self._documents]


@contextmanager
def writing(directory: Path, vocabulary_size: int) -> Iterator[StoreWriter]:
    """Write a store beside `directory` and rename it there once the block ends without an error.

    What an interrupted writer left is removed. The caller holds the store's lock.
    """
    temporary = directory.with_name(directory.name + ".partial")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    writer = StoreWriter(temporary, vocabulary_size)
    try:
        yield writer
        temporary.rename(directory)
    except BaseException:
        writer.close()
        shutil.rmtree(temporary, ignore_errors=True)
        raise
