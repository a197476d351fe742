"""The training data as a stream for each phase: any step's batch is a function of its number.

Item n = step * G + i of a phase's endless stream (G sequences in a global batch, steps counted from
the beginning of the phase) is at position n % N of epoch n // N, and `TrainingSequences` know which
sequence that is and how it is masked. So nothing depends on workers, on how a batch is divided into
processes and micro-batches, or on where a run was resumed.
"""

from collections.abc import Sequence
from typing import Generic, Protocol, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from mlmtune.masking.places import Places
from mlmtune.randomness import UInt64Array, key
from mlmtune.training.plan import Plan

DROPOUT_STREAM, GENERATOR_STREAM, PHASE_STREAM, LINEAGE_STREAM = 0x7A03, 0x7A04, 0x7A08, 0x7A09
"""Keep these draws apart from the others that `run.seed` decides."""


def seed_of_phase(seed: int, phase: int) -> int:
    """Return the seed of the order and the masks of a phase, counted from 0.

    Phases have seeds of their own, because each counts its epochs from 0, and would otherwise see
    the text of the first phase again in the same order with the same masks.
    """
    return seed if phase == 0 else _as_seed(key(seed, PHASE_STREAM, phase))


def seed_after(seed: int, num_steps: int) -> int:
    """Return the seed of all draws of a run whose model was trained for some steps before."""
    return _as_seed(key(seed, LINEAGE_STREAM, num_steps)) if num_steps else seed


def _as_seed(drawn: UInt64Array) -> int:
    """Return the 63 bits of a key of shape (1,) that torch and the config take as a seed."""
    return int(drawn[0] >> np.uint64(1))


class Batch(Protocol):
    """Sequences to train on."""

    @property
    def places(self) -> Places | None:
        """Where the sequences lie; None if each has a row of its own."""
        ...

    def to(self, device: torch.device) -> Self: ...


BatchT = TypeVar("BatchT", bound=Batch)
BatchT_co = TypeVar("BatchT_co", bound=Batch, covariant=True)


class TrainingSequences(Protocol[BatchT_co]):
    """The sequences of each epoch; its length is their number."""

    def __len__(self) -> int: ...

    def batch(
        self, step: int, epochs: NDArray[np.int64], positions: NDArray[np.int64]
    ) -> BatchT_co:
        """Return the sequences at (B,) positions of (B,) epochs, as a step of the phase sees them.

        `step` is counted from 0 at the beginning of the phase.
        """
        ...

    def num_tokens(self, epochs: NDArray[np.int64], positions: NDArray[np.int64]) -> int:
        """Count the tokens of these sequences, with special tokens and without padding."""
        ...


class TrainingStream(Generic[BatchT]):
    """The batches of each step, and the keys of their random draws.

    Args:
        sequences: What the batches of each phase of the plan consist of.
        plan: The phases, the sizes of batches, and the number of processes.
        seed: The seed of dropout and of a device's own draws.
        process_index: The process whose share of each batch is returned.
    """

    def __init__(
        self,
        sequences: Sequence[TrainingSequences[BatchT]],
        plan: Plan,
        *,
        seed: int,
        process_index: int,
    ) -> None:
        self._sequences = sequences
        self._plan = plan
        self._seed = seed
        self._process_index = process_index
        # The numbers of this process's sequences in each global batch, by phase.
        self._items = [
            np.array_split(np.arange(phase.global_batch_size), plan.num_processes)[process_index]
            for phase in plan.phases
        ]
        self._prepared: dict[int, list[BatchT]] = {}

    def with_plan(self, plan: Plan) -> "TrainingStream[BatchT]":
        """Return a stream of the same batches in the micro-batches of another plan."""
        return TrainingStream(
            self._sequences, plan, seed=self._seed, process_index=self._process_index
        )

    def micro_batches(self, step: int) -> list[BatchT]:
        """Return this process's micro-batches of a step, counted from 0; at least one."""
        return self._prepared.pop(step, None) or self._micro_batches(step)

    def prepare(self, step: int) -> None:
        """Make the micro-batches of the step that comes next, for which nothing then waits."""
        self._prepared = {step: self._micro_batches(step)}

    def _micro_batches(self, step: int) -> list[BatchT]:
        phase, number = self._plan.locate(step)
        sequences, epochs, positions = self._positions(step, self._items[phase])
        size = self._plan.micro_batch_size
        return [
            sequences.batch(number, epochs[i : i + size], positions[i : i + size])
            for i in range(0, len(positions), size)
        ]

    def num_tokens(self, step: int) -> int:
        """Count the tokens of a step over all processes, without padding."""
        phase, _ = self._plan.locate(step)
        all_items = np.arange(self._plan.phases[phase].global_batch_size)
        sequences, epochs, positions = self._positions(step, all_items)
        return sequences.num_tokens(epochs, positions)

    def _positions(
        self, step: int, items: NDArray[np.int64]
    ) -> tuple[TrainingSequences[BatchT], NDArray[np.int64], NDArray[np.int64]]:
        """Return the sequences of a step's phase, and epochs and positions of some of its items."""
        phase, number = self._plan.locate(step)
        sequences = self._sequences[phase]
        numbers = number * self._plan.phases[phase].global_batch_size + items
        return sequences, *np.divmod(numbers, len(sequences))

    def dropout_keys(self, step: int, micro_batch: int) -> UInt64Array:
        """Return (B,) keys of the sequences of a micro-batch, on whichever process they are."""
        size = self._plan.micro_batch_size
        phase, _ = self._plan.locate(step)
        items = self._items[phase][micro_batch * size : (micro_batch + 1) * size]
        return key(self._seed, DROPOUT_STREAM, step, items)

    def shared_dropout_key(self, step: int) -> UInt64Array:
        """Return the (1,) key of dropout masks that all sequences of a step share."""
        return key(self._seed, DROPOUT_STREAM, step)

    def generator_seed(self, step: int, micro_batch: int) -> int:
        """Return the seed of a device's own draws, so that no generator's state is saved."""
        return _as_seed(key(self._seed, GENERATOR_STREAM, step, micro_batch, self._process_index))
