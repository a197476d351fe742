"""The documents of one side of the split as one stream of tokens, and where it is cut into chunks.

A document takes a *span* of the stream: its body, or as much of it as is kept, and the special
tokens that go around each document. The stream is cut into chunks *piece* by piece, and no chunk
holds tokens of two pieces: a piece is a document, the documents of a source, or all of them.

Legend: B chunks, W stream tokens in the longest of them, D documents, P pieces, S sources.
"""

from dataclasses import dataclass
from typing import Self

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
        prefix: those that begin each chunk.
        suffix: those that end each chunk.
        before: those that are in the stream before each document.
        after: those that are in the stream after each document.
        parts_documents: `after` separates a document from the next one, so that a piece of the
            stream does not end with it.
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
        """Special tokens that frame a chunk."""
        return len(self.prefix) + len(self.suffix)


@dataclass(frozen=True)
class StreamLayout:
    """Where documents, pieces and chunks begin and end in a stream.

    Attributes:
        documents: (D,) documents of the store, in stream order; each has tokens.
        body_starts: (D,) the position in the store of each document's first token.
        body_lengths: (D,) tokens of each document.
        frame: the special tokens.
        window: stream tokens of a full chunk.
        document_offsets: (D + 1,) where each document's span begins in the stream.
        piece_starts: (P,) where each piece begins in the stream.
        piece_ends: (P,) where it ends.
        chunk_offsets: (P + 1,) the number of each piece's first chunk.
        num_tokens_truncated: tokens at the ends of long documents that are in no chunk.
        num_tokens_dropped: tokens of last chunks that were too short.
        num_chunks_by_source: (S,) chunks of each source, where no chunk holds two sources.
        num_tokens_by_source: (S,) tokens of these chunks, special tokens included.
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
        """Lay documents out.

        Args:
            store: the tokenized corpus.
            documents: numbers of documents, in stream order; those without tokens are left out.
            config: how the stream is cut.
            frame: the special tokens.
            separates_sources: no chunk holds text of two sources.

        Raises:
            ConfigError: a chunk has no room for text between its special tokens.
        """
        window = config.chunk_length - frame.num_per_chunk
        if window < 1:
            raise ConfigError(
                f"chunking.chunk_length {config.chunk_length} leaves no room for text between "
                "the special tokens; make it longer"
            )
        documents = documents[store.documents.lengths[documents] > 0]
        body_lengths = store.documents.lengths[documents]
        per_document = config.mode == "per_document"
        truncates = per_document and config.long_documents == "truncate"
        spans = (
            np.minimum(body_lengths, window)
            if truncates
            else body_lengths + len(frame.before) + len(frame.after)
        )
        document_offsets = end_to_end(spans)

        sources = store.documents.sources[documents]
        if per_document:
            first_documents = np.arange(len(documents))
        elif separates_sources:
            first_documents = np.flatnonzero(np.diff(sources, prepend=-1))
        else:
            first_documents = np.arange(min(len(documents), 1))
        bounds = document_offsets[np.append(first_documents, len(documents))]
        piece_ends = bounds[1:] - (len(frame.after) if frame.parts_documents else 0)

        lengths = piece_ends - bounds[:-1]
        num_chunks, rest = np.divmod(lengths, window)
        drops_rest = config.last_chunk == "drop" and not per_document
        if drops_rest:
            lengths = lengths - rest
        else:
            num_chunks = num_chunks + (rest > 0)
        piece_sources, num_sources = sources[first_documents], len(store.sources)
        num_tokens = lengths + num_chunks * frame.num_per_chunk
        return cls(
            documents, store.offsets[documents], body_lengths, frame, window, document_offsets,
            bounds[:-1], piece_ends,
            chunk_offsets=end_to_end(num_chunks),
            num_tokens_truncated=int((body_lengths - spans).sum()) if truncates else 0,
            num_tokens_dropped=int(rest.sum()) if drops_rest else 0,
            num_chunks_by_source=sum_by_source(num_chunks, piece_sources, num_sources),
            num_tokens_by_source=sum_by_source(num_tokens, piece_sources, num_sources),
        )  # fmt: skip

    @property
    def num_chunks(self) -> int:
        """Chunks of the whole stream."""
        return int(self.chunk_offsets[-1])

    def windows(self, chunks: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(B,) start of each chunk in the stream, and (B,) number of stream tokens in it."""
        piece = np.searchsorted(self.chunk_offsets, chunks, side="right") - 1
        starts = self.piece_starts[piece] + (chunks - self.chunk_offsets[piece]) * self.window
        return starts, np.minimum(self.window, self.piece_ends[piece] - starts)

    def tokens(
        self, starts: NDArray[np.int64], num_stream: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
        """Find the tokens of B windows.

        Args:
            starts: (B,) where each window begins in the stream.
            num_stream: (B,) stream tokens of each window.

        Returns:
            (B, W) the document of each token, as an index of `documents`; (B, W) its position in
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
        """Whether positions are inside the bodies of their documents; any shape."""
        is_inside: NDArray[np.bool_] = body_position >= 0
        return is_inside & (body_position < self.body_lengths[document])
