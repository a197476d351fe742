"""Writes the documents of a text into a token store; several processes tokenize them."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from mlmtune.corpus.cleaning import count_words
from mlmtune.corpus.corpus import Corpus, documents_in
from mlmtune.corpus.document import Document
from mlmtune.corpus.engine import Work
from mlmtune.corpus.parallel import num_processors, ordered_map
from mlmtune.corpus.parts import Rows
from mlmtune.corpus.text import CorpusText
from mlmtune.corpus.titles import title_of
from mlmtune.tokens.borders import Offsets
from mlmtune.tokens.encoding import Encoder, largest_id, plain_backend
from mlmtune.tokens.pieces import cut
from mlmtune.tokens.store_format import DocumentArrays
from mlmtune.tokens.store_writer import TokenizedDocuments, UnfinishedStore
from mlmtune.tokens.sums import end_to_end
from mlmtune.tokens.unknown import UnknownText, UnknownTextFinder, unknown_token_id
from mlmtune.tokens.word_cache import Tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

BATCH_DOCUMENTS = 256
"""The most documents in a batch for the tokenizer."""
BATCH_CHARACTERS = 2_000_000
"""The number of characters at which a batch ends."""
VERIFIED_CHARACTERS = 500
VERIFIED_DOCUMENTS = 16
"""One document in this number has its first characters encoded in both ways, to verify that words
can be encoded one by one."""
SHARD_CHARACTERS = 1 << 27
"""The number of characters at which a shard ends, after about a minute of work."""
SMALL_CHARACTERS = 50_000_000
"""A smaller text is tokenized in this process, because new ones would take longer to start."""


@dataclass(frozen=True)
class BatchTokenizer:
    """Tokenizes batches of documents, in any process.

    Attributes:
        backend: The tokenizer as `encoding.plain_backend` returns it.
        unknown_id: The id of its unknown token; None if it knows all text.
        by_words: Whether each distinct word is encoded once, and not each document as a whole.
    """

    backend: Tokenizer
    unknown_id: int | None
    by_words: bool = True

    @cached_property
    def encode(self) -> Encoder:
        return Encoder(self.backend, by_words=self.by_words)

    @cached_property
    def finder(self) -> UnknownTextFinder:
        return UnknownTextFinder(self.backend, self.unknown_id)


class DependentWords(Exception):
    """The tokens of a word were found to depend on the words beside it."""


class PlannedShard(NamedTuple):
    """The documents of a shard, which any process can read and tokenize.

    Attributes:
        number: The number of the shard in its store.
        documents: Where its documents are.
    """

    number: int
    documents: tuple[Rows, ...]

    @property
    def num_documents(self) -> int:
        return sum(len(of_part.rows) for of_part in self.documents)


def plan_shards(corpus: Corpus) -> list[PlannedShard]:
    """Divide the documents of a corpus into shards, by their numbers of characters alone."""
    kept = corpus.table.kept()
    ends = np.cumsum(corpus.table.num_characters[kept], dtype=np.int64)
    shards: list[PlannedShard] = []
    first = 0
    while first < len(kept):
        begin = int(ends[first - 1]) if first else 0
        end = int(np.searchsorted(ends, begin + SHARD_CHARACTERS)) + 1
        shards.append(PlannedShard(len(shards), tuple(corpus.rows(kept[first:end]))))
        first = end
    return shards


def write_store(
    directory: Path,
    text: CorpusText,
    made_of: dict[str, str],
    tokenizer: "PreTrainedTokenizerFast",
) -> None:
    """Tokenize a listed text into a store; an interrupted one with the same `made_of` is continued.

    Args:
        directory: The folder that the store will be in.
        text: The text.
        made_of: What the content of the store depends on.
        tokenizer: A fast tokenizer.
    """
    corpus, backend = text.read(), plain_backend(tokenizer)
    sources = tuple((source.name, source.is_validation) for source in corpus.sources)
    store = UnfinishedStore(directory, largest_id(backend) + 1, sources, made_of)
    store.begin()
    write = _write_elsewhere if text.engine.is_remote else _write_here
    while True:
        by_words = not store.has_dependent_words
        documents = BatchTokenizer(backend, unknown_token_id(tokenizer), by_words)
        try:
            entries = write(store, corpus, documents, text)
            return store.finish(entries, corpus.funnel.to_json())
        except DependentWords:
            text.console.say(
                "the tokenizer's tokens of a word depend on the words beside it, so each document "
                "is tokenized as a whole, which is slower"
            )
            store.discard_dependent()


def _write_here(
    store: UnfinishedStore, corpus: Corpus, tokenizer: BatchTokenizer, text: CorpusText
) -> list[dict[str, Any]]:
    """Write the shards one after the other, whose documents all processes tokenize together.

    Raises:
        DependentWords: Words cannot be encoded one by one.
    """
    shards = plan_shards(corpus)
    entries = {shard.number: store.finished_shard(shard.number) for shard in shards}
    missing = [shard for shard in shards if entries[shard.number] is None]
    num_missing, kept = sum(shard.num_documents for shard in missing), corpus.funnel.total()
    tokenized = ordered_map(
        tokenize_batch,
        chain.from_iterable(batches(documents_in(shard.documents)) for shard in missing),
        tokenizer,
        num_processes=1 if kept.characters_kept < SMALL_CHARACTERS else num_processors(),
    )
    progress = text.console.bar(
        total=kept.documents_kept, initial=kept.documents_kept - num_missing, unit="document",
        what="tokenizing",
    )  # fmt: skip
    with closing(tokenized), progress as bar:
        for shard in missing:
            with store.write_shard(shard.number) as writer:
                num_left = shard.num_documents
                while num_left:  # a batch never has documents of two shards
                    documents = next(tokenized)
                    writer.append(documents)
                    bar.update(len(documents.document_ids))
                    num_left -= len(documents.document_ids)
            entries[shard.number] = writer.entry
    return [entry for entry in entries.values() if entry is not None]


def _write_elsewhere(
    store: UnfinishedStore, corpus: Corpus, tokenizer: BatchTokenizer, text: CorpusText
) -> list[dict[str, Any]]:
    """Let an engine write the shards, in any order.

    Raises:
        DependentWords: Words cannot be encoded one by one.
    """
    shards = plan_shards(corpus)
    written = text.engine.map(
        write_shard,
        shards,
        (store, tokenizer),
        Work("tokenizing", "document", keeps_bar=True),
        sizes=[shard.num_documents for shard in shards],
    )
    entries = list(written)
    if None in entries:
        raise DependentWords
    return [entry for entry in entries if entry is not None]


def write_shard(
    shard: PlannedShard, shared: tuple[UnfinishedStore, BatchTokenizer]
) -> dict[str, Any] | None:
    """Write a shard, unless it is finished, and return its entry in the manifest.

    Returns:
        The entry; None if words cannot be encoded one by one.
    """
    store, tokenizer = shared
    if (entry := store.finished_shard(shard.number)) is not None:
        return entry
    try:
        with store.write_shard(shard.number) as writer:
            for batch in batches(documents_in(shard.documents)):
                writer.append(tokenize_batch(batch, tokenizer))
    except DependentWords:
        return None
    return writer.entry


def batches(documents: Iterator[Document]) -> Iterator[list[Document]]:
    """Yield the documents in groups of about the same size."""
    batch: list[Document] = []
    num_characters = 0
    for document in documents:
        batch.append(document)
        num_characters += len(document.text)
        if len(batch) == BATCH_DOCUMENTS or num_characters >= BATCH_CHARACTERS:
            yield batch
            batch, num_characters = [], 0
    if batch:
        yield batch


def tokenize_batch(batch: list[Document], tokenizer: BatchTokenizer) -> TokenizedDocuments:
    """Return some documents with their tokens, and count what the tokenizer does not know.

    Raises:
        DependentWords: Words cannot be encoded one by one.
    """
    encode, finder = tokenizer.encode, tokenizer.finder
    sample = [document.text[:VERIFIED_CHARACTERS] for document in batch[::VERIFIED_DOCUMENTS]]
    if not encode.verifies_words(sample):
        raise DependentWords
    ids, word_starts = bytearray(), bytearray()  # they grow in place, and are large
    lengths, unknown = np.zeros(len(batch), np.int64), UnknownText.none(len(batch))
    for group in cut((document.text for document in batch), encode.cutter):
        numbers = [piece.number for piece in group]
        group_ids, group_starts, piece_lengths = encode([piece.text for piece in group])
        ids += group_ids.data
        word_starts += group_starts.data
        np.add.at(lengths, numbers, piece_lengths)
        is_unknown = np.split(finder.tokens(group_ids), np.cumsum(piece_lengths)[:-1])
        # Only what has unknown tokens is encoded again.
        concerned = [
            (piece.number, *encode.excerpt(piece.text, mask))
            for piece, mask in zip(group, is_unknown, strict=True)
            if mask.any()
        ]
        all_offsets = encode.offsets([text for _, text, _ in concerned])
        for (number, text, mask), (starts, ends) in zip(concerned, all_offsets, strict=True):
            finder.count(unknown, number, text, Offsets(starts[mask], ends[mask]))
    tokens = np.frombuffer(ids, encode.dtype), np.frombuffer(word_starts, bool), lengths
    return _with_tokens(batch, tokens, unknown, _title_lengths(batch, tokens, encode))


def _title_lengths(batch: list[Document], tokens: Tokens, encode: Encoder) -> NDArray[np.int64]:
    """Return (D,) how many tokens each document's title has; 0 without a title.

    So does a title whose tokens are others before the body than alone.
    """
    titles = [title_of(document.text) for document in batch]
    title_ids, _, title_lengths = encode(titles)
    ids, _, lengths = tokens
    begins, title_begins = end_to_end(lengths), end_to_end(title_lengths)
    for number, length in enumerate(title_lengths.tolist()):
        alone = title_ids[title_begins[number] : title_begins[number + 1]]
        if not np.array_equal(ids[begins[number] : begins[number] + length], alone):
            title_lengths[number] = 0
    return title_lengths


def _num_bytes(text: str) -> int:
    """Return the length of a text in UTF-8."""
    if text.isascii():
        return len(text)
    # In slices, because encoding a long text at once would copy all of it.
    slices = range(0, len(text), BATCH_CHARACTERS)
    return sum(len(text[start : start + BATCH_CHARACTERS].encode()) for start in slices)


def offsets_of(texts: list[str], encode: Encoder) -> Iterator[tuple[int, Offsets]]:
    """Yield the number of each text with the offsets of its tokens, one piece at a time."""
    for group in cut(texts, encode.cutter):
        for piece, offsets in zip(group, encode.offsets([p.text for p in group]), strict=True):
            yield piece.number, Offsets(*(side + piece.begin for side in offsets))


def _with_tokens(
    batch: list[Document],
    tokens: Tokens,
    unknown: UnknownText,
    title_lengths: NDArray[np.int64],
) -> TokenizedDocuments:
    ids, word_starts, lengths = tokens
    arrays = DocumentArrays(
        lengths,
        content_hashes=np.asarray([document.content_hash for document in batch], dtype=np.uint64),
        num_characters=np.asarray([len(document.text) for document in batch], dtype=np.int64),
        num_bytes=np.asarray([_num_bytes(document.text) for document in batch], dtype=np.int64),
        num_text_words=np.asarray([count_words(document.text) for document in batch], np.int64),
        num_unknown_tokens=unknown.num_tokens,
        num_unknown_bytes=unknown.num_bytes,
        num_unknown_words=unknown.num_words,
        title_lengths=title_lengths,
        sources=np.asarray([document.source for document in batch], dtype=np.uint16),
    )
    document_ids = [document.id for document in batch]
    return TokenizedDocuments(ids, word_starts, arrays, document_ids, unknown.characters)
