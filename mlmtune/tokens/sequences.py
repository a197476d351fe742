"""Sequences by their place in an endless succession of epochs.

The sequence at a place, and the key of its masks, are functions of (seed, epoch, place). So they do
not depend on how a batch is divided or where a run was resumed. Sequences are chunks, or pairs of
segments (`mlmtune.tokens.pairs`).
"""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mlmtune.randomness import UInt64Array, key
from mlmtune.tokens.chunking import ChunkBatch, ChunkView
from mlmtune.tokens.mixing import Mixture

MASK_STREAM = 0x7A02
"""Keeps the keys of masks apart from other draws with the same seed."""


class Sequences(Protocol):
    """The source of the batches of training and evaluation. B sequences."""

    def __len__(self) -> int:
        """Return the number of sequences in an epoch."""

    def batch(
        self, epochs: NDArray[np.int64], places: NDArray[np.int64]
    ) -> tuple[ChunkBatch, UInt64Array]:
        """Return the sequences at (B,) places of (B,) epochs, and (B,) a key for each mask."""

    def num_tokens(self, epochs: NDArray[np.int64], places: NDArray[np.int64]) -> int:
        """Count the tokens at some places, special tokens included, padding excluded."""

    def documents_at(self, place: int) -> list[tuple[int, int]]:
        """Return the first column and the number of each document at a place of the first epoch."""


class ChunkSequences:
    """Chunks as sequences.

    Args:
        view: The chunks.
        mixture: Which chunk is at which place of an epoch.
        seed: The seed of the order and of the masks.
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
        chunks, occurrences = self._mixture.draw(self._seed, epochs, places)
        # The occurrence gives a chunk that is repeated in an epoch another mask each time.
        return self._view.batch(chunks), key(self._seed, MASK_STREAM, epochs, occurrences, chunks)

    def num_tokens(self, epochs: NDArray[np.int64], places: NDArray[np.int64]) -> int:
        chunks, _ = self._mixture.draw(self._seed, epochs, places)
        return int(self._view.lengths(chunks).sum())

    def documents_at(self, place: int) -> list[tuple[int, int]]:
        chunks, _ = self._mixture.draw(self._seed, np.zeros(1, np.int64), np.asarray([place]))
        return self._view.documents_in(int(chunks[0]))
