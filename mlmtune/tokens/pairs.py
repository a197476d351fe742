"""TokenStore -> pairs of segments, for next-sentence prediction and sentence order.

The sentences of each document are laid out in *windows*: as many whole sentences in a row as fit
beside the special tokens. A window is parted into a segment A and a segment B where one of its
sentences begins; which one is drawn anew each time. A takes up to half of the room, so that any
sentence fits beside it. B goes on from where it begins until the room or its document ends: by the
same rule whether it follows A or comes from elsewhere, so that its length tells nothing.

A sentence longer than half of the room is cut in two or more. A window of one sentence has no
border to part it at, and is left out; that happens at the ends of documents.

Legend: B pairs, T tokens, N windows, S sentences.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from mlmtune.config import Objective
from mlmtune.errors import ConfigError
from mlmtune.randomness import UInt64Array, key, uniform
from mlmtune.tokens.chunking import ChunkBatch
from mlmtune.tokens.encoding import framed
from mlmtune.tokens.mixing import Mixture
from mlmtune.tokens.store import TokenStore

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAIR_STREAM, LABEL_STREAM = 0x7A06, 0x7A07
"""Keep the draws of pairs, and of their labels, apart from others by the same seed."""

BORDER_STREAM, ELSEWHERE_STREAM = 4, 5
"""Keep the border of a window, and a window elsewhere, apart from the masks by the same key (see
`corruption`)."""


@dataclass(frozen=True)
class PairFrame:
    """The special ids around the two segments of a pair, as the tokenizer's template puts them.

    Attributes:
        prefix: before A ([CLS]).
        separator: between A and B ([SEP]).
        suffix: after B ([SEP]).
        pad_token_id: fills what is shorter than the longest of a batch.
    """

    prefix: tuple[int, ...]
    separator: tuple[int, ...]
    suffix: tuple[int, ...]
    pad_token_id: int

    @classmethod
    def of(cls, tokenizer: "PreTrainedTokenizerFast") -> Self:
        """Read the frame off the tokenizer's template for pairs.

        Raises:
            ConfigError: the template sets nothing between the two.
        """
        encoding = framed(tokenizer, is_pair=True)
        is_special = np.asarray(encoding.special_tokens_mask, dtype=bool)
        segments = np.asarray([-1 if s is None else s for s in encoding.sequence_ids])
        first, second = (np.flatnonzero(~is_special & (segments == s)) for s in (0, 1))
        ids = encoding.ids
        separator = tuple(ids[first[-1] + 1 : second[0]])
        if not separator:
            raise ConfigError(
                f"{tokenizer.name_or_path}: the tokenizer sets nothing between the segments of a "
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
        store: the tokenized corpus.
        sentence_starts: positions of the tokens that begin a sentence, over the whole store.
        documents: (D,) which documents, ascending.
        pair_length: tokens in a pair at most, special tokens included.
        frame: the tokenizer's special tokens.

    Attributes:
        num_documents: those that have a window.
        num_tokens_left_out: body tokens in windows of a single sentence.
        num_chunks_by_source: windows of each source.
        num_tokens_by_source: tokens of each source's windows, special tokens included.
        num_body_tokens_by_source: without them.
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
        self._frame = frame
        documents = documents[store.lengths[documents] > 0]
        self._lay_out_sentences(sentence_starts, documents)
        self._lay_out_windows()

        self._of_windows = self._of[self._first]
        sources = store.document_sources[self.documents(np.arange(len(self)))]
        self.num_documents = int((np.diff(self._of_windows, prepend=-1) > 0).sum())
        sizes = self._ends[self._last] - self._starts[self._first]
        num_sources = len(store.sources)
        self.num_chunks_by_source = np.bincount(sources, minlength=num_sources)
        self.num_body_tokens_by_source = np.bincount(
            sources, weights=sizes, minlength=num_sources
        ).astype(np.int64)
        self.num_tokens_by_source = (
            self.num_body_tokens_by_source + len(frame) * self.num_chunks_by_source
        )
        self.num_tokens_left_out = int(
            store.lengths[documents].sum() - self.num_body_tokens_by_source.sum()
        )

    def _lay_out_sentences(
        self, sentence_starts: NDArray[np.int64], documents: NDArray[np.int64]
    ) -> None:
        """Where each sentence begins and ends, those too long in pieces, and where its document."""
        begins, ends = self._store.offsets[documents], self._store.offsets[documents + 1]
        inside = np.searchsorted(ends, sentence_starts, side="right")
        is_inside = (inside < len(ends)) & (
            sentence_starts >= begins[np.minimum(inside, len(begins) - 1)]
        )
        starts = np.sort(np.concatenate([begins, sentence_starts[is_inside]]))
        starts = starts[np.diff(starts, prepend=-1) > 0]
        of = np.searchsorted(ends, starts, side="right")
        lengths = np.minimum(np.append(starts[1:], ends[-1:]), ends[of]) - starts
        num_pieces = -(-lengths // self._half)
        piece = np.arange(num_pieces.sum()) - np.repeat(
            np.cumsum(num_pieces) - num_pieces, num_pieces
        )
        # Of about the same length, so that no scrap is left at the end of a long sentence.
        size = np.repeat(-(-lengths // num_pieces), num_pieces)
        self._starts = np.repeat(starts, num_pieces) + piece * size
        self._of = np.repeat(of, num_pieces)
        self._ends = np.minimum(np.append(self._starts[1:], ends[-1:]), ends[self._of])
        self._document_numbers = documents
        self._last_of_document = np.searchsorted(self._starts, ends, side="left") - 1

    def _lay_out_windows(self) -> None:
        """The first and last sentence of each window of two or more, document by document."""
        last = np.searchsorted(self._ends, self._starts + self._room, side="right") - 1
        last = np.minimum(last, self._last_of_document[self._of])
        firsts = []
        current = np.append(0, self._last_of_document + 1)[:-1]  # the first of each document
        while len(current):  # a window of each document at a time
            firsts.append(current)
            following = last[current] + 1
            current = following[following <= self._last_of_document[self._of[current]]]
        first = np.sort(np.concatenate([np.empty(0, np.int64), *firsts]))
        first = first[last[first] > first]
        self._first, self._last = first, last[first]

    def documents(self, windows: NDArray[np.int64]) -> NDArray[np.int64]:
        """(B,) the store's document that each window is of."""
        found: NDArray[np.int64] = self._document_numbers[self._of_windows[windows]]
        return found

    def __len__(self) -> int:
        return len(self._first)

    @property
    def num_tokens(self) -> int:
        """Tokens of all windows together, special tokens included."""
        return int(self.num_tokens_by_source.sum())

    @property
    def num_special_tokens(self) -> int:
        """Special tokens of a pair."""
        return len(self._frame)

    def documents_in(self, segments: NDArray[np.int64]) -> list[tuple[int, int]]:
        """Where each of two segments begins in their pair: its column, and its document.

        Args:
            segments: (2, 2) position and length of the first and the second.
        """
        (first, length), (second, _) = segments.tolist()
        begin = len(self._frame.prefix)
        columns = (begin, begin + length + len(self._frame.separator))
        documents = self._store.documents_at(np.asarray([first, second]))
        return list(zip(columns, documents.tolist(), strict=True))

    def borders(self, windows: NDArray[np.int64], keys: UInt64Array) -> NDArray[np.int64]:
        """(B,) the sentence that segment B begins with, drawn for each window by its key."""
        first = self._first[windows]
        furthest = np.searchsorted(self._starts, self._starts[first] + self._half, side="right") - 1
        furthest = np.minimum(furthest, self._last[windows])
        draws = uniform(key(keys, BORDER_STREAM), np.zeros(1, dtype=np.uint64))
        borders: NDArray[np.int64] = first + 1 + (draws * (furthest - first)).astype(np.int64)
        return borders

    def elsewhere(self, windows: NDArray[np.int64], keys: UInt64Array) -> NDArray[np.int64]:
        """(B,) a window of another document for each, drawn by its key.

        There have to be windows of two documents or more.
        """
        begins = np.searchsorted(self._of_windows, self._of_windows[windows], side="left")
        ends = np.searchsorted(self._of_windows, self._of_windows[windows], side="right")
        draws = uniform(key(keys, ELSEWHERE_STREAM), np.zeros(1, dtype=np.uint64))
        others = (draws * (len(self) - (ends - begins))).astype(np.int64)
        # Numbered as if the document's own windows, which lie in a row, were not there.
        found: NDArray[np.int64] = others + np.where(others >= begins, ends - begins, 0)
        return found

    def segments(
        self, windows: NDArray[np.int64], borders: NDArray[np.int64], seconds: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """(B, 2, 2) position and length of segments A and B of each pair.

        Args:
            windows: (B,) which A is of.
            borders: (B,) the sentence that A ends before.
            seconds: (B,) the sentence that B begins with.
        """
        begin = self._starts[self._first[windows]]
        length = self._starts[borders] - begin
        room_ends = self._starts[seconds] + self._room - length
        last = np.searchsorted(self._ends, room_ends, side="right") - 1
        last = np.minimum(last, self._last_of_document[self._of[seconds]])
        second = self._starts[seconds]
        return np.stack(
            [
                np.stack([begin, length], axis=1),
                np.stack([second, self._ends[last] - second], axis=1),
            ],
            axis=1,
        )

    def batch(self, segments: NDArray[np.int64], pair_labels: NDArray[np.int64]) -> ChunkBatch:
        """Put pairs together, padded to the longest of them.

        Args:
            segments: (B, 2, 2) position and length of the first and the second segment.
            pair_labels: (B,) 1 where the two do not belong together as they stand.
        """
        frame = self._frame
        special = (frame.prefix, frame.separator, frame.suffix)
        lengths = segments[:, :, 1].sum(axis=1) + len(frame)
        shape = (len(segments), int(lengths.max()))
        input_ids = np.full(shape, frame.pad_token_id, dtype=np.int64)
        is_special = np.ones(shape, dtype=bool)
        word_starts = np.zeros(shape, dtype=bool)
        token_type_ids = np.zeros(shape, dtype=np.int64)
        columns, rows = np.arange(shape[1]), np.arange(len(segments))

        begin = np.zeros(len(segments), dtype=np.int64)
        for number in (0, 1, 2):
            for offset, id_ in enumerate(special[number]):
                input_ids[rows, begin + offset] = id_
            begin = begin + len(special[number])
            if number == 2:
                break
            position, length = segments[:, number, 0], segments[:, number, 1]
            place = columns - begin[:, None]
            inside = (place >= 0) & (place < length[:, None])
            input_ids[inside], word_starts[inside] = self._store.tokens_at(
                (position[:, None] + place)[inside]
            )
            word_starts[rows, begin] = True
            is_special[inside] = False
            begin = begin + length
        second_begins = len(frame.prefix) + segments[:, 0, 1] + len(frame.separator)
        is_second = (columns >= second_begins[:, None]) & (columns < lengths[:, None])
        token_type_ids[is_second] = 1
        return ChunkBatch(input_ids, lengths, is_special, word_starts, token_type_ids, pair_labels)


class PairSequences:
    """Pairs by their place in an endless row of epochs: functions of (seed, epoch, place) alone.

    Next-sentence prediction (Devlin et al. 2019, 3.1): the windows at places 2k and 2k + 1 of an
    epoch exchange their Bs, or do not, by the toss of a coin. So B follows A half of the time, else
    it comes from another document; and an epoch sees every segment all the same. Where two windows
    of one document would exchange, each takes the B of a window that is drawn from the others; the
    view has to have windows of two documents or more.

    Sentence order (Lan et al. 2020, 3.1): half of the time B stands before A.

    Args:
        view: the windows.
        mixture: which of them stand where in an epoch.
        objective: `mlm+nsp` or `mlm+sop`.
        seed: of all draws.
    """

    def __init__(self, view: PairView, mixture: Mixture, objective: Objective, seed: int) -> None:
        self._view = view
        self._mixture = mixture
        self._exchanges = objective == "mlm+nsp"
        self._seed = seed

    def __len__(self) -> int:
        return len(self._mixture)

    def batch(
        self,
        epochs: NDArray[np.int64],
        places: NDArray[np.int64],
    ) -> tuple[ChunkBatch, UInt64Array]:
        """The pairs at some places of some epochs, and (B,) a key for the masks of each."""
        segments, labels, keys = self._draw(epochs, places)
        return self._view.batch(segments, labels), keys

    def num_tokens(self, epochs: NDArray[np.int64], places: NDArray[np.int64]) -> int:
        """Tokens of the pairs at some places, special tokens included, padding left out."""
        segments, _, _ = self._draw(epochs, places)
        return int(segments[:, :, 1].sum()) + len(places) * self._view.num_special_tokens

    def num_tokens_unseen(self) -> int:
        """Tokens of the text that the first epoch leaves out; about as many as any other.

        Those in windows of a single sentence; and the ends of segments that are longer than the
        room beside the A that they stand beside for once.
        """
        places = np.arange(len(self))
        segments, _, _ = self._draw(np.zeros_like(places), places)
        segments = segments.reshape(-1, 2)
        starts, lengths = segments[np.argsort(segments[:, 0], kind="stable")].T
        seen_up_to = np.maximum.accumulate(starts + lengths)
        begins = np.maximum(starts[1:], seen_up_to[:-1])
        num_seen = lengths[:1].sum() + np.maximum(seen_up_to[1:] - begins, 0).sum()
        body = int(self._view.num_body_tokens_by_source.sum())
        return body + self._view.num_tokens_left_out - int(num_seen)

    def describe(self) -> str:
        """What an epoch sees, and what it leaves out, in a line."""
        view, alone = self._view, self._view.num_tokens_left_out
        # Weights leave out whole windows, as they are asked to.
        unseen = self.num_tokens_unseen() if len(self) == len(view) else alone
        total = int(view.num_body_tokens_by_source.sum()) + alone
        line = (
            f"{len(self):,} per epoch, of {view.num_tokens / len(view):.0f} tokens on average; it "
            f"leaves out {unseen:,} tokens ({unseen / total:.1%}): {alone:,} stand in documents, "
            "or at their ends, without a second sentence"
        )
        if unseen > alone:
            line += f", {unseen - alone:,} gave way to a segment from elsewhere, or were too long"
        return line

    def labels(self, epochs: NDArray[np.int64], places: NDArray[np.int64]) -> NDArray[np.int64]:
        """(B,) 1 where the segments at some places do not belong together as they stand."""
        coins = key(self._seed, LABEL_STREAM, epochs)
        # For next sentences one coin decides for two pairs, which exchange their Bs.
        tossed = places >> 1 if self._exchanges else places
        return (uniform(coins, tossed.astype(np.uint64)) < 0.5).astype(np.int64)

    def documents_at(self, place: int) -> list[tuple[int, int]]:
        """Column and document of each segment of a pair of the first epoch."""
        segments, _, _ = self._draw(np.zeros(1, np.int64), np.asarray([place]))
        return self._view.documents_in(segments[0])

    def _draw(
        self, epochs: NDArray[np.int64], places: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], UInt64Array]:
        """(B, 2, 2) segments, (B,) labels, and (B,) a key of each pair."""
        labels = self.labels(epochs, places)
        is_one = labels == 1
        if not self._exchanges:
            windows, borders, keys = self._parted(epochs, places)
            segments = self._view.segments(windows, borders, borders)
            segments[is_one] = segments[is_one, ::-1]
            return segments, labels, keys

        partners = np.minimum(places ^ 1, len(self) - 1)
        both, all_borders, all_keys = self._parted(
            np.tile(epochs, 2), np.concatenate([places, partners])
        )
        windows, others = np.split(both, 2)
        borders, other_borders = np.split(all_borders, 2)
        keys = all_keys[: len(places)]
        seconds = np.where(is_one, other_borders, borders)
        is_near = is_one & (self._view.documents(windows) == self._view.documents(others))
        if is_near.any():
            far = self._view.elsewhere(windows[is_near], keys[is_near])
            seconds[is_near] = self._view.borders(far, key(keys[is_near], ELSEWHERE_STREAM))
        return self._view.segments(windows, borders, seconds), labels, keys

    def _parted(
        self, epochs: NDArray[np.int64], places: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], UInt64Array]:
        """(B,) windows, (B,) the sentence that each is parted at, and (B,) a key of each."""
        windows, occurrences = self._mixture.draw(self._seed, epochs, places)
        keys = key(self._seed, PAIR_STREAM, epochs, occurrences, windows)
        return windows, self._view.borders(windows, keys), keys
