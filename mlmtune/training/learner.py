"""A model and its optimizer, prepared for training: compiled and wrapped as the config says."""

import warnings
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import AutocastKwargs

from mlmtune.errors import ConfigError
from mlmtune.modeling.dropout import KeyedDropout
from mlmtune.modeling.unreached_weights import freeze_unreached_weights
from mlmtune.training.checkpoint import load_optimizer, moments_of
from mlmtune.training.optimization import build_optimizer
from mlmtune.training.sharding import Moments, Shards
from mlmtune.training.task import Task


@dataclass(frozen=True)
class Learner:
    """The model and the optimizer that steps change, on this process's device.

    Attributes:
        accelerator: The processes, the device and the precision.
        model: The model as a training step calls it, wrapped if there are several processes.
        module: The model without the wrapper: the task's own `loaded.model`.
        optimizer: The optimizer in Accelerate's wrapper, which scales gradients in fp16.
        shards: The parameters whose moments each process keeps; None if each keeps all.
        keys_dropout: Whether dropout follows from the keys of sequences. Otherwise the device's
            own generator draws it.
    """

    accelerator: Accelerator
    model: Any
    module: Any
    optimizer: Any
    shards: Shards | None
    keys_dropout: bool

    @property
    def plain_optimizer(self) -> torch.optim.Optimizer:
        """The optimizer inside Accelerate's wrapper."""
        inner: torch.optim.Optimizer = self.optimizer.optimizer
        return inner

    def backward(self, task: Task, batch: Any) -> None:
        """Compute a batch forward and backward, for its gradients or for the memory it takes."""
        losses = task.losses(self.model, batch.to(self.accelerator.device))
        self.accelerator.backward(losses.weighted(dict.fromkeys(losses.terms, 1.0)))

    def update_weights(self) -> None:
        """Take the optimizer's step."""
        with nullcontext() if self.shards is None else self.shards.updating():
            self.optimizer.step()

    def moments(self) -> Moments:
        """Return the optimizer's moments, which only the main process may have all of.

        Called by all processes.
        """
        moments = moments_of(self.plain_optimizer)
        return moments if self.shards is None else self.shards.gather(moments)

    def load_moments(self, checkpoint: Path) -> None:
        """Load the moments that this process keeps.

        Raises:
            CheckpointError: The checkpoint holds moments of another shape, or of no parameter.
        """
        load_optimizer(checkpoint, self.plain_optimizer, self.shards)

    @property
    def num_optimized(self) -> int:
        """The number of weights whose moments this process keeps."""
        return sum(
            parameter.numel()
            for group in self.plain_optimizer.param_groups
            for parameter in group["params"]
            if self.shards is None or self.shards.keeps(parameter)
        )

    def clear_gradients(self) -> None:
        """Delete the gradients, or set those to 0 that are parts of DDP's buffers."""
        self.optimizer.zero_grad(set_to_none=self.accelerator.num_processes == 1)


def prepare_learner(task: Task, accelerator: Accelerator) -> Learner:
    """Compile and wrap a task's model as its config says, and build the optimizer.

    Raises:
        ConfigError: The model or the task cannot do what `training` asks for.
    """
    model, training = task.loaded.model, task.config.training
    freeze_unreached_weights(model)
    if training.compile:
        if task.why_not_compilable is not None:
            raise ConfigError(f"training.compile: {task.why_not_compilable}")
        # A graph for each shape: whole and last batches, in training and evaluation.
        torch._dynamo.config.recompile_limit = 32
        model.compile(dynamic=False)
    if training.gradient_checkpointing:
        _enable_checkpointing(model, is_compiled=training.compile)
        # The weights in 16 bits would all be kept to the end of the forward pass, and each is made
        # again in the backward pass.
        accelerator.autocast_handler = AutocastKwargs(cache_enabled=False)
    optimizer = build_optimizer(model, task.config.optimizer)
    with warnings.catch_warnings():
        # Not every version has the replacement, which would also broadcast the buffers once.
        warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
        wrapped, prepared = accelerator.prepare(model, optimizer)
    wrapped.train()
    is_sharded = training.shard_optimizer and accelerator.num_processes > 1
    learner = Learner(
        accelerator=accelerator,
        model=wrapped,
        module=accelerator.unwrap_model(wrapped),
        optimizer=prepared,
        shards=Shards.of(optimizer, accelerator) if is_sharded else None,
        # Compiled models and attention that is not eager draw dropout inside their own kernels.
        keys_dropout=accelerator.device.type == "cpu"
        and not training.compile
        and task.loaded.attn_implementation == "eager",
    )
    if accelerator.num_processes > 1:
        _settle_exchange(learner, task)
    return learner


def _settle_exchange(learner: Learner, task: Task) -> None:
    """Let DDP settle how it exchanges gradients, by exchanging some that are not used.

    In its first backward pass, DDP notes in which order gradients are ready, and exchanges them in
    that order from then on. The order decides how those of three processes or more are added up,
    so that the first step of a resumed run would have other bits than the same step of a run that
    was not interrupted. Gradients are parts of DDP's buffers after their first exchange only.
    """
    # A compiled model would be compiled for one sequence, too.
    smallest = task if task.config.training.compile else task.with_micro_batch_size(1)
    learner.backward(task, smallest.stream.micro_batches(0)[0])
    learner.clear_gradients()


def _enable_checkpointing(model: Any, *, is_compiled: bool) -> None:
    # Newer versions of transformers warn of the old name; the oldest supported has no other.
    name = "activation" if hasattr(model, "activation_checkpointing_enable") else "gradient"
    enable = getattr(model, f"{name}_checkpointing_enable")
    kwargs: dict[str, Any] = {"use_reentrant": False}
    if not is_compiled:
        kwargs["context_fn"] = KeyedDropout.checkpoint_contexts
    try:
        enable(**{f"{name}_checkpointing_kwargs": kwargs})
    except ValueError as error:
        raise ConfigError(
            f"training.gradient_checkpointing: {type(model).__name__} cannot do it; set it to false"
        ) from error
