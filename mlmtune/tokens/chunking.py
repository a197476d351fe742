"""TokenStore -> chunks: sequences of one length, put together when they are asked for.

The documents of one side of the split form a *stream*: each document's body ids with a few
special ids around it (see `stream_layout`). A chunk is a window on that stream inside a frame of
special tokens. Only the numbers that describe the stream are held; ids stay in the store.

Legend: B chunks, T tokens in a chunk, W stream tokens in a chunk, D documents, S sources.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import xxhash
from numpy.typing import NDArray

from mlmtune.config import ChunkingConfig
from mlmtune.tokens.special_tokens import SpecialTokens
from mlmtune.tokens.store import TokenStore
from mlmtune.tokens.stream_layout import Frame, StreamLayout
from mlmtune.tokens.sums import sum_by_source

BLOCK_CHUNKS = 4096
"""Chunks put together at once where all of a view is gone through."""


@dataclass(frozen=True)
class ChunkBatch:
    """Chunks as arrays, padded on the right.

    Attributes:
        input_ids: (B, T) int64; `pad_token_id` where there is nothing.
        lengths: (B,) tokens before the padding.
        special_tokens_mask: (B, T) bool; True at special tokens and padding.
        word_starts: (B, T) bool; True where a word begins. A chunk's first body token always
            begins one, even if the chunk's border cut the word. False at special tokens.
        token_type_ids: (B, T) int64, of pairs; None where all of a chunk is one segment.
        pair_labels: (B,) int64, of pairs: 1 where the second segment does not follow the first.
    """

    input_ids: NDArray[np.int64]
    lengths: NDArray[np.int64]
    special_tokens_mask: NDArray[np.bool_]
    word_starts: NDArray[np.bool_]
    token_type_ids: NDArray[np.int64] | None = None
    pair_labels: NDArray[np.int64] | None = None


@dataclass(frozen=True)
class ChunkView:
    """The chunks of some documents of a store.

    Attributes:
        store: the tokenized corpus.
        layout: how the documents form a stream, and where that is cut.
        pad_token_id: fills what is shorter than the longest of a batch.
        num_body_tokens: tokens of the documents; of a selection, tokens of its chunks.
        num_body_tokens_by_source: (S,) tokens of the documents of each source.
        num_documents: None of a selection, because its chunks may cut documents.
        num_characters: of the documents; None of a selection.
        selection: (B,) chunks of the stream that the view has, in order; None for all of them.
    """

    store: TokenStore
    layout: StreamLayout
    pad_token_id: int
    num_body_tokens: int
    num_body_tokens_by_source: NDArray[np.int64]
    num_documents: int | None
    num_characters: int | None
    selection: NDArray[np.int64] | None = None

    @classmethod
    def of(
        cls,
        store: TokenStore,
        documents: NDArray[np.int64],
        config: ChunkingConfig,
        special_tokens: SpecialTokens,
        pad_token_id: int,
        *,
        separates_sources: bool = False,
    ) -> Self:
        """Cut documents into chunks.

        Args:
            store: the tokenized corpus.
            documents: (D,) which documents, in stream order.
            config: how to cut.
            special_tokens: the tokenizer's frame.
            pad_token_id: fills what is shorter than the longest of a batch.
            separates_sources: no chunk holds text of two sources, so that they can be weighted.

        Raises:
            ConfigError: a chunk has no room for text between its special tokens.
        """
        frame = Frame.of(config, special_tokens)
        layout = StreamLayout.of(
            store, documents, config, frame, separates_sources=separates_sources
        )
        lengths, sources = store.documents.lengths[documents], store.documents.sources[documents]
        return cls(
            store,
            layout,
            pad_token_id,
            num_body_tokens=int(lengths.sum()),
            num_body_tokens_by_source=sum_by_source(lengths, sources, len(store.sources)),
            num_documents=len(documents),
            num_characters=int(store.documents.num_characters[documents].sum()),
        )

    def select(self, chunks: NDArray[np.int64]) -> Self:
        """A view of some of this view's chunks, in the order given."""
        selected = replace(
            self,
            num_documents=None,
            num_characters=None,
            selection=chunks if self.selection is None else self.selection[chunks],
        )
        return replace(selected, num_body_tokens=sum(len(ids) for ids in selected._bodies()))

    def _bodies(self) -> Iterator[NDArray[np.int64]]:
        """The body ids of all chunks, a block of chunks at a time."""
        for start in range(0, len(self), BLOCK_CHUNKS):
            chunks = self.batch(np.arange(start, min(start + BLOCK_CHUNKS, len(self))))
            yield chunks.input_ids[~chunks.special_tokens_mask]

    def __len__(self) -> int:
        return self.layout.num_chunks if self.selection is None else len(self.selection)

    def _windows(self, chunks: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(B,) start of each chunk in the stream, and (B,) number of stream tokens in it."""
        return self.layout.windows(chunks if self.selection is None else self.selection[chunks])

    def token_counts(self, vocabulary_size: int) -> NDArray[np.int64]:
        """(V,) how often each id occurs in the view's chunks, special tokens left out."""
        counts = np.zeros(vocabulary_size, dtype=np.int64)
        for ids in self._bodies():
            counts += np.bincount(ids, minlength=vocabulary_size)
        return counts

    def lengths(self, chunks: NDArray[np.int64]) -> NDArray[np.int64]:
        """(B,) tokens of each chunk, special tokens included."""
        return self._windows(chunks)[1] + self.layout.frame.num_per_chunk

    @property
    def num_tokens(self) -> int:
        """Tokens of all chunks together, special tokens included."""
        if self.selection is not None:
            return int(self.lengths(np.arange(len(self))).sum())
        return int(self.layout.num_tokens_by_source.sum())

    @property
    def num_tokens_truncated(self) -> int:
        """Tokens at the ends of long documents that are in no chunk; 0 of a selection."""
        return self.layout.num_tokens_truncated if self.selection is None else 0

    @property
    def num_tokens_dropped(self) -> int:
        """Tokens of last chunks that were too short; 0 of a selection."""
        return self.layout.num_tokens_dropped if self.selection is None else 0

    @property
    def num_chunks_by_source(self) -> NDArray[np.int64]:
        """(S,) chunks of each source, where no chunk holds two sources; not of a selection."""
        return self.layout.num_chunks_by_source

    @property
    def num_tokens_by_source(self) -> NDArray[np.int64]:
        """(S,) tokens of these chunks, special tokens included."""
        return self.layout.num_tokens_by_source

    def text_fingerprint(self) -> str:
        """Equal for views of the same documents, wherever they are and in whatever order."""
        hashes = np.sort(self.store.documents.content_hashes[self.layout.documents])
        return xxhash.xxh3_128_hexdigest(hashes.tobytes())

    def total(self, counts: NDArray[np.int64]) -> int:
        """How many of something the view's documents have together.

        Args:
            counts: (num_documents,) of the store: `num_text_words`, `num_bytes`, ...
        """
        return int(counts[self.layout.documents].sum())

    def documents_in(self, chunk: int) -> list[tuple[int, int]]:
        """Where in a chunk which documents are: column of its first token there, and its number.

        Numbers are those of the store; columns count the chunk's prefix, too.
        """
        layout = self.layout
        start, num_stream = (int(value[0]) for value in self._windows(np.asarray([chunk])))
        # Documents of which the window holds tokens, special tokens around them included.
        first = int(np.searchsorted(layout.document_offsets, start, side="right")) - 1
        end = int(np.searchsorted(layout.document_offsets, start + num_stream, side="left"))
        columns = len(layout.frame.prefix) + np.maximum(
            layout.document_offsets[first:end] - start, 0
        )
        return list(zip(columns.tolist(), layout.documents[first:end].tolist(), strict=True))

    def positions(self, chunks: NDArray[np.int64]) -> NDArray[np.int64]:
        """(B, T) the position in the store of each token of some chunks; -1 for special tokens."""
        layout, frame = self.layout, self.layout.frame
        document, body_position, inside = layout.tokens(*self._windows(chunks))
        is_body = inside & layout.is_body(document, body_position)
        shape = (len(chunks), is_body.shape[1] + frame.num_per_chunk)
        positions = np.full(shape, -1, dtype=np.int64)
        middle = slice(len(frame.prefix), len(frame.prefix) + is_body.shape[1])
        positions[:, middle] = np.where(is_body, layout.body_starts[document] + body_position, -1)
        return positions

    def batch(self, chunks: NDArray[np.int64]) -> ChunkBatch:
        """Put chunks together, padded to the longest of them.

        Args:
            chunks: (B,) indices in range(len(self)).
        """
        layout, frame = self.layout, self.layout.frame
        starts, num_stream = self._windows(chunks)
        document, body_position, inside = layout.tokens(starts, num_stream)
        is_body = inside & layout.is_body(document, body_position)

        body = np.full(is_body.shape, self.pad_token_id, dtype=np.int64)
        word_starts = np.zeros(body.shape, dtype=bool)
        in_store = (layout.body_starts[document] + body_position)[is_body]
        body[is_body], word_starts[is_body] = self.store.tokens_at(in_store)
        word_starts[:, 0] |= is_body[:, 0]
        if frame.before:
            at = inside & (body_position < 0)
            body[at] = np.asarray(frame.before)[body_position[at]]
        if frame.after:
            behind = body_position - layout.body_lengths[document]
            at = inside & (behind >= 0)
            body[at] = np.asarray(frame.after)[behind[at]]

        shape = (len(chunks), is_body.shape[1] + frame.num_per_chunk)
        middle = slice(len(frame.prefix), len(frame.prefix) + is_body.shape[1])
        input_ids = np.full(shape, self.pad_token_id, dtype=np.int64)
        input_ids[:, : len(frame.prefix)] = frame.prefix
        input_ids[:, middle] = body
        rows = np.arange(len(chunks))
        for number, token in enumerate(frame.suffix):
            input_ids[rows, len(frame.prefix) + num_stream + number] = token
        special = np.ones(shape, dtype=bool)
        special[:, middle] = ~is_body
        framed_word_starts = np.zeros(shape, dtype=bool)
        framed_word_starts[:, middle] = word_starts
        return ChunkBatch(input_ids, num_stream + frame.num_per_chunk, special, framed_word_starts)
