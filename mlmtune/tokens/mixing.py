"""Sources mixed by weight: which chunk stands at which place of an epoch.

A source of N chunks and weight w has its own endless row of chunks, every N of them all its chunks
once, in an order of their own. An epoch takes the next round(w * N): with a weight of 0.5 two
epochs see the two halves, with 3 each epoch sees everything three times. Then all sources of the
epoch are shuffled together. Nothing is drawn one after the other, so any place can be asked for.
"""

from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from mlmtune.randomness import key, permute

ORDER_STREAM, MIX_STREAM = 0x7A01, 0x7A05
"""Keep the order of an epoch and that of a source's row apart from other draws of `run.seed`."""


def with_replay(
    weights: NDArray[np.float64], replay: NDArray[np.float64], view: "Countable"
) -> NDArray[np.float64]:
    """Weights at which the replayed sources have their shares of an epoch's tokens.

    Args:
        weights: (S,) of the other sources.
        replay: (S,) shares; 0 for what is not replayed.
        view: what an epoch is made of, cut source by source.

    Returns:
        (S,) weights: of the others as they were. Text that there is too little of is repeated.
    """
    is_replayed = replay > 0
    if not is_replayed.any():
        return weights
    num_tokens = view.num_tokens_by_source
    others = float((num_tokens * weights)[~is_replayed].sum())
    wanted = replay * others / (1.0 - replay.sum())
    weighted: NDArray[np.float64] = np.where(is_replayed, wanted / num_tokens.clip(1), weights)
    return weighted


class Countable(Protocol):
    """Sequences that follow each other source by source: a `ChunkView` or a `PairView`."""

    def __len__(self) -> int: ...

    @property
    def num_tokens(self) -> int:
        """Tokens of all of them, special tokens included."""

    @property
    def num_chunks_by_source(self) -> NDArray[np.int64]:
        """(S,) sequences."""

    @property
    def num_tokens_by_source(self) -> NDArray[np.int64]:
        """(S,) tokens of them, special tokens included."""

    @property
    def num_body_tokens_by_source(self) -> NDArray[np.int64]:
        """(S,) tokens of them without the special ones."""


@dataclass(frozen=True)
class Mixture:
    """An epoch's composition.

    Attributes:
        num_chunks: (S,) chunks of each source, which are numbered one source after the other.
        num_drawn: (S,) how many of them an epoch takes.
        num_tokens: tokens of an epoch, special tokens included; rounded where part of a source is
            taken.
        num_body_tokens_by_source: those of them that are text, by each of the store's sources.
    """

    num_chunks: NDArray[np.int64]
    num_drawn: NDArray[np.int64]
    num_tokens: int
    num_body_tokens_by_source: NDArray[np.int64]

    @classmethod
    def of(cls, view: Countable, weights: NDArray[np.float64]) -> Self:
        """The mixture of a view's chunks.

        Args:
            view: chunks or pairs; cut source by source, where the weights differ from 1.
            weights: (S,) one for each of the store's sources.
        """
        if (weights == 1.0).all():
            whole = np.asarray([len(view)], dtype=np.int64)
            return cls(whole, whole, view.num_tokens, view.num_body_tokens_by_source)
        num_chunks, num_tokens = view.num_chunks_by_source, view.num_tokens_by_source
        wanted = np.maximum(np.rint(num_chunks * weights), num_chunks > 0).astype(np.int64)
        shares = wanted / np.maximum(num_chunks, 1)
        body_tokens = np.rint(view.num_body_tokens_by_source * shares).astype(np.int64)
        return cls(num_chunks, wanted, int(np.rint((num_tokens * shares).sum())), body_tokens)

    def __len__(self) -> int:
        """Chunks of an epoch."""
        return int(self.num_drawn.sum())

    def draw(
        self, seed: int, epochs: NDArray[np.int64], places: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The chunks at some places of some epochs.

        Args:
            seed: `run.seed`.
            epochs: (n,).
            places: (n,) in range(len(self)).

        Returns:
            (n,) chunks, and (n,) how often each chunk stood in its epoch's part of its source's row
            before: what tells the repeats of a chunk apart.
        """
        slots = permute(places, len(self), key(seed, ORDER_STREAM, epochs))
        ends = np.cumsum(self.num_drawn)
        sources = np.searchsorted(ends, slots, side="right")
        chunks, occurrences = np.empty_like(slots), np.empty_like(slots)
        for source in np.unique(sources).tolist():
            here = sources == source
            drawn, size = int(self.num_drawn[source]), int(self.num_chunks[source])
            begins = epochs[here] * drawn
            rounds, rest = np.divmod(begins + slots[here] - (ends[source] - drawn), size)
            if drawn % size:  # else an epoch takes whole rounds, whose order does not matter
                rest = permute(rest, size, key(seed, MIX_STREAM, source, rounds))
            chunks[here] = self.num_chunks[:source].sum() + rest
            occurrences[here] = rounds - begins // size
        return chunks, occurrences
