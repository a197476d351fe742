"""The length of a run and the sizes of its batches, all known before the first step."""

import math
from dataclasses import dataclass

from mlmtune.config import TrainingConfig
from mlmtune.errors import ConfigError


def default_epochs(config: TrainingConfig) -> float | None:
    """Return the epochs of the config; 3 if it does not limit the run."""
    if config.epochs is None and config.max_steps is None and config.max_tokens is None:
        return 3.0
    return config.epochs


@dataclass(frozen=True)
class Plan:
    """The sizes of a run. Steps are optimizer steps.

    Attributes:
        num_chunks: Training chunks in an epoch.
        num_tokens: Tokens in an epoch, with special tokens and without padding.
        global_batch_size: Sequences in a step, over all processes.
        micro_batch_size: Sequences that a process computes at once.
        max_steps: Steps of the whole run.
    """

    num_chunks: int
    num_tokens: int
    global_batch_size: int
    micro_batch_size: int
    num_processes: int
    max_steps: int

    @classmethod
    def of(
        cls, config: TrainingConfig, *, num_chunks: int, num_tokens: int, num_processes: int
    ) -> "Plan":
        """Derive the plan from the config; the first limit that is reached ends the run.

        Raises:
            ConfigError: There are fewer sequences in a step than processes.
        """
        batch = config.global_batch_size
        if batch < num_processes:
            raise ConfigError(
                f"training.global_batch_size is {batch}, less than the {num_processes} processes; "
                f"set it to {num_processes} or more"
            )
        per_process = -(-batch // num_processes)  # rounded up
        wanted = config.micro_batch_size
        epochs = default_epochs(config)
        limits = []
        if epochs is not None:
            limits.append(math.ceil(epochs * num_chunks / batch))
        if config.max_steps is not None:
            limits.append(config.max_steps)
        if config.max_tokens is not None:
            limits.append(math.ceil(config.max_tokens / (batch * num_tokens / num_chunks)))
        return cls(
            num_chunks=num_chunks,
            num_tokens=num_tokens,
            global_batch_size=batch,
            micro_batch_size=min(wanted, per_process) if isinstance(wanted, int) else per_process,
            num_processes=num_processes,
            max_steps=max(1, min(limits)),
        )

    @property
    def num_accumulation(self) -> int:
        """The number of micro-batches that a process adds up in a step."""
        return -(-self.global_batch_size // (self.num_processes * self.micro_batch_size))

    @property
    def num_epochs(self) -> float:
        """The number of passes over the chunks in the whole run."""
        return self.epoch_at(self.max_steps)

    def epoch_at(self, step: int) -> float:
        return step * self.global_batch_size / self.num_chunks

    def is_due(self, step: int, every: int | str | None) -> bool:
        """Whether something is due after a step if it is done every N steps or once per `epoch`."""
        if every is None:
            return False
        if isinstance(every, int):
            return step % every == 0
        return math.floor(self.epoch_at(step)) > math.floor(self.epoch_at(step - 1))
