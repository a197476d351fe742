"""The training data as an endless stream: any step's batch is a function of its number.

Item n = step * G + i of the stream (G sequences in a global batch) lies in epoch n // N at place
n % N, and a permutation keyed by the epoch turns the place into a chunk. Its masks are keyed by
(seed, epoch, occurrence, chunk). So nothing depends on workers, on how a batch is shared between
processes and micro-batches, or on where a run was resumed.
"""

import numpy as np
from numpy.typing import NDArray

from mlmtune.masking.collator import MaskedBatch, MaskingCollator
from mlmtune.randomness import UInt64Array, key, permute
from mlmtune.tokens.chunking import ChunkView
from mlmtune.training.plan import Plan

ORDER_STREAM, MASK_STREAM, DROPOUT_STREAM, GENERATOR_STREAM = 0x7A01, 0x7A02, 0x7A03, 0x7A04
"""Keep the draws of `run.seed` apart."""

FIRST_OCCURRENCE = 0
"""Tells apart the repeats of a chunk within one epoch; each chunk occurs once."""


class TrainingStream:
    """Masked batches by step.

    Args:
        view: training chunks.
        collator: masks them.
        plan: batch sizes and number of processes.
        seed: `run.seed`.
        process_index: which process's share to yield.
    """

    def __init__(
        self,
        view: ChunkView,
        collator: MaskingCollator,
        plan: Plan,
        *,
        seed: int,
        process_index: int,
    ) -> None:
        self._view = view
        self._collator = collator
        self._plan = plan
        self._seed = seed
        self._process_index = process_index
        items = np.array_split(np.arange(plan.global_batch_size), plan.num_processes)
        self._items = items[process_index]

    def with_plan(self, plan: Plan) -> "TrainingStream":
        """The same batches, cut into micro-batches as another plan says."""
        return TrainingStream(
            self._view, self._collator, plan, seed=self._seed, process_index=self._process_index
        )

    def micro_batches(self, step: int) -> list[MaskedBatch]:
        """This process's micro-batches of a step, counted from 0; there is at least one."""
        epochs, chunks = self._chunks(step, self._items)
        keys = key(self._seed, MASK_STREAM, epochs, FIRST_OCCURRENCE, chunks)
        size = self._plan.micro_batch_size
        return [
            self._collator(self._view.batch(chunks[i : i + size]), keys[i : i + size])
            for i in range(0, len(chunks), size)
        ]

    def num_tokens(self, step: int) -> int:
        """Tokens of a step over all processes, padding left out."""
        _, chunks = self._chunks(step, np.arange(self._plan.global_batch_size))
        return int(self._view.lengths(chunks).sum())

    def _chunks(
        self, step: int, items: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Epoch and chunk of some items (by place in the global batch) of a step."""
        numbers = step * self._plan.global_batch_size + items
        epochs, places = np.divmod(numbers, self._plan.num_chunks)
        return epochs, permute(places, self._plan.num_chunks, key(self._seed, ORDER_STREAM, epochs))

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
