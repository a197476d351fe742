"""Marks: a bit for each token of a store, found after the store was built and kept inside it.

A *marker* reads the documents once more and says which tokens it marks: those that begin a word by
a segmenter (`words`), or a sentence (`sentences`). The store itself does not change, so it can be
opened with another marker or with none.

    words-rjieba/            inside the store, under the marker's name
      marks.json             written last: what the marks follow from, how many each source has,
                             and the hash of each of the other files
      shard-00000.bin        packed bits of the store's first shard, as in word_starts.bin

The folder is written under a temporary name and renamed. Its shards are written independently of
each other, each with an entry of its own (shard-00000.json) until the manifest is there, so that an
interrupted search continues. Marks are verified whenever they are opened.
"""

import json
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby, pairwise
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from mlmtune.corpus.corpus import documents_in
from mlmtune.corpus.document import Document
from mlmtune.corpus.engine import Work
from mlmtune.corpus.text import CorpusText
from mlmtune.errors import ConfigError, DataError, explaining_failures
from mlmtune.files import begin_folder, put_in_place, temporary_name, write_bytes
from mlmtune.integrity import Damaged, digest, file_digest, sealed, unsealed
from mlmtune.locks import waiting_lock
from mlmtune.tokens.borders import Offsets
from mlmtune.tokens.encoding import Encoder
from mlmtune.tokens.store import TokenStore
from mlmtune.tokens.store_format import open_shard, read_manifest, shard_name
from mlmtune.tokens.sums import count_by_document, end_to_end, sum_by_source
from mlmtune.tokens.tokenization import PlannedShard, batches, offsets_of

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

    Both functions can be pickled, because other processes call them.
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
        backend: The tokenizer that made the store, as `encoding.plain_backend` returns it.
    """

    store: TokenStore
    text: CorpusText
    backend: Tokenizer


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
    store, text = tokens.store, tokens.text
    corpus = text.read()
    kept = corpus.table.kept()
    if len(kept) != store.num_documents:
        raise DataError(_CHANGED)
    borders = np.cumsum([0, *store.num_documents_of_shards]).tolist()
    shards = [
        PlannedShard(number, tuple(corpus.rows(kept[begin:end])))
        for number, (begin, end) in enumerate(pairwise(borders))
    ]
    search = _Search(temporary_name(folder), store.directory, marker, tokens.backend)
    begin_folder(search.folder, made_of)
    if text.engine.is_remote:
        work = Work(marker.purpose, "document", keeps_bar=True)
        sizes = [shard.num_documents for shard in shards]
        deque(text.engine.map(mark_shard, shards, search, work, sizes=sizes), maxlen=0)
    else:
        with text.console.bar(
            total=store.num_documents, unit="document", what=marker.purpose
        ) as bar:
            for shard in shards:
                for num_documents in _mark_shard(shard, search):
                    bar.update(num_documents)
    entries = [search.finished_shard(shard.number) for shard in shards]
    manifest = {
        "made_of": made_of,
        "digests": [entry["bits"] for entry in entries if entry is not None],
        "num_by_source": np.sum(
            [[0] * len(store.sources), *(e["num_by_source"] for e in entries if e is not None)],
            axis=0,
        ).tolist(),
    }
    write_bytes(search.folder / _MANIFEST, sealed(manifest), durable=True)
    put_in_place(folder)
    for path in folder.glob("*.json"):
        if path.name != _MANIFEST:  # which has all that they say
            path.unlink()


@dataclass(frozen=True)
class _Search:
    """A search for marks, as any process needs to know it.

    Attributes:
        folder: The folder that the marks are written into.
        store: The folder of the store.
        marker: The rule.
        backend: The tokenizer that made the store, as `encoding.plain_backend` returns it.
    """

    folder: Path
    store: Path
    marker: Marker
    backend: Tokenizer

    def finished_shard(self, number: int) -> dict[str, Any] | None:
        """Verify the marks of a shard, and return their entry; None if they must be found."""
        try:
            entry = unsealed(self._entry_path(number).read_bytes())
            is_whole = file_digest(self.folder / _shard_name(number)) == entry["bits"]
        except (FileNotFoundError, ValueError):
            return None
        return entry if is_whole else None

    def write_shard(
        self, number: int, marks: NDArray[np.bool_], num_by_source: NDArray[np.int64]
    ) -> None:
        # A shard is a minute of work or more, which must outlast a loss of power. A machine that
        # was taken for lost may still write the same shard.
        content = np.packbits(marks).data
        path = self.folder / _shard_name(number)
        write_bytes(path, content, durable=True, shared=True)
        entry = {"bits": digest(content), "num_by_source": num_by_source.tolist()}
        write_bytes(self._entry_path(number), sealed(entry), durable=True, shared=True)

    def _entry_path(self, number: int) -> Path:
        return self.folder / f"shard-{number:05d}.json"


def mark_shard(shard: PlannedShard, search: _Search) -> None:
    """Find the marks of a shard, unless they are finished.

    Raises:
        DataError: The documents are not those of the store.
    """
    deque(_mark_shard(shard, search), maxlen=0)


def _mark_shard(shard: PlannedShard, search: _Search) -> Iterator[int]:
    """Mark the tokens of a shard; yield the number of documents that were just marked.

    Raises:
        DataError: The documents are not those of the store.
    """
    if search.finished_shard(shard.number) is not None:
        yield shard.num_documents
        return
    manifest = read_manifest(search.store)
    folder, entry = search.store / shard_name(shard.number), manifest["shards"][shard.number]
    arrays, tokens = open_shard(folder, entry, manifest)
    marks, begins = tokens.all_word_starts(), end_to_end(arrays.lengths)
    # Offsets are those of whole texts, whatever words are cached.
    encode, marker, first = Encoder(search.backend, by_words=False), search.marker, 0
    for batch in batches(documents_in(shard.documents)):
        expected = arrays.content_hashes[first : first + len(batch)]
        if [document.content_hash for document in batch] != expected.tolist():
            raise DataError(_CHANGED)
        concerned = [i for i, document in enumerate(batch) if marker.concerns(document)]
        by_document = groupby(offsets_of([batch[i].text for i in concerned], encode), itemgetter(0))
        for i, (_, pieces) in zip(concerned, by_document, strict=True):
            own = marks[begins[first + i] : begins[first + i + 1]]
            own[:] = marker.mark(batch[i], _checked_offsets(pieces, len(own)), own)
        first += len(batch)
        yield len(batch)
    num_marked = count_by_document(marks, arrays.lengths)
    counts = sum_by_source(num_marked, arrays.sources, len(manifest["sources"]))
    search.write_shard(shard.number, marks, counts)


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
