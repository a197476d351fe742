"""The training data as an endless stream: any step's batch is a function of its number.

Item n = step * G + i of the stream (G sequences in a global batch) lies in epoch n // N at place
n % N, and `Sequences` knows what stands there and how it is masked. So nothing depends on workers,
on how a batch is shared between processes and micro-batches, or on where a run was resumed.
"""

from typing import Generic, Protocol, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from mlmtune.randomness import UInt64Array, key
from mlmtune.training.plan import Plan

DROPOUT_STREAM, GENERATOR_STREAM = 0x7A03, 0x7A04
"""Keep the draws of `run.seed` apart."""


class Batch(Protocol):
    """Sequences to train on."""

    def to(self, device: torch.device) -> Self:
        """The same batch on another device."""
        ...


BatchT = TypeVar("BatchT", bound=Batch)
BatchT_co = TypeVar("BatchT_co", bound=Batch, covariant=True)


class Source(Protocol[BatchT_co]):
    """What stands at each place of each epoch. B sequences."""

    def __len__(self) -> int:
        """Sequences of an epoch."""
        ...

    def batch(self, step: int, epochs: NDArray[np.int64], places: NDArray[np.int64]) -> BatchT_co:
        """The sequences at (B,) places of (B,) epochs, as a step sees them."""
        ...

    def num_tokens(self, epochs: NDArray[np.int64], places: NDArray[np.int64]) -> int:
        """Tokens of the sequences at some places, special tokens included, padding left out."""
        ...


class TrainingStream(Generic[BatchT]):
    """Batches by step.

    Args:
        source: what stands at each place of each epoch.
        plan: batch sizes, steps and number of processes.
        seed: `run.seed`.
        process_index: which process's share to yield.
    """

    def __init__(
        self, source: Source[BatchT], plan: Plan, *, seed: int, process_index: int
    ) -> None:
        self._source = source
        self._plan = plan
        self._seed = seed
        self._process_index = process_index
        items = np.array_split(np.arange(plan.global_batch_size), plan.num_processes)
        self._items = items[process_index]

    def with_plan(self, plan: Plan) -> "TrainingStream[BatchT]":
        """The same batches, cut into micro-batches as another plan says."""
        return TrainingStream(
            self._source, plan, seed=self._seed, process_index=self._process_index
        )

    def micro_batches(self, step: int) -> list[BatchT]:
        """This process's micro-batches of a step, counted from 0; there is at least one."""
        epochs, places = self._places(step, self._items)
        size = self._plan.micro_batch_size
        return [
            self._source.batch(step, epochs[i : i + size], places[i : i + size])
            for i in range(0, len(places), size)
        ]

    def num_tokens(self, step: int) -> int:
        """Tokens of a step over all processes, padding left out."""
        everything = np.arange(self._plan.global_batch_size)
        return self._source.num_tokens(*self._places(step, everything))

    def _places(
        self, step: int, items: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Epoch and place of some items (by place in the global batch) of a step."""
        numbers = step * self._plan.global_batch_size + items
        return np.divmod(numbers, len(self._source))

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
