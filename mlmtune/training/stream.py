"""The training data as an endless stream: any step's batch is a function of its number.

Item n = step * G + i of the stream (G sequences in a global batch) lies in epoch n // N at place
n % N, and `Mixture.draw` turns the two into a chunk. Its masks are keyed by
(seed, epoch, occurrence, chunk). So nothing depends on workers, on how a batch is shared between
processes and micro-batches, or on where a run was resumed.
"""

import numpy as np
from numpy.typing import NDArray

from mlmtune.masking.collator import MaskedBatch, MaskingCollator
from mlmtune.randomness import UInt64Array, key
from mlmtune.tokens.chunking import ChunkView
from mlmtune.tokens.mixing import Mixture
from mlmtune.training.plan import Plan

MASK_STREAM, DROPOUT_STREAM, GENERATOR_STREAM = 0x7A02, 0x7A03, 0x7A04
"""Keep the draws of `run.seed` apart."""


class TrainingStream:
    """Masked batches by step.

    Args:
        view: training chunks.
        mixture: which of them stand where in an epoch.
        collator: masks them.
        plan: batch sizes and number of processes.
        seed: `run.seed`.
        process_index: which process's share to yield.
    """

    def __init__(
        self,
        view: ChunkView,
        mixture: Mixture,
        collator: MaskingCollator,
        plan: Plan,
        *,
        seed: int,
        process_index: int,
    ) -> None:
        self._view = view
        self._mixture = mixture
        self._collator = collator
        self._plan = plan
        self._seed = seed
        self._process_index = process_index
        items = np.array_split(np.arange(plan.global_batch_size), plan.num_processes)
        self._items = items[process_index]

    def with_plan(self, plan: Plan) -> "TrainingStream":
        """The same batches, cut into micro-batches as another plan says."""
        return TrainingStream(
            self._view, self._mixture, self._collator, plan, seed=self._seed,
            process_index=self._process_index,
        )  # fmt: skip

    def micro_batches(self, step: int) -> list[MaskedBatch]:
        """This process's micro-batches of a step, counted from 0; there is at least one."""
        epochs, occurrences, chunks = self._chunks(step, self._items)
        keys = key(self._seed, MASK_STREAM, epochs, occurrences, chunks)
        size = self._plan.micro_batch_size
        return [
            self._collator(self._view.batch(chunks[i : i + size]), keys[i : i + size])
            for i in range(0, len(chunks), size)
        ]

    def shown(self, number: int, epoch: int) -> tuple[int, MaskedBatch]:
        """A chunk that the first epoch begins with, as another epoch masks it.

        Args:
            number: its place in the first epoch.
            epoch: whose masks.

        Returns:
            Which chunk, and a batch of it alone.
        """
        epochs, places = np.zeros(1, np.int64), np.asarray([number])
        chunks, occurrences = self._mixture.draw(self._seed, epochs, places)
        keys = key(self._seed, MASK_STREAM, epoch, occurrences, chunks)
        return int(chunks[0]), self._collator(self._view.batch(chunks), keys)

    def num_tokens(self, step: int) -> int:
        """Tokens of a step over all processes, padding left out."""
        _, _, chunks = self._chunks(step, np.arange(self._plan.global_batch_size))
        return int(self._view.lengths(chunks).sum())

    def _chunks(
        self, step: int, items: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Epoch, occurrence and chunk of some items (by place in the global batch) of a step."""
        numbers = step * self._plan.global_batch_size + items
        epochs, places = np.divmod(numbers, len(self._mixture))
        chunks, occurrences = self._mixture.draw(self._seed, epochs, places)
        return epochs, occurrences, chunks

    def dropout_keys(self, step: int, micro_batch: int) -> UInt64Array:
        """(B,) a key for each sequence of a micro-batch, whatever process computes it."""
        size = self._plan.micro_batch_size
        items = self._items[micro_batch * size : (micro_batch + 1) * size]
        return key(self._seed, DROPOUT_STREAM, step, items)

    def shared_dropout_key(self, step: int) -> UInt64Array:
        """(1,) a key for what all sequences of a step share."""
        return key(self._seed, DROPOUT_STREAM, step)

    def generator_seed(self, step: int, micro_batch: int) -> int:
        """Seed of what a device draws by itself, so that no generator's state need be saved."""
        seed = key(self._seed, GENERATOR_STREAM, step, micro_batch, self._process_index)
        return int(seed[0] >> np.uint64(1))
