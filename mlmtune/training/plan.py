"""The length of a run and the sizes of its batches, all known before the first step.

A run has one phase or several. What differs between phases is in `Phase`; a step belongs to the
phase whose steps it is among. Steps are optimizer steps.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

from mlmtune.config import OptimizerConfig, TrainingConfig
from mlmtune.errors import ConfigError
from mlmtune.printable import counted
from mlmtune.training.optimization import learning_rate_at, num_warmup_steps


@dataclass(frozen=True)
class Phase:
    """A part of a run.

    Attributes:
        name: Its name; empty if the run has no phases.
        num_chunks: Training chunks in an epoch of the phase.
        num_tokens: Tokens in an epoch, with special tokens and without padding.
        global_batch_size: Sequences in a step, over all processes.
        num_steps: The steps of the phase.
        optimizer: Its learning rates.
        resets_optimizer: Whether the optimizer's moments are 0 before its first step.
    """

    name: str
    num_chunks: int
    num_tokens: int
    global_batch_size: int
    num_steps: int
    optimizer: OptimizerConfig
    resets_optimizer: bool = False

    @classmethod
    def of(
        cls,
        training: TrainingConfig,
        optimizer: OptimizerConfig,
        *,
        num_chunks: int,
        num_tokens: int,
        name: str = "",
        resets_optimizer: bool = False,
    ) -> Self:
        """Derive a phase from its settings; the first limit that is reached ends it.

        Raises:
            ConfigError: The warmup is longer than the phase, so that the learning rate would never
                reach its peak.
        """
        batch = training.global_batch_size
        epochs = training.planned_epochs
        limits = []
        if epochs is not None:
            limits.append(math.ceil(epochs * num_chunks / batch))
        if training.max_steps is not None:
            limits.append(training.max_steps)
        if training.max_tokens is not None:
            limits.append(math.ceil(training.max_tokens / (batch * num_tokens / num_chunks)))
        num_steps = max(1, min(limits))
        warmup = num_warmup_steps(num_steps, optimizer)
        if warmup > num_steps:
            where, what = (f"phase {name}: ", "the phase") if name else ("optimizer.", "the run")
            raise ConfigError(
                f"{where}warmup_steps: {warmup:,} is more than the {num_steps:,} steps of {what}, "
                f"so the learning rate would never reach its peak; set warmup_ratio instead, or "
                "train longer"
            )
        return cls(name, num_chunks, num_tokens, batch, num_steps, optimizer, resets_optimizer)

    def learning_rate_at(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0 at the beginning of the phase."""
        return learning_rate_at(step, self.num_steps, self.optimizer)

    @property
    def num_epochs(self) -> float:
        """The number of passes over the chunks in the whole phase."""
        return self.epochs_after(self.num_steps)

    def epochs_after(self, num_steps: int) -> float:
        """Return the number of passes over the chunks in the first steps of the phase."""
        return num_steps * self.global_batch_size / self.num_chunks

    @property
    def tokens_per_step(self) -> float:
        """The mean number of tokens in a step, without padding."""
        return self.num_tokens / self.num_chunks * self.global_batch_size


@dataclass(frozen=True)
class Plan:
    """The sizes of a run.

    Attributes:
        phases: Its phases in order; at least one.
        micro_batch_size: Sequences that a process computes at once, at most.
    """

    phases: tuple[Phase, ...]
    micro_batch_size: int
    num_processes: int

    @classmethod
    def of(cls, phases: Sequence[Phase], training: TrainingConfig, *, num_processes: int) -> Self:
        """Plan a run.

        Args:
            phases: Its phases in order.
            training: The section of the whole run.
            num_processes: The processes that share each batch.

        Raises:
            ConfigError: There are fewer sequences in a step than processes.
        """
        for phase in phases:
            if phase.global_batch_size < num_processes:
                key = f"phase {phase.name}: " if phase.name else "training."
                raise ConfigError(
                    f"{key}global_batch_size is {phase.global_batch_size}, less than the "
                    f"{num_processes} processes; set it to {num_processes} or more"
                )
        wanted = training.micro_batch_size
        per_process = -(-training.global_batch_size // num_processes)  # rounded up
        micro = min(wanted, per_process) if isinstance(wanted, int) else per_process
        return cls(tuple(phases), micro, num_processes)

    @property
    def max_steps(self) -> int:
        """The steps of the whole run."""
        return sum(phase.num_steps for phase in self.phases)

    @property
    def num_epochs(self) -> float:
        """The number of passes over the chunks in the whole run, each phase over its own."""
        return sum(phase.num_epochs for phase in self.phases)

    def locate(self, step: int) -> tuple[int, int]:
        """Return the phase that a step belongs to, and the step's number in the phase.

        All are counted from 0. Steps after the last belong to the last phase.
        """
        for index, phase in enumerate(self.phases[:-1]):
            if step < phase.num_steps:
                return index, step
            step -= phase.num_steps
        return len(self.phases) - 1, step

    def phase_before(self, step: int) -> tuple[Phase, int]:
        """Return the phase of the last of the first `step` steps, and its steps among them."""
        index, last = self.locate(max(step - 1, 0))
        return self.phases[index], last + 1 if step else 0

    def resets_optimizer_before(self, step: int) -> bool:
        """Whether a phase that begins with this step, counted from 0, begins without moments."""
        index, number = self.locate(step)
        return number == 0 and self.phases[index].resets_optimizer

    def ends_phase(self, step: int) -> bool:
        """Whether a phase, or the run, ends after this many steps."""
        phase, num_steps = self.phase_before(step)
        return num_steps == phase.num_steps

    def ends(self) -> dict[str, int]:
        """Return the number of steps after which each phase has ended, by its name."""
        ends, step = {}, 0
        for phase in self.phases:
            step += phase.num_steps
            ends[phase.name] = step
        return ends

    def heaviest_step(self, step: int) -> int:
        """Return a step, not before this one, whose sequences are as long as any that follow."""
        index, _ = self.locate(step)
        later = range(index, len(self.phases))
        longest = max(later, key=lambda n: self.phases[n].num_tokens / self.phases[n].num_chunks)
        return max(step, sum(phase.num_steps for phase in self.phases[:longest]))

    def learning_rate_at(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0."""
        index, number = self.locate(step)
        return self.phases[index].learning_rate_at(number)

    def epoch_at(self, step: int) -> float:
        """Return the passes over its chunks that the phase has made after this many steps."""
        phase, num_steps = self.phase_before(step)
        return phase.epochs_after(num_steps)

    def place(self, step: int) -> dict[str, Any]:
        """Return the phase, if there are several, and the epoch in it, for metrics.jsonl."""
        phase, _ = self.phase_before(step)
        return {**({"phase": phase.name} if phase.name else {}), "epoch": self.epoch_at(step)}

    def total(self, step: int, of_step: Callable[[Phase], float]) -> float:
        """Add up a number, such as that of sequences or tokens, over the first `step` steps."""
        sum_ = 0.0
        for phase in self.phases:
            sum_ += min(step, phase.num_steps) * of_step(phase)
            step = max(step - phase.num_steps, 0)
        return sum_

    def describe(self) -> str:
        """Say in a line how long the run is, and how its batches are divided."""
        if len(self.phases) > 1:
            return (
                f"{counted(self.max_steps, 'step')} in {len(self.phases)} phases, with micro "
                f"batches of {counted(self.micro_batch_size, 'sequence')} or less on "
                f"{counted(self.num_processes, 'process', 'processes')}"
            )
        (phase,) = self.phases
        return (
            f"{counted(phase.num_steps, 'step')} of "
            f"{counted(phase.global_batch_size, 'sequence')} ({self.num_processes} x "
            f"{self.num_accumulation(phase)} x {self.micro_batch_size}: processes x accumulation x "
            f"micro batch), {phase.num_epochs:.2f} epochs"
        )

    def num_accumulation(self, phase: Phase) -> int:
        """Return the number of micro-batches that a process adds up in a step of a phase."""
        return -(-phase.global_batch_size // (self.num_processes * self.micro_batch_size))

    def due_after(self, step: int, every: int | str | None) -> set[int]:
        """Return the later steps after which something is due; see `is_due`."""
        due, begin = set(self.ends().values()), 0
        if isinstance(every, int):
            due.update(range(step + every - step % every, self.max_steps, every))
        for phase in self.phases:
            for epoch in range(1, math.floor(phase.num_epochs) + 1) if every == "epoch" else ():
                due.add(begin + -(-epoch * phase.num_chunks // phase.global_batch_size))
            begin += phase.num_steps
        return {at for at in due if at > step}

    def is_due(self, step: int, every: int | str | None) -> bool:
        """Whether something is due after a step if it is done every N steps or once per `epoch`.

        Everything is due at the end of a phase.
        """
        if self.ends_phase(step):
            return True
        if every is None:
            return False
        if isinstance(every, int):
            return step % every == 0
        phase, num_steps = self.phase_before(step)
        epochs, before = phase.epochs_after(num_steps), phase.epochs_after(num_steps - 1)
        return math.floor(epochs) > math.floor(before)
