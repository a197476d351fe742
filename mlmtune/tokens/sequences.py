"""Sequences by their place in an endless row of epochs.

What stands at a place, and the key of its masks, are functions of (seed, epoch, place): nothing
depends on how a batch is shared out, or on where a run was resumed. Sequences are chunks, or pairs
of segments (`mlmtune.tokens.pairs`).
"""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mlmtune.randomness import UInt64Array, key
from mlmtune.tokens.chunking import ChunkBatch, ChunkView
from mlmtune.tokens.mixing import Mixture

MASK_STREAM = 0x7A02
"""Keeps the keys of masks apart from other draws of the same seed."""


class Sequences(Protocol):
    """What training and evaluation take their batches from. B sequences."""

    def __len__(self) -> int:
        """Sequences of an epoch."""
        ...

    def batch(
        self, epochs: NDArray[np.int64], places: NDArray[np.int64]
    ) -> tuple[ChunkBatch, UInt64Array]:
        """The sequences at (B,) places of (B,) epochs, and (B,) a key for the masks of each."""
        ...

    def num_tokens(self, epochs: NDArray[np.int64], places: NDArray[np.int64]) -> int:
        """Tokens of the sequences at some places, special tokens included, padding left out."""
        ...

    def documents_at(self, place: int) -> list[tuple[int, int]]:
        """The documents in a sequence of the first epoch: column of the first token, and number."""
        ...


class ChunkSequences:
    """Chunks, each a sequence.

    Args:
        view: the chunks.
        mixture: which of them stand where in an epoch.
        seed: of order and masks.
    """

    def __init__(self, view: ChunkView, mixture: Mixture, seed: int) -> None:
        self._view = view
        self._mixture = mixture
        self._seed = seed

    def __len__(self) -> int:
        return len(self._mixture)

    def batch(
        self, epochs: NDArray[np.int64], places: NDArray[np.int64]
    ) -> tuple[ChunkBatch, UInt64Array]:
        """The chunks at some places, and a key for the masks of each."""
        chunks, occurrences = self._mixture.draw(self._seed, epochs, places)
        return self._view.batch(chunks), key(self._seed, MASK_STREAM, epochs, occurrences, chunks)

    def num_tokens(self, epochs: NDArray[np.int64], places: NDArray[np.int64]) -> int:
        """Tokens of the chunks at some places, special tokens included, padding left out."""
        chunks, _ = self._mixture.draw(self._seed, epochs, places)
        return int(self._view.lengths(chunks).sum())

    def documents_at(self, place: int) -> list[tuple[int, int]]:
        """The documents in a chunk of the first epoch."""
        chunks, _ = self._mixture.draw(self._seed, np.zeros(1, np.int64), np.asarray([place]))
        return self._view.documents_in(int(chunks[0]))
