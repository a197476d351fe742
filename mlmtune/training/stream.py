"""The training data as an endless stream: any step's batch is a function of its number.

Item n = step * G + i of the stream (G sequences in a global batch) lies in epoch n // N at place
n % N, and `Sequences` knows what stands there and how it is masked. So nothing depends on workers,
on how a batch is shared between processes and micro-batches, or on where a run was resumed.
"""

import numpy as np
from numpy.typing import NDArray

from mlmtune.config import RateSchedule
from mlmtune.masking.collator import MaskedBatch, MaskingCollator
from mlmtune.masking.selection import mlm_probability_at
from mlmtune.randomness import UInt64Array, key
from mlmtune.tokens.sequences import Sequences
from mlmtune.training.plan import Plan

DROPOUT_STREAM, GENERATOR_STREAM = 0x7A03, 0x7A04
"""Keep the draws of `run.seed` apart."""


class TrainingStream:
    """Masked batches by step.

    Args:
        sequences: what stands at each place of each epoch.
        collator: masks it.
        mlm_probability: `masking.mlm_probability`, a rate or how it moves.
        plan: batch sizes, steps and number of processes.
        seed: `run.seed`.
        process_index: which process's share to yield.
    """

    def __init__(
        self,
        sequences: Sequences,
        collator: MaskingCollator,
        mlm_probability: float | RateSchedule,
        plan: Plan,
        *,
        seed: int,
        process_index: int,
    ) -> None:
        self.sequences = sequences
        self._collator = collator
        self._mlm_probability = mlm_probability
        self._plan = plan
        self._seed = seed
        self._process_index = process_index
        items = np.array_split(np.arange(plan.global_batch_size), plan.num_processes)
        self._items = items[process_index]

    def with_plan(self, plan: Plan) -> "TrainingStream":
        """The same batches, cut into micro-batches as another plan says."""
        return TrainingStream(
            self.sequences, self._collator, self._mlm_probability, plan, seed=self._seed,
            process_index=self._process_index,
        )  # fmt: skip

    def mlm_probability(self, step: int) -> float:
        """The masking rate of a step, counted from 0."""
        return mlm_probability_at(step, self._plan.max_steps, self._mlm_probability)

    def micro_batches(self, step: int) -> list[MaskedBatch]:
        """This process's micro-batches of a step, counted from 0; there is at least one."""
        epochs, places = self._places(step, self._items)
        size = self._plan.micro_batch_size
        return [
            self._collator(
                *self.sequences.batch(epochs[i : i + size], places[i : i + size]),
                self.mlm_probability(step),
            )
            for i in range(0, len(places), size)
        ]

    def num_tokens(self, step: int) -> int:
        """Tokens of a step over all processes, padding left out."""
        return self.sequences.num_tokens(
            *self._places(step, np.arange(self._plan.global_batch_size))
        )

    def _places(
        self, step: int, items: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Epoch and place of some items (by place in the global batch) of a step."""
        numbers = step * self._plan.global_batch_size + items
        return np.divmod(numbers, len(self.sequences))

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
