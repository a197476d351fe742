"""Marks: a bit for each token of a store, found after the store was built and kept inside it.

A *marker* reads the documents once more and says which tokens it marks: those that begin a word by
a segmenter (`words`), or a sentence (`sentences`). The store itself does not change, so it can be
opened with another marker or with none.

    words-rjieba/            inside the store, under the marker's name
      marks.json             written last: what the marks follow from, how many each source has,
                             and the hash of each of the other files
      shard-00000.bin        packed bits of the store's first shard, as in word_starts.bin

The folder is written under a temporary name and renamed. An interrupted search continues after the
last shard that its manifest names. Marks are verified whenever they are opened.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from mlmtune.corpus.document import Document
from mlmtune.corpus.text import CorpusText
from mlmtune.errors import ConfigError, DataError, ResourceError, was_taken_away
from mlmtune.files import put_in_place, temporary_name, write_bytes
from mlmtune.integrity import Damaged, digest, file_digest, sealed, unsealed
from mlmtune.tokens.borders import Offsets
from mlmtune.tokens.encoding import Encoder
from mlmtune.tokens.store import TokenStore
from mlmtune.tokens.sums import count_by_source
from mlmtune.tokens.tokenization import batches, offsets_of

FORMAT_VERSION = 3

_CHANGED = "the text has changed since it was tokenized; run `mlmtune prepare` again"
_MANIFEST = "marks.json"


@dataclass(frozen=True)
class Marker:
    """A rule that marks tokens.

    Attributes:
        name: the name of its folder inside a store.
        made_by: the library that the rule comes from, with its version; None where it is not
            installed: nothing can be marked then, and marks of any version are accepted.
        how_to_install: the error message for a library that is missing.
        purpose: what the progress bar calls its work.
        concerns: whether a document has anything to mark; if not, its marks are the store's own
            word starts.
        mark: (document, offsets of its n tokens in pieces, (n,) the store's own word starts) ->
            (n,) bool. The pieces are in order and are all taken; a long document's offsets would
            need sixteen bytes per token at once.
    """

    name: str
    made_by: str | None
    how_to_install: str
    purpose: str
    concerns: Callable[[Document], bool]
    mark: Callable[[Document, Iterator[Offsets], NDArray[np.bool_]], NDArray[np.bool_]]


@dataclass(frozen=True)
class Marks:
    """The tokens that a marker marked in a store.

    Attributes:
        shards: (ceil(n / 8),) uint8 packed bits of each shard's n tokens.
        num_by_source: how many tokens are marked in each of the store's sources.
        fingerprint: equal for equal marks.
    """

    shards: tuple[NDArray[np.uint8], ...]
    num_by_source: tuple[int, ...]
    fingerprint: str

    def positions(self, store: TokenStore) -> NDArray[np.int64]:
        """Return the positions of all marked tokens of the store, in order."""
        positions = [
            start + np.flatnonzero(np.unpackbits(bits, count=len(shard.ids)))
            for start, bits, shard in zip(
                store.shard_offsets, self.shards, store.shards, strict=False
            )
        ]
        return np.concatenate([np.empty(0, np.int64), *positions])


def open_marks(marker: Marker, store: TokenStore, text: CorpusText, encode: Encoder) -> Marks:
    """Open a marker's marks of a store; find them first if they are not there yet.

    Args:
        marker: the rule.
        store: the tokenized text.
        text: the text; without a listing where only its store is on this machine.
        encode: the tokenizer that made the store.

    Raises:
        ConfigError: there are no marks, and the text or the library to find them is missing.
        DataError: the text is no longer what the store was made of.
        ResourceError: the store's folder cannot be written.
    """
    folder = store.directory / marker.name
    made_of = {
        "format": FORMAT_VERSION,
        "store": store.fingerprint,
        "made_by": marker.made_by,
    }
    any_version = text.listing is None or marker.made_by is None
    try:
        if (marks := _open(folder, made_of, store, any_version=any_version)) is not None:
            return marks
    except Damaged as error:
        if any_version:
            raise
        text.console.say(f"{error.what}; the marks are found again")
    if marker.made_by is None:
        raise ConfigError(marker.how_to_install)
    if text.listing is None:
        raise ConfigError(
            f"{store.directory} has no marks {marker.name!r}, and the text to find them in is "
            "not on this machine; run `mlmtune prepare` with this config where the text is"
        )
    with _faults_named(folder), FileLock(folder.with_name(folder.name + ".lock")):
        with suppress(Damaged):
            if (marks := _open(folder, made_of, store)) is not None:
                return marks
        find_marks(folder, made_of, marker, TextOfStore(store, text, encode))
    marks = _open(folder, made_of, store)
    assert marks is not None
    return marks


@contextmanager
def _faults_named(folder: Path) -> Iterator[None]:
    """Turn an error of writing marks into one that says what to do.

    Raises:
        ResourceError: the store's folder cannot be written.
    """
    try:
        yield
    except OSError as error:
        if was_taken_away(error):
            raise ResourceError(
                f"{error.filename or folder}: the token store was deleted or moved while marks "
                "were written into it; start again"
            ) from error
        raise ResourceError(
            f"{error.filename or folder}: cannot be written ({error.strerror or error}); make "
            "room, or set tokenization.store to another folder"
        ) from error


def _open(
    folder: Path, wanted: dict[str, Any], store: TokenStore, *, any_version: bool = False
) -> Marks | None:
    """Open and verify marks; None if there are none that follow from `wanted`.

    Raises:
        Damaged: they are not what was written.
    """
    try:
        manifest = unsealed((folder / _MANIFEST).read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (IsADirectoryError, ValueError) as error:
        raise _damaged(folder / _MANIFEST) from error
    made_of = manifest["made_of"]
    if any_version:
        wanted = {**wanted, "made_by": made_of.get("made_by")}
    if made_of != wanted:
        return None
    shards = []
    for number, (shard, expected) in enumerate(zip(store.shards, manifest["digests"], strict=True)):
        path = folder / _shard_name(number)
        size = -(-len(shard.ids) // 8)
        if not path.is_file():
            raise _damaged(path, "missing")
        if path.stat().st_size != size or file_digest(path) != expected:
            raise _damaged(path)
        shards.append(np.memmap(path, np.uint8, "r") if size else np.empty(0, np.uint8))
    fingerprint = json.dumps(made_of)
    return Marks(tuple(shards), tuple(manifest["num_by_source"]), fingerprint)


def _damaged(path: Path, fault: str = "damaged") -> Damaged:
    return Damaged(path, fault, "run `mlmtune prepare` where the text is to find the marks again")


def _shard_name(number: int) -> str:
    return f"shard-{number:05d}.bin"


class TextOfStore(NamedTuple):
    """A tokenized text, and what it takes to see the characters of its tokens.

    Attributes:
        store: the tokens.
        text: the text that the store was made of.
        encode: the tokenizer that made the store.
    """

    store: TokenStore
    text: CorpusText
    encode: Encoder


def find_marks(folder: Path, made_of: dict[str, Any], marker: Marker, tokens: TextOfStore) -> None:
    """Read the text and write a marker's marks; finished shards of an earlier attempt are kept.

    Args:
        folder: where the marks will be.
        made_of: what the marks follow from.
        marker: the rule.
        tokens: the tokenized text.
    """
    store = tokens.store
    temporary = temporary_name(folder)
    manifest = _begun(temporary, made_of, len(store.sources))
    first_documents = np.cumsum([0, *store.num_documents_of_shards]).tolist()
    done = len(manifest["digests"])
    documents = tokens.text.documents(first_documents[done])
    with tokens.text.console.bar(
        total=store.num_documents, initial=first_documents[done], unit="document",
        what=marker.purpose,
    ) as bar:  # fmt: skip
        for number in range(done, len(store.shards)):
            numbers = range(first_documents[number], first_documents[number + 1])
            marks = store.shards[number].all_word_starts()
            for num_done in _mark_shard(numbers, marks, marker, tokens, documents):
                bar.update(num_done)
            here = slice(numbers.start, numbers.stop)
            counts = count_by_source(
                marks,
                store.documents.lengths[here],
                store.documents.sources[here],
                len(store.sources),
            )
            content = np.packbits(marks).data
            write_bytes(temporary / _shard_name(number), content, durable=True)
            manifest["digests"].append(digest(content))
            manifest["num_by_source"] = np.add(manifest["num_by_source"], counts).tolist()
            write_bytes(temporary / _MANIFEST, sealed(manifest), durable=True)
    put_in_place(folder)


def _begun(temporary: Path, made_of: dict[str, Any], num_sources: int) -> dict[str, Any]:
    """Return the manifest of an interrupted search, or of a new one if its shards are not whole."""
    try:
        manifest = unsealed((temporary / _MANIFEST).read_bytes())
        if manifest["made_of"] == made_of and all(
            file_digest(temporary / _shard_name(number)) == expected
            for number, expected in enumerate(manifest["digests"])
        ):
            return manifest
    except (FileNotFoundError, NotADirectoryError, ValueError):
        pass
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    manifest = {"made_of": made_of, "digests": [], "num_by_source": [0] * num_sources}
    write_bytes(temporary / _MANIFEST, sealed(manifest), durable=True)
    return manifest


def _mark_shard(
    numbers: range,
    marks: NDArray[np.bool_],
    marker: Marker,
    tokens: TextOfStore,
    documents: Iterator[Document],
) -> Iterator[int]:
    """Mark the tokens of a shard.

    Args:
        numbers: the shard's documents.
        marks: (n,) the shard's word starts; changed in place.
        marker: the rule.
        tokens: the tokenized text.
        documents: documents from the shard's first on; those of the shard are taken.

    Yields:
        How many documents were marked since the last time.

    Raises:
        DataError: the documents are not those of the store.
    """
    store, encode = tokens.store, tokens.encode
    start = store.offsets[numbers.start]
    number = numbers.start
    for batch in batches(islice(documents, len(numbers))):
        here = slice(number, number + len(batch))
        hashes = [document.content_hash for document in batch]
        if hashes != store.documents.content_hashes[here].tolist():
            raise DataError(_CHANGED)
        begins, lengths = store.offsets[here] - start, store.documents.lengths[here]
        concerned = [i for i, document in enumerate(batch) if marker.concerns(document)]
        by_document = groupby(offsets_of([batch[i].text for i in concerned], encode), itemgetter(0))
        for i, (_, pieces) in zip(concerned, by_document, strict=True):
            inside = slice(begins[i], begins[i] + lengths[i])
            offsets = _of_as_many(pieces, lengths[i])
            marks[inside] = marker.mark(batch[i], offsets, marks[inside])
        number += len(batch)
        yield len(batch)
    if number != numbers.stop:
        raise DataError(_CHANGED)


def _of_as_many(pieces: Iterator[tuple[int, Offsets]], num_tokens: int) -> Iterator[Offsets]:
    """Yield the offsets of a document in pieces.

    Raises:
        DataError: they are not of as many tokens as the document has.
    """
    for _, offsets in pieces:
        num_tokens -= len(offsets.starts)
        if num_tokens < 0:
            break
        yield offsets
    if num_tokens:
        raise DataError(_CHANGED)
