"""StreamLayout: how the documents of one side of the split form a stream that is cut into chunks.

A document takes a *span* of the stream: its body, or the part of it that is kept, and the special
tokens that go around each document. The stream is cut into chunks *piece* by piece, and no chunk
holds tokens of two pieces. A piece is a document, the documents of a source, or all documents.

Legend: B chunks, W stream tokens in the longest of them, D documents, P pieces, S sources.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from mlmtune.config import ChunkingConfig
from mlmtune.errors import ConfigError
from mlmtune.tokens.special_tokens import SpecialTokens
from mlmtune.tokens.store import TokenStore
from mlmtune.tokens.sums import end_to_end, sum_by_source


@dataclass(frozen=True)
class Frame:
    """The special tokens of a stream.

    Attributes:
        prefix: The ids that begin each chunk.
        suffix: The ids that end each chunk.
        before: The ids in the stream before each document.
        after: The ids in the stream after each document.
        parts_documents: Whether `after` separates a document from the next one, so that a piece of
            the stream does not end with it.
    """

    prefix: tuple[int, ...]
    suffix: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]
    parts_documents: bool

    @classmethod
    def of(cls, config: ChunkingConfig, special_tokens: SpecialTokens) -> Self:
        """Put the tokenizer's special tokens around documents or around chunks."""
        prefix, suffix = special_tokens.prefix, special_tokens.suffix
        if config.special_tokens == "document":
            return cls((), (), prefix, suffix, parts_documents=False)
        if config.mode == "per_document":
            return cls(prefix, suffix, (), (), parts_documents=False)
        return cls(prefix, suffix, (), special_tokens.separator, parts_documents=True)

    @property
    def num_per_chunk(self) -> int:
        """The number of special tokens that frame a chunk."""
        return len(self.prefix) + len(self.suffix)

    def window(self, chunk_length: int) -> int:
        """Return the number of stream tokens in a full chunk.

        Raises:
            ConfigError: A chunk has no room for text between its special tokens.
        """
        window = chunk_length - self.num_per_chunk
        if window < 1:
            raise ConfigError(
                f"chunking.chunk_length {chunk_length} leaves no room for text between the "
                "special tokens; make it longer"
            )
        return window


@dataclass(frozen=True)
class StreamLayout:
    """The positions in a stream at which documents, pieces and chunks begin and end.

    Attributes:
        documents: (D,) The numbers of the documents in the store, in stream order; each has tokens.
        body_starts: (D,) The position in the store of each document's first token.
        body_lengths: (D,) The number of tokens of each document.
        window: The number of stream tokens in a full chunk.
        document_offsets: (D + 1,) The position at which each document's span begins.
        piece_starts: (P,) The position at which each piece begins.
        piece_ends: (P,) The position at which each piece ends.
        chunk_offsets: (P + 1,) The number of each piece's first chunk.
        num_tokens_truncated: The number of tokens at the ends of long documents, in no chunk.
        num_tokens_dropped: The number of tokens in last chunks that were too short.
        num_chunks_by_source: (S,) The number of chunks of each source. Only meaningful if no chunk
            holds text of two sources.
        num_tokens_by_source: (S,) The number of tokens in these, special tokens included.
    """

    documents: NDArray[np.int64]
    body_starts: NDArray[np.int64]
    body_lengths: NDArray[np.int64]
    frame: Frame
    window: int
    document_offsets: NDArray[np.int64]
    piece_starts: NDArray[np.int64]
    piece_ends: NDArray[np.int64]
    chunk_offsets: NDArray[np.int64]
    num_tokens_truncated: int
    num_tokens_dropped: int
    num_chunks_by_source: NDArray[np.int64]
    num_tokens_by_source: NDArray[np.int64]

    @classmethod
    def of(
        cls,
        store: TokenStore,
        documents: NDArray[np.int64],
        config: ChunkingConfig,
        frame: Frame,
        *,
        separates_sources: bool,
    ) -> Self:
        """Arrange documents in a stream, and cut it into chunks.

        Args:
            store: The tokenized corpus.
            documents: The numbers of the documents; those without tokens are left out.
            config: How the stream is cut.
            frame: The special tokens.
            separates_sources: Whether each source is a piece, so that sources can be weighted.

        Raises:
            ConfigError: A chunk has no room for text between its special tokens.
        """
        window = frame.window(config.chunk_length)
        documents = documents[store.documents.lengths[documents] > 0]
        body_lengths = store.documents.lengths[documents]
        sources = store.documents.sources[documents]
        per_document = config.mode == "per_document"
        spans = body_lengths + len(frame.before) + len(frame.after)
        if per_document and config.long_documents == "truncate":
            spans = np.minimum(spans, window)
        document_offsets = end_to_end(spans)

        piece_of_document: NDArray[Any] = sources if separates_sources else np.zeros_like(sources)
        if per_document:
            piece_of_document = np.arange(len(documents))
        first_documents = np.flatnonzero(np.diff(piece_of_document, prepend=-1))
        bounds = document_offsets[np.append(first_documents, len(documents))]
        piece_ends = bounds[1:] - (len(frame.after) if frame.parts_documents else 0)

        lengths = piece_ends - bounds[:-1]
        num_chunks, rest = np.divmod(lengths, window)
        drops_rest = config.last_chunk == "drop" and not per_document
        if drops_rest:
            lengths = lengths - rest
        else:
            num_chunks = num_chunks + (rest > 0)
        num_tokens = lengths + num_chunks * frame.num_per_chunk
        by_source = partial(
            sum_by_source, sources=sources[first_documents], num_sources=len(store.sources)
        )
        return cls(
            documents, store.offsets[documents], body_lengths, frame, window, document_offsets,
            bounds[:-1], piece_ends,
            chunk_offsets=end_to_end(num_chunks),
            num_tokens_truncated=int(np.maximum(body_lengths - spans, 0).sum()),
            num_tokens_dropped=int(rest.sum()) if drops_rest else 0,
            num_chunks_by_source=by_source(num_chunks),
            num_tokens_by_source=by_source(num_tokens),
        )  # fmt: skip

    @property
    def num_chunks(self) -> int:
        """The number of chunks of the whole stream."""
        return int(self.chunk_offsets[-1])

    def windows(self, chunks: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return (B,) the position at which each chunk begins, and (B,) its stream tokens."""
        piece = np.searchsorted(self.chunk_offsets, chunks, side="right") - 1
        starts = self.piece_starts[piece] + (chunks - self.chunk_offsets[piece]) * self.window
        return starts, np.minimum(self.window, self.piece_ends[piece] - starts)

    def tokens(
        self, starts: NDArray[np.int64], num_stream: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
        """Find the tokens of B windows.

        Args:
            starts: (B,) The position at which each window begins.
            num_stream: (B,) The number of stream tokens of each window.

        Returns:
            (B, W) the document of each token, as an index into `documents`; (B, W) its position in
            the document's body, which is outside of the body for a special token; (B, W) whether
            it is inside the window.
        """
        columns = np.arange(int(num_stream.max()))
        inside = columns < num_stream[:, None]
        # Positions after a window's end repeat its last token.
        positions = np.minimum(starts[:, None] + columns, (starts + num_stream - 1)[:, None])
        document = np.searchsorted(self.document_offsets, positions, side="right") - 1
        body_position = positions - self.document_offsets[document] - len(self.frame.before)
        return document, body_position, inside

    def is_body(
        self, document: NDArray[np.int64], body_position: NDArray[np.int64]
    ) -> NDArray[np.bool_]:
        """Whether positions, in any shape, are inside the bodies of their documents."""
        return (body_position >= 0) & (body_position < self.body_lengths[document])
