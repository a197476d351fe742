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
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlmtune.corpus.document import Document
from mlmtune.corpus.text import CorpusText
from mlmtune.errors import ConfigError, DataError, explaining_failures
from mlmtune.files import put_in_place, temporary_name, write_bytes
from mlmtune.integrity import Damaged, digest, file_digest, sealed, unsealed
from mlmtune.locks import waiting_lock
from mlmtune.tokens.borders import Offsets
from mlmtune.tokens.encoding import Encoder
from mlmtune.tokens.store import TokenStore
from mlmtune.tokens.sums import count_by_document, sum_by_source
from mlmtune.tokens.tokenization import batches, offsets_of

FORMAT_VERSION = 3

_CHANGED = "the text has changed since it was tokenized; run `mlmtune prepare` again"
_MANIFEST = "marks.json"


@dataclass(frozen=True)
class Marker:
    """A rule that marks tokens.

    Attributes:
        name: The name of its folder inside a store.
        made_by: The library that the rule comes from, with its version. None if it is not
            installed: then nothing can be marked, and marks of any version are accepted.
        how_to_install: The error message if the library is missing.
        purpose: What the progress bar calls its work.
        concerns: Whether a document has anything to mark. If not, its marks are the store's own
            word starts.
        mark: Takes a document, the offsets of its n tokens, and (n,) the store's own word starts;
            returns (n,) bool. The offsets come in pieces, in order, because those of a long
            document would need sixteen bytes per token. All pieces must be taken.
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
        num_by_source: The number of marked tokens in each of the store's sources.
        fingerprint: Equal for equal marks.
    """

    shards: tuple[NDArray[np.uint8], ...]
    num_by_source: tuple[int, ...]
    fingerprint: str

    def positions(self, store: TokenStore) -> NDArray[np.int64]:
        """Return the positions of all marked tokens of the store, in order."""
        # Shard by shard, because unpacked bits take a byte per token.
        positions = [
            start + np.flatnonzero(np.unpackbits(bits, count=len(shard.ids)))
            for start, bits, shard in zip(
                store.shard_offsets, self.shards, store.shards, strict=False
            )
        ]
        return np.concatenate([np.empty(0, np.int64), *positions])


class TokenizedText(NamedTuple):
    """A tokenized text, with what is needed to find the characters of its tokens.

    Attributes:
        store: The tokens.
        text: The text; without a listing if only its store is on this machine.
        encode: The tokenizer that made the store.
    """

    store: TokenStore
    text: CorpusText
    encode: Encoder


def open_marks(marker: Marker, tokens: TokenizedText) -> Marks:
    """Open a marker's marks of a store; find them first if there are none yet.

    Raises:
        ConfigError: There are no marks, and the text or the library to find them is missing.
        DataError: The text is no longer what the store was made of, or the marks are damaged and
            cannot be found again here.
        ResourceError: The store's folder cannot be written.
    """
    store, text = tokens.store, tokens.text
    folder = store.directory / marker.name
    made_of = {"format": FORMAT_VERSION, "store": store.fingerprint, "made_by": marker.made_by}
    can_find = text.listing is not None and marker.made_by is not None
    wanted = dict(made_of)
    if not can_find:
        del wanted["made_by"]  # then marks of any version are better than none
    try:
        if (marks := _open(folder, wanted, store)) is not None:
            return marks
    except Damaged as error:
        if not can_find:
            raise
        text.console.say(f"{error.what}; the marks are found again")
    if marker.made_by is None:
        raise ConfigError(marker.how_to_install)
    if text.listing is None:
        raise ConfigError(
            f"{store.directory} has no marks {marker.name!r}, and the text to find them in is "
            "not on this machine; run `mlmtune prepare` with this config where the text is"
        )
    lock = folder.with_name(folder.name + ".lock")
    with (
        explaining_failures(folder, text.store_setting),
        waiting_lock(lock, text.console.say, f"finds {folder}"),
    ):
        # Another process may have found the marks while this one waited for the lock.
        with suppress(Damaged):
            if (marks := _open(folder, wanted, store)) is not None:
                return marks
        find_marks(folder, made_of, marker, tokens)
    marks = _open(folder, wanted, store)
    assert marks is not None
    return marks


def _open(folder: Path, wanted: dict[str, Any], store: TokenStore) -> Marks | None:
    """Open and verify marks; return None if there are none that follow from `wanted`.

    Raises:
        Damaged: A file is not what was written.
    """
    try:
        manifest = unsealed((folder / _MANIFEST).read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (IsADirectoryError, ValueError) as error:
        raise _damaged(folder / _MANIFEST) from error
    made_of = manifest["made_of"]
    if not wanted.items() <= made_of.items():
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
    return Marks(tuple(shards), tuple(manifest["num_by_source"]), json.dumps(made_of))


def _damaged(path: Path, fault: str = "damaged") -> Damaged:
    return Damaged(path, fault, "run `mlmtune prepare` where the text is to find the marks again")


def _shard_name(number: int) -> str:
    return f"shard-{number:05d}.bin"


def find_marks(
    folder: Path, made_of: dict[str, Any], marker: Marker, tokens: TokenizedText
) -> None:
    """Read the text and write its marks; finished shards of an interrupted search are kept."""
    store = tokens.store
    temporary = temporary_name(folder)
    manifest = _started_manifest(temporary, made_of, len(store.sources))
    first_documents = np.cumsum([0, *store.num_documents_of_shards]).tolist()
    done = len(manifest["digests"])
    documents = tokens.text.documents(first_documents[done])
    with tokens.text.console.bar(
        total=store.num_documents, initial=first_documents[done], unit="document",
        what=marker.purpose,
    ) as bar:  # fmt: skip
        for number in range(done, len(store.shards)):
            here = slice(first_documents[number], first_documents[number + 1])
            marks = store.shards[number].all_word_starts()
            for num_documents in _mark_shard(here, marks, marker, tokens, documents):
                bar.update(num_documents)
            num_marked = count_by_document(marks, store.documents.lengths[here])
            counts = sum_by_source(num_marked, store.documents.sources[here], len(store.sources))
            content = np.packbits(marks).data
            # A shard is a minute of work or more, which must outlast a loss of power.
            write_bytes(temporary / _shard_name(number), content, durable=True)
            manifest["digests"].append(digest(content))
            manifest["num_by_source"] = np.add(manifest["num_by_source"], counts).tolist()
            write_bytes(temporary / _MANIFEST, sealed(manifest), durable=True)
    put_in_place(folder)


def _started_manifest(temporary: Path, made_of: dict[str, Any], num_sources: int) -> dict[str, Any]:
    """Read the manifest of an interrupted search; write a new one if its shards are not usable."""
    with suppress(FileNotFoundError, NotADirectoryError, ValueError):
        manifest = unsealed((temporary / _MANIFEST).read_bytes())
        if manifest["made_of"] == made_of and all(
            file_digest(temporary / _shard_name(number)) == expected
            for number, expected in enumerate(manifest["digests"])
        ):
            return manifest
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    manifest = {"made_of": made_of, "digests": [], "num_by_source": [0] * num_sources}
    write_bytes(temporary / _MANIFEST, sealed(manifest), durable=True)
    return manifest


def _mark_shard(
    here: slice,
    marks: NDArray[np.bool_],
    marker: Marker,
    tokens: TokenizedText,
    documents: Iterator[Document],
) -> Iterator[int]:
    """Mark the tokens of a shard; yield the number of documents that were just marked.

    Args:
        here: The numbers of the shard's documents.
        marks: (n,) The shard's word starts; changed in place.
        marker: The rule.
        tokens: The tokenized text.
        documents: The documents from the shard's first on; those of the shard are taken.

    Raises:
        DataError: The documents are not those of the store.
    """
    arrays = tokens.store.documents
    hashes, lengths = arrays.content_hashes[here], arrays.lengths[here]
    begins = tokens.store.offsets[here] - tokens.store.offsets[here.start]
    first = 0
    for batch in batches(islice(documents, len(lengths))):
        if [document.content_hash for document in batch] != hashes[first:][: len(batch)].tolist():
            raise DataError(_CHANGED)
        concerned = [i for i, document in enumerate(batch) if marker.concerns(document)]
        by_document = groupby(
            offsets_of([batch[i].text for i in concerned], tokens.encode), itemgetter(0)
        )
        for i, (_, pieces) in zip(concerned, by_document, strict=True):
            begin, length = begins[first + i], lengths[first + i]
            own = marks[begin : begin + length]
            own[:] = marker.mark(batch[i], _checked_offsets(pieces, length), own)
        first += len(batch)
        yield len(batch)
    if first != len(lengths):
        raise DataError(_CHANGED)


def _checked_offsets(pieces: Iterator[tuple[int, Offsets]], num_tokens: int) -> Iterator[Offsets]:
    """Yield the offsets of a document's tokens, and check that it still has as many tokens.

    Raises:
        DataError: The document has more or fewer tokens.
    """
    for _, offsets in pieces:
        num_tokens -= len(offsets.starts)
        if num_tokens < 0:
            break
        yield offsets
    if num_tokens:
        raise DataError(_CHANGED)
