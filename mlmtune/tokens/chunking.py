"""TokenStore -> chunks: sequences of one length, put together when they are asked for.

The documents of one side of the split form a *stream*: each document's body ids with a few
special ids around it. A chunk is a window on that stream inside a frame of special tokens. Only
the numbers that describe the stream are held; ids stay in the store.

Legend: B chunks, T tokens in a chunk, D documents, N chunks of a view.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import xxhash
from numpy.typing import NDArray

from mlmtune.config import ChunkingConfig
from mlmtune.errors import ConfigError
from mlmtune.tokens.store import TokenStore
from mlmtune.tokens.tokenization import SpecialTokens

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


class ChunkView:
    """The chunks of some documents of a store.

    Args:
        store: the tokenized corpus.
        documents: (D,) which documents, in stream order.
        config: how to cut.
        special_tokens: the tokenizer's frame.
        pad_token_id: fills what is shorter than the longest of a batch.
        separates_sources: no chunk holds text of two sources, so that they can be weighted.
    """

    def __init__(
        self,
        store: TokenStore,
        documents: NDArray[np.int64],
        config: ChunkingConfig,
        special_tokens: SpecialTokens,
        pad_token_id: int,
        *,
        separates_sources: bool = False,
    ) -> None:
        self.num_documents: int | None = len(documents)
        self.num_characters: int | None = int(store.num_characters[documents].sum())
        self.num_body_tokens = int(store.lengths[documents].sum())
        self.num_body_tokens_by_source = _sums(
            store.document_sources[documents], store.lengths[documents], len(store.sources)
        )
        documents = documents[store.lengths[documents] > 0]
        self.store = store
        self._documents = documents
        self._pad_token_id = pad_token_id
        self._token_offsets = store.offsets[documents]
        body_lengths = store.lengths[documents]
        self._body_lengths = body_lengths

        per_document = config.mode == "per_document"
        frame_documents = config.special_tokens == "document"
        self._frame = (
            ((), ()) if frame_documents else (special_tokens.prefix, special_tokens.suffix)
        )
        before: tuple[int, ...] = special_tokens.prefix if frame_documents else ()
        after: tuple[int, ...] = special_tokens.suffix if frame_documents else ()
        if not per_document and not frame_documents:
            after = special_tokens.separator
        self._before, self._after = np.asarray(before, np.int64), np.asarray(after, np.int64)

        window = config.chunk_length - len(self._frame[0]) - len(self._frame[1])
        if window < 1:
            raise ConfigError(
                f"chunking.chunk_length {config.chunk_length} leaves no room for text between "
                "the special tokens; make it longer"
            )
        self._window = window

        if per_document and config.long_documents == "truncate":
            self.num_tokens_truncated = int(np.maximum(body_lengths - window, 0).sum())
            spans = np.minimum(body_lengths, window)
        else:
            self.num_tokens_truncated = 0
            spans = body_lengths + len(before) + len(after)
        self._stream_offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(spans)])

        # A piece of the stream is cut into chunks by itself: a document, a source, or all of it.
        sources = store.document_sources[documents]
        if per_document:
            first_documents = np.arange(len(documents))
        elif separates_sources:
            first_documents = np.flatnonzero(np.diff(sources, prepend=-1))
        else:
            first_documents = np.arange(min(len(documents), 1))
        bounds = self._stream_offsets[np.append(first_documents, len(documents))]
        self._piece_starts, self._piece_ends = bounds[:-1], bounds[1:]
        if not per_document and not frame_documents:
            self._piece_ends = self._piece_ends - len(after)  # separators stand between documents

        lengths = self._piece_ends - self._piece_starts
        chunks_of, rest = np.divmod(lengths, window)
        self.num_tokens_dropped = 0
        if config.last_chunk == "drop" and not per_document:
            self.num_tokens_dropped = int(rest.sum())
            lengths = lengths - rest
        else:
            chunks_of = chunks_of + (rest > 0)
        self._chunk_offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(chunks_of)])
        self._selection: NDArray[np.int64] | None = None
        self._num_chunks = int(self._chunk_offsets[-1])

        frame = len(self._frame[0]) + len(self._frame[1])
        self._num_tokens = int(lengths.sum()) + self._num_chunks * frame
        # By source; where a piece holds several, nobody asks.
        piece_sources, num_sources = sources[first_documents], len(store.sources)
        self.num_chunks_by_source = _sums(piece_sources, chunks_of, num_sources)
        self.num_tokens_by_source = _sums(piece_sources, lengths + chunks_of * frame, num_sources)

    def select(self, chunks: NDArray[np.int64]) -> "ChunkView":
        """A view of some of this view's chunks, in the order given.

        It counts the body tokens of its chunks; documents and characters may be cut, and are None.
        """
        view = object.__new__(ChunkView)
        view.__dict__.update(self.__dict__)
        view._selection = chunks if self._selection is None else self._selection[chunks]
        view._num_chunks = len(chunks)
        view.num_documents = view.num_characters = None
        view.num_tokens_dropped = view.num_tokens_truncated = 0
        view.num_body_tokens = sum(len(ids) for ids in view._bodies())
        return view

    def _bodies(self) -> Iterator[NDArray[np.int64]]:
        """The body ids of all chunks, a block of chunks at a time."""
        for start in range(0, len(self), BLOCK_CHUNKS):
            chunks = self.batch(np.arange(start, min(start + BLOCK_CHUNKS, len(self))))
            yield chunks.input_ids[~chunks.special_tokens_mask]

    def __len__(self) -> int:
        return self._num_chunks

    def _windows(self, chunks: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(B,) start of each chunk in the stream, and (B,) number of stream tokens in it."""
        if self._selection is not None:
            chunks = self._selection[chunks]
        piece = np.searchsorted(self._chunk_offsets, chunks, side="right") - 1
        starts = self._piece_starts[piece] + (chunks - self._chunk_offsets[piece]) * self._window
        return starts, np.minimum(self._window, self._piece_ends[piece] - starts)

    def token_counts(self, vocabulary_size: int) -> NDArray[np.int64]:
        """(V,) how often each id occurs in the view's chunks, special tokens left out."""
        counts = np.zeros(vocabulary_size, dtype=np.int64)
        for ids in self._bodies():
            counts += np.bincount(ids, minlength=vocabulary_size)
        return counts

    def lengths(self, chunks: NDArray[np.int64]) -> NDArray[np.int64]:
        """(B,) tokens of each chunk, special tokens included."""
        return self._windows(chunks)[1] + len(self._frame[0]) + len(self._frame[1])

    @property
    def num_tokens(self) -> int:
        """Tokens of all chunks together, special tokens included."""
        if self._selection is not None:
            return int(self.lengths(np.arange(len(self))).sum())
        return self._num_tokens

    def text_fingerprint(self) -> str:
        """Equal for views of the same documents, wherever they lie and in whatever order."""
        hashes = np.sort(self.store.content_hashes[self._documents])
        return xxhash.xxh3_128_hexdigest(hashes.tobytes())

    def total(self, counts: NDArray[np.int64]) -> int:
        """How many of something the view's documents have together.

        Args:
            counts: (num_documents,) of the store: `num_text_words`, `num_bytes`, ...
        """
        return int(counts[self._documents].sum())

    def documents_in(self, chunk: int) -> list[tuple[int, int]]:
        """Where in a chunk which documents are: column of its first token there, and its number.

        Numbers are those of the store; columns count the chunk's prefix, too.
        """
        starts, num_stream = (int(value[0]) for value in self._windows(np.asarray([chunk])))
        first, end = np.searchsorted(
            self._stream_offsets, [starts, starts + num_stream], side="right"
        )
        prefix = len(self._frame[0])
        return [
            (
                prefix + max(int(self._stream_offsets[place]) - starts, 0),
                int(self._documents[place]),
            )
            for place in range(first - 1, end)
            if place < len(self._documents)
            and int(self._stream_offsets[place]) < starts + num_stream
        ]

    def positions(self, chunks: NDArray[np.int64]) -> NDArray[np.int64]:
        """(B, T) where in the store each token of some chunks stands; -1 where none does."""
        prefix, suffix = self._frame
        starts, num_stream = self._windows(chunks)
        document, place, inside = self._places(starts, num_stream)
        is_body = inside & (place >= 0) & (place < self._body_lengths[document])
        shape = (len(chunks), is_body.shape[1] + len(prefix) + len(suffix))
        positions = np.full(shape, -1, dtype=np.int64)
        middle = slice(len(prefix), len(prefix) + is_body.shape[1])
        positions[:, middle] = np.where(is_body, self._token_offsets[document] + place, -1)
        return positions

    def _places(
        self, starts: NDArray[np.int64], num_stream: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
        """Where the W stream tokens of B windows stand.

        Returns:
            (B, W) the document of each; (B, W) its place in the document's body, which it is
            outside of if it is a special token; (B, W) whether it is inside the window.
        """
        columns = np.arange(int(num_stream.max()))
        inside = columns < num_stream[:, None]
        # Positions after a window's end repeat its last token.
        positions = np.minimum(starts[:, None] + columns, (starts + num_stream - 1)[:, None])
        document = np.searchsorted(self._stream_offsets, positions, side="right") - 1
        place = positions - self._stream_offsets[document] - len(self._before)
        return document, place, inside

    def batch(self, chunks: NDArray[np.int64]) -> ChunkBatch:
        """Put chunks together, padded to the longest of them.

        Args:
            chunks: (B,) indices in range(len(self)).
        """
        prefix, suffix = self._frame
        starts, num_stream = self._windows(chunks)
        document, place, inside = self._places(starts, num_stream)
        is_body = inside & (place >= 0) & (place < self._body_lengths[document])
        tokens = (self._token_offsets[document] + place)[is_body]

        width = is_body.shape[1]
        body = np.full(is_body.shape, self._pad_token_id, dtype=np.int64)
        word_starts = np.zeros(body.shape, dtype=bool)
        body[is_body], word_starts[is_body] = self.store.tokens_at(tokens)
        word_starts[:, 0] |= is_body[:, 0]
        if len(self._before):
            at = inside & (place < 0)
            body[at] = self._before[place[at]]
        if len(self._after):
            at = inside & (place >= self._body_lengths[document])
            body[at] = self._after[(place - self._body_lengths[document])[at]]

        lengths = num_stream + len(prefix) + len(suffix)
        shape = (len(chunks), width + len(prefix) + len(suffix))
        input_ids = np.full(shape, self._pad_token_id, dtype=np.int64)
        middle = slice(len(prefix), len(prefix) + width)
        input_ids[:, : len(prefix)] = prefix
        input_ids[:, middle] = body
        rows = np.arange(len(chunks))
        for place_in_suffix, token in enumerate(suffix):
            input_ids[rows, len(prefix) + num_stream + place_in_suffix] = token
        special = np.ones(shape, dtype=bool)
        special[:, middle] = ~is_body
        framed_word_starts = np.zeros(shape, dtype=bool)
        framed_word_starts[:, middle] = word_starts
        return ChunkBatch(input_ids, lengths, special, framed_word_starts)


def _sums(
    groups: NDArray[np.uint16], values: NDArray[np.int64], num_groups: int
) -> NDArray[np.int64]:
    sums = np.zeros(num_groups, dtype=np.int64)
    np.add.at(sums, groups, values)
    return sums
