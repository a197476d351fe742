"""TokenStore -> chunks: sequences of one length, which are built when they are requested.

The documents of one side of the split form a *stream*: the tokens of each document with a few
special tokens around them (see `stream_layout`). A chunk is a window of that stream in a frame of
special tokens. Memory holds only the numbers that describe the stream; the ids stay in the store.

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
"""The number of chunks that are built at once when all chunks of a view are read."""


@dataclass(frozen=True)
class ChunkBatch:
    """Chunks, or pairs of segments, as arrays that are padded on the right.

    Attributes:
        input_ids: (B, T) int64, `pad_token_id` at padding.
        lengths: (B,) The number of tokens before the padding.
        special_tokens_mask: (B, T) bool, True at special tokens and padding.
        word_starts: (B, T) bool, True where a word begins. A chunk's first body token always
            begins one, even if the chunk begins within a word. False at special tokens.
        token_type_ids: (B, T) int64, the segment of each token; None if they are not pairs.
        pair_labels: (B,) int64, 1 if the segments of a pair do not belong together in this order;
            None if they are not pairs.
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
        store: The tokenized corpus.
        layout: The stream of the documents, and where it is cut.
        pad_token_id: Fills the chunks that are shorter than the longest of a batch.
        num_body_tokens: The number of tokens of the documents or, for a selection, of its chunks.
        num_body_tokens_by_source: (S,) The same for each source of the store.
        num_documents: None for a selection, because its chunks may cut documents.
        num_characters: The number of characters of the documents; None for a selection.
        selection: (B,) The chunks of the stream that the view has, in order; None for all of them.
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
        """Cut (D,) documents, in stream order, into chunks.

        With `separates_sources` no chunk has text of two sources, so that these can be weighted.

        Raises:
            ConfigError: A chunk has no room for text between its special tokens.
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
        """Return a view of some of this view's chunks, in the given order."""
        selected = replace(
            self,
            num_documents=None,
            num_characters=None,
            selection=chunks if self.selection is None else self.selection[chunks],
        )
        store, by_source = self.store, np.zeros(len(self.store.sources), np.int64)
        for block in selected._blocks():
            positions = selected.positions(block)
            documents = store.documents_at(positions[positions >= 0])
            sources = store.documents.sources[documents]
            by_source += np.bincount(sources, minlength=len(store.sources))
        return replace(
            selected, num_body_tokens=int(by_source.sum()), num_body_tokens_by_source=by_source
        )

    def _blocks(self) -> Iterator[NDArray[np.int64]]:
        """Yield the numbers of all chunks, as many at a time as are built at once."""
        for start in range(0, len(self), BLOCK_CHUNKS):
            yield np.arange(start, min(start + BLOCK_CHUNKS, len(self)))

    def __len__(self) -> int:
        return self.layout.num_chunks if self.selection is None else len(self.selection)

    def _windows(self, chunks: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return (B,) the start of each chunk in the stream, and (B,) its length there."""
        return self.layout.windows(chunks if self.selection is None else self.selection[chunks])

    def token_counts(self, vocabulary_size: int) -> NDArray[np.int64]:
        """Count (V,) how often each id occurs in the chunks, without special tokens."""
        counts = np.zeros(vocabulary_size, dtype=np.int64)
        for block in self._blocks():
            chunks = self.batch(block)
            ids = chunks.input_ids[~chunks.special_tokens_mask]
            counts += np.bincount(ids, minlength=vocabulary_size)
        return counts

    def lengths(self, chunks: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return (B,) the number of tokens of each chunk, special tokens included."""
        return self._windows(chunks)[1] + self.layout.frame.num_per_chunk

    @property
    def num_tokens(self) -> int:
        """The number of tokens of all chunks, special tokens included."""
        if self.selection is not None:
            return int(self.lengths(np.arange(len(self))).sum())
        return int(self.layout.num_tokens_by_source.sum())

    @property
    def num_tokens_truncated(self) -> int:
        """The number of tokens at the ends of long documents that are in no chunk."""
        return self.layout.num_tokens_truncated if self.selection is None else 0

    @property
    def num_tokens_dropped(self) -> int:
        """The number of tokens at the ends of streams that do not fill a chunk and are dropped."""
        return self.layout.num_tokens_dropped if self.selection is None else 0

    @property
    def num_chunks_by_source(self) -> NDArray[np.int64]:
        """(S,) The number of chunks of each separated source, regardless of the selection."""
        return self.layout.num_chunks_by_source

    @property
    def num_tokens_by_source(self) -> NDArray[np.int64]:
        """(S,) The number of tokens of these chunks, special tokens included."""
        return self.layout.num_tokens_by_source

    def text_fingerprint(self) -> str:
        """Return a hash that is equal for views of the same documents, in any order and place."""
        hashes = np.sort(self.store.documents.content_hashes[self.layout.documents])
        return xxhash.xxh3_128_hexdigest(hashes.tobytes())

    def total(self, counts: NDArray[np.int64]) -> int:
        """Add up a count of the store, such as `num_bytes`, over the view's documents."""
        return int(counts[self.layout.documents].sum())

    def documents_in(self, chunk: int) -> list[tuple[int, int]]:
        """Return the column of each document's first token in a chunk, and its number in the store.

        The column counts the chunk's prefix, too.
        """
        layout = self.layout
        start, num_stream = (int(value[0]) for value in self._windows(np.asarray([chunk])))
        # A document of which the window has only a special token counts, too.
        first = int(np.searchsorted(layout.document_offsets, start, side="right")) - 1
        end = int(np.searchsorted(layout.document_offsets, start + num_stream, side="left"))
        columns = np.maximum(layout.document_offsets[first:end] - start, 0)
        columns += len(layout.frame.prefix)
        return list(zip(columns.tolist(), layout.documents[first:end].tolist(), strict=True))

    def positions(self, chunks: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return (B, T) the position of each token in the store; -1 for special tokens."""
        layout, frame = self.layout, self.layout.frame
        document, body_position, inside = layout.tokens(*self._windows(chunks))
        is_body = inside & layout.is_body(document, body_position)
        positions = np.where(is_body, layout.body_starts[document] + body_position, -1)
        margins = ((0, 0), (len(frame.prefix), len(frame.suffix)))
        return np.pad(positions, margins, constant_values=-1)

    def batch(self, chunks: NDArray[np.int64]) -> ChunkBatch:
        """Build the token arrays of (B,) chunks, padded to the longest of them."""
        layout, frame = self.layout, self.layout.frame
        starts, num_stream = self._windows(chunks)
        document, body_position, inside = layout.tokens(starts, num_stream)
        is_body = inside & layout.is_body(document, body_position)

        shape = (len(chunks), is_body.shape[1] + frame.num_per_chunk)
        input_ids = np.full(shape, self.pad_token_id, dtype=np.int64)
        special, word_starts = np.ones(shape, dtype=bool), np.zeros(shape, dtype=bool)
        # Views of the columns between prefix and suffix: what is written here is written there.
        middle = slice(len(frame.prefix), len(frame.prefix) + is_body.shape[1])
        stream, stream_word_starts = input_ids[:, middle], word_starts[:, middle]

        in_store = (layout.body_starts[document] + body_position)[is_body]
        stream[is_body], stream_word_starts[is_body] = self.store.tokens_at(in_store)
        stream_word_starts[:, 0] |= is_body[:, 0]
        special[:, middle] = ~is_body
        if frame.before:
            at = inside & (body_position < 0)
            stream[at] = np.asarray(frame.before)[body_position[at]]
        if frame.after:
            behind = body_position - layout.body_lengths[document]
            at = inside & (behind >= 0)
            stream[at] = np.asarray(frame.after)[behind[at]]
        input_ids[:, : len(frame.prefix)] = frame.prefix
        suffix_columns = len(frame.prefix) + num_stream[:, None] + np.arange(len(frame.suffix))
        np.put_along_axis(input_ids, suffix_columns, np.asarray(frame.suffix, np.int64), axis=1)
        return ChunkBatch(input_ids, num_stream + frame.num_per_chunk, special, word_starts)
