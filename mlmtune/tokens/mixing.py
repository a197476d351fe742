"""Sources mixed by weight: which chunk is at which place of an epoch.

A source of N chunks and weight w has an endless sequence of chunks. It consists of rounds, which
are permutations of all its chunks. An epoch takes the next round(w * N) of them: with weight 0.5
two epochs see the two halves of the source, and with weight 3 each epoch sees it three times. Then
all sources of the epoch are shuffled together. Each place is computed without those before it.
"""

from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from mlmtune.randomness import key, permute

ORDER_STREAM, MIX_STREAM = 0x7A01, 0x7A05
"""Keep the orders of epochs and of a source's rounds apart from other draws of `run.seed`."""


def with_replay(
    weights: NDArray[np.float64], replay: NDArray[np.float64], view: "Countable"
) -> NDArray[np.float64]:
    """Return (S,) the weights that give replayed sources their shares of an epoch's tokens.

    A source that has too few tokens for its share is repeated.

    Args:
        weights: (S,) The weights of the sources that are not replayed; these stay as they are.
        replay: (S,) The shares; 0 for a source that is not replayed.
        view: The sequences, which are cut source by source.
    """
    is_replayed = replay > 0
    if not is_replayed.any():
        return weights
    num_tokens = view.num_tokens_by_source
    others = float((num_tokens * weights)[~is_replayed].sum())
    wanted = replay * others / (1.0 - replay.sum())
    return np.where(is_replayed, wanted / num_tokens.clip(1), weights)


class Countable(Protocol):
    """Sequences in the order of their sources: a `ChunkView` or a `PairView`.

    The arrays are (S,), one number per source. Body tokens are all but the special tokens.
    """

    def __len__(self) -> int: ...

    @property
    def num_tokens(self) -> int: ...

    @property
    def num_chunks_by_source(self) -> NDArray[np.int64]: ...

    @property
    def num_tokens_by_source(self) -> NDArray[np.int64]: ...

    @property
    def num_body_tokens_by_source(self) -> NDArray[np.int64]: ...


@dataclass(frozen=True)
class Mixture:
    """The composition of an epoch.

    Attributes:
        num_chunks: (S,) The number of chunks of each source. Chunks are numbered source by source.
            If all weights are 1, all sources are one source here.
        num_drawn: (S,) How many of them an epoch takes.
        num_tokens: The number of tokens of an epoch, special tokens included. It is an estimate if
            an epoch takes part of a source.
        num_body_tokens_by_source: (S,) The same by source of the store, without special tokens.
    """

    num_chunks: NDArray[np.int64]
    num_drawn: NDArray[np.int64]
    num_tokens: int
    num_body_tokens_by_source: NDArray[np.int64]

    @classmethod
    def of(cls, view: Countable, weights: NDArray[np.float64]) -> Self:
        """Mix the chunks or pairs of a view by (S,) the weights of its sources.

        Unless all weights are 1, the view must be cut source by source.
        """
        if (weights == 1.0).all():  # chunks may then have text of several sources
            num_all = np.asarray([len(view)], dtype=np.int64)
            return cls(num_all, num_all, view.num_tokens, view.num_body_tokens_by_source)
        num_chunks, num_tokens = view.num_chunks_by_source, view.num_tokens_by_source
        # A source that has text is seen in each epoch, however small its weight is.
        wanted = np.maximum(np.rint(num_chunks * weights), num_chunks > 0).astype(np.int64)
        shares = wanted / np.maximum(num_chunks, 1)
        body_tokens = np.rint(view.num_body_tokens_by_source * shares).astype(np.int64)
        return cls(num_chunks, wanted, int(np.rint((num_tokens * shares).sum())), body_tokens)

    def __len__(self) -> int:
        """Return the number of chunks in an epoch."""
        return int(self.num_drawn.sum())

    def draw(
        self, seed: int, epochs: NDArray[np.int64], places: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Draw the chunks at (n,) places of (n,) epochs.

        Returns:
            (n,) chunks, and (n,) occurrences, which tell the repeats of a chunk in an epoch apart.
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
