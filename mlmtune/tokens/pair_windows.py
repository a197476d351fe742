"""PairView: the windows of sentences in a token store, and the segments that they are divided into.

The sentences of each document form *windows*: as many whole sentences in a row as fit beside the
special tokens. A window is divided into a segment A and a segment B at the beginning of one of its
sentences, which is drawn again in each epoch. A takes up to half of the room, so that any sentence
fits beside it. B begins at its sentence and goes on until the room or its document ends. The same
rule holds whether B follows A or comes from another document, so that its length reveals nothing.

A sentence longer than half of the room is cut into two or more pieces. A window of one sentence
cannot be divided and is left out; that happens at the ends of documents.

Legend: B pairs, D documents.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from mlmtune.errors import ConfigError
from mlmtune.randomness import UInt64Array, key, uniform
from mlmtune.tokens.chunking import ChunkBatch
from mlmtune.tokens.encoding import framed
from mlmtune.tokens.store import TokenStore
from mlmtune.tokens.sums import sum_by_source

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

BORDER_STREAM, ELSEWHERE_STREAM = 4, 5
"""Keep the draws of borders and of other windows apart from those of masks, which use the same key
(see `corruption`)."""


@dataclass(frozen=True)
class PairFrame:
    """The special ids around the two segments of a pair, as the tokenizer's template puts them.

    Attributes:
        prefix: The ids before A ([CLS]).
        separator: The ids between A and B ([SEP]).
        suffix: The ids after B ([SEP]).
        pad_token_id: Fills the pairs that are shorter than the longest of a batch.
    """

    prefix: tuple[int, ...]
    separator: tuple[int, ...]
    suffix: tuple[int, ...]
    pad_token_id: int

    @classmethod
    def of(cls, tokenizer: "PreTrainedTokenizerFast") -> Self:
        """Read the special ids off the tokenizer's template for pairs.

        Raises:
            ConfigError: The template puts nothing between the two segments.
        """
        encoding = framed(tokenizer, is_pair=True)
        is_special = np.asarray(encoding.special_tokens_mask, dtype=bool)
        segments = np.asarray([-1 if s is None else s for s in encoding.sequence_ids])
        first, second = (np.flatnonzero(~is_special & (segments == s)) for s in (0, 1))
        ids = encoding.ids
        separator = tuple(ids[first[-1] + 1 : second[0]])
        if not separator:
            raise ConfigError(
                f"{tokenizer.name_or_path}: the tokenizer puts nothing between the segments of a "
                "pair; set objective: mlm, or add a template for pairs to its tokenizer.json"
            )
        pad_token_id = tokenizer.pad_token_id
        return cls(
            tuple(ids[: first[0]]),
            separator,
            tuple(ids[second[-1] + 1 :]),
            0 if pad_token_id is None else int(pad_token_id),
        )

    def __len__(self) -> int:
        return len(self.prefix) + len(self.separator) + len(self.suffix)


class PairView:
    """The windows of some documents of a store, and the pairs that they make.

    Args:
        store: The tokenized corpus.
        sentence_starts: The positions of all tokens of the store that begin a sentence.
        documents: (D,) The numbers of the documents, ascending.
        pair_length: The most tokens in a pair, special tokens included.

    Attributes:
        num_documents: The number of documents that have a window.
        num_chunks_by_source: The number of windows of each source.
        num_body_tokens_by_source: The number of their tokens, without special tokens.
        num_tokens_by_source: The same with special tokens.
        num_tokens: Their sum over all sources.
        num_tokens_left_out: The number of body tokens in windows of a single sentence.

    Raises:
        ConfigError: `pair_length` leaves no room for two sentences.
    """

    def __init__(
        self,
        store: TokenStore,
        sentence_starts: NDArray[np.int64],
        documents: NDArray[np.int64],
        pair_length: int,
        frame: PairFrame,
    ) -> None:
        self._room = pair_length - len(frame)
        self._half = self._room // 2
        if self._room < 2:
            raise ConfigError(
                f"chunking.chunk_length {pair_length} leaves no room for two sentences between the "
                "special tokens; make it longer"
            )
        self._store = store
        self.frame = frame
        documents = documents[store.documents.lengths[documents] > 0]
        self._lay_out_sentences(sentence_starts, documents)
        self._lay_out_windows()

        self._of_windows = self._of[self._first]
        sources = store.documents.sources[self.documents(np.arange(len(self)))]
        self.num_documents = int((np.diff(self._of_windows, prepend=-1) > 0).sum())
        sizes = self._ends[self._last] - self._starts[self._first]
        num_sources = len(store.sources)
        self.num_chunks_by_source = np.bincount(sources, minlength=num_sources)
        self.num_body_tokens_by_source = sum_by_source(sizes, sources, num_sources)
        num_special = len(frame) * self.num_chunks_by_source
        self.num_tokens_by_source = self.num_body_tokens_by_source + num_special
        self.num_tokens = int(self.num_tokens_by_source.sum())
        self.num_tokens_left_out = int(store.documents.lengths[documents].sum() - sizes.sum())

    def _lay_out_sentences(
        self, sentence_starts: NDArray[np.int64], documents: NDArray[np.int64]
    ) -> None:
        """Find where each sentence begins and ends, and cut those that are too long into pieces."""
        begins, ends = self._store.offsets[documents], self._store.offsets[documents + 1]
        is_inside = np.isin(self._store.documents_at(sentence_starts), documents)
        starts = np.unique(np.concatenate([begins, sentence_starts[is_inside]]))
        of = np.searchsorted(ends, starts, side="right")
        lengths = np.minimum(np.append(starts[1:], ends[-1:]), ends[of]) - starts
        num_pieces = -(-lengths // self._half)
        first_pieces = np.repeat(np.cumsum(num_pieces) - num_pieces, num_pieces)
        piece = np.arange(num_pieces.sum()) - first_pieces
        # Pieces have about the same length, so that a long sentence does not end in a scrap.
        size = np.repeat(-(-lengths // num_pieces), num_pieces)
        self._starts = np.repeat(starts, num_pieces) + piece * size
        self._of = np.repeat(of, num_pieces)
        self._ends = np.minimum(np.append(self._starts[1:], ends[-1:]), ends[self._of])
        self._document_numbers = documents
        self._last_of_document = np.searchsorted(self._starts, ends, side="left") - 1

    def _lay_out_windows(self) -> None:
        """Find the first and the last sentence of each window of two or more sentences."""
        last = np.searchsorted(self._ends, self._starts + self._room, side="right") - 1
        last = np.minimum(last, self._last_of_document[self._of])
        firsts = []
        current = np.append(0, self._last_of_document + 1)[:-1]  # the first of each document
        while len(current):  # one window of every document at a time
            firsts.append(current)
            following = last[current] + 1
            current = following[following <= self._last_of_document[self._of[current]]]
        first = np.sort(np.concatenate([np.empty(0, np.int64), *firsts]))
        first = first[last[first] > first]
        self._first, self._last = first, last[first]

    def documents(self, windows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return (B,) the number of each window's document in the store."""
        documents: NDArray[np.int64] = self._document_numbers[self._of_windows[windows]]
        return documents

    def __len__(self) -> int:
        return len(self._first)

    def documents_in(self, segments: NDArray[np.int64]) -> list[tuple[int, int]]:
        """Return the column at which each of two segments begins in their pair, and its document.

        Args:
            segments: (2, 2) The position and the length of the first and the second segment.
        """
        (first, length), (second, _) = segments.tolist()
        begin = len(self.frame.prefix)
        columns = (begin, begin + length + len(self.frame.separator))
        documents = self._store.documents_at(np.asarray([first, second]))
        return list(zip(columns, documents.tolist(), strict=True))

    def borders(self, windows: NDArray[np.int64], keys: UInt64Array) -> NDArray[np.int64]:
        """Draw (B,) the sentence that segment B begins with, for each window by its key."""
        first = self._first[windows]
        furthest = np.searchsorted(self._starts, self._starts[first] + self._half, side="right") - 1
        furthest = np.minimum(furthest, self._last[windows])
        draws = uniform(key(keys, BORDER_STREAM), np.zeros(1, dtype=np.uint64))
        borders: NDArray[np.int64] = first + 1 + (draws * (furthest - first)).astype(np.int64)
        return borders

    def elsewhere(self, windows: NDArray[np.int64], keys: UInt64Array) -> NDArray[np.int64]:
        """Draw (B,) a window of another document for each window, by its key.

        There must be windows of at least two documents.
        """
        begins = np.searchsorted(self._of_windows, self._of_windows[windows], side="left")
        ends = np.searchsorted(self._of_windows, self._of_windows[windows], side="right")
        draws = uniform(key(keys, ELSEWHERE_STREAM), np.zeros(1, dtype=np.uint64))
        others: NDArray[np.int64] = (draws * (len(self) - (ends - begins))).astype(np.int64)
        # Drawn as if the document's own windows, which are consecutive, did not exist.
        others += np.where(others >= begins, ends - begins, 0)
        return others

    def segments(
        self, windows: NDArray[np.int64], borders: NDArray[np.int64], seconds: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Return (B, 2, 2) the positions and lengths of segments A and B of each pair.

        Args:
            windows: (B,) The windows of the segments A.
            borders: (B,) The sentence before which A ends.
            seconds: (B,) The sentence that B begins with.
        """
        begin = self._starts[self._first[windows]]
        length = self._starts[borders] - begin
        second = self._starts[seconds]
        last = np.searchsorted(self._ends, second + self._room - length, side="right") - 1
        last = np.minimum(last, self._last_of_document[self._of[seconds]])
        pairs = np.stack([begin, length, second, self._ends[last] - second], axis=1)
        return pairs.reshape(-1, 2, 2)

    def batch(self, segments: NDArray[np.int64], pair_labels: NDArray[np.int64]) -> ChunkBatch:
        """Build the token arrays of some pairs, padded to the longest of them.

        Args:
            segments: (B, 2, 2) The positions and lengths of the first and the second segment.
            pair_labels: (B,) 1 where the two segments do not belong together in this order.
        """
        frame = self.frame
        num_tokens = segments[:, :, 1]
        lengths = num_tokens.sum(axis=1) + len(frame)
        shape = (len(segments), int(lengths.max()))
        input_ids = np.full(shape, frame.pad_token_id, dtype=np.int64)
        is_special = np.ones(shape, dtype=bool)
        word_starts = np.zeros(shape, dtype=bool)
        segment_of = np.zeros(shape, dtype=np.int64)

        columns, rows = np.arange(shape[1]), np.arange(len(segments))[:, None]
        begin = np.full_like(rows, len(frame.prefix))
        input_ids[:, : len(frame.prefix)] = frame.prefix
        for number, special in enumerate((frame.separator, frame.suffix)):
            end = begin + num_tokens[:, number, None]
            end_of_special = end + len(special)
            inside = (columns >= begin) & (columns < end)
            positions = segments[:, number, 0, None] + columns - begin
            input_ids[inside], word_starts[inside] = self._store.tokens_at(positions[inside])
            # A segment's first token begins a word, even if the segment begins within one.
            word_starts[rows, begin] = True
            is_special[inside] = False
            segment_of[(columns >= begin) & (columns < end_of_special)] = number
            input_ids[rows, end + np.arange(len(special))] = special
            begin = end_of_special
        return ChunkBatch(input_ids, lengths, is_special, word_starts, segment_of, pair_labels)
