"""AdamW with weight decay on matrices, and the learning rate as a pure function of the step."""

import math
from collections.abc import Callable

import torch

from mlmtune.config import OptimizerConfig


def build_optimizer(model: torch.nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """Build AdamW over the trainable parameters, with weight decay on matrices alone.

    Biases and the weights of norms are vectors in every architecture, whatever their names. So
    the number of dimensions decides, and no list of names can miss one. The optimizer knows the
    parameters' names, under which checkpoints save its state.
    """
    trainable = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    groups = [
        {"params": [(name, p) for name, p in trainable if p.ndim >= 2],
         "weight_decay": config.weight_decay},
        {"params": [(name, p) for name, p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]  # fmt: skip
    optimizer = torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=config.learning_rate,
        betas=(config.adam_beta1, config.adam_beta2),
        eps=config.adam_epsilon,
        fused=True,  # one kernel for all parameters instead of several for each
    )
    # Otherwise fp16's scaler leaves it to the kernel to skip an overflow, and Accelerate, which
    # only sees whether step() was called, counts the step as taken.
    optimizer._step_supports_amp_scaling = False
    return optimizer


def _linear(progress: float) -> float:
    return 1.0 - progress


def _one_minus_sqrt(progress: float) -> float:
    # Hägele et al. 2024, "Scaling laws and compute-optimal training beyond fixed training
    # durations", 4.1.
    return 1.0 - math.sqrt(progress)


def _cosine(progress: float) -> float:
    return 0.5 * (1.0 + math.cos(math.pi * progress))


def _constant(progress: float) -> float:
    return 1.0


SCHEDULES: dict[str, Callable[[float], float]] = {
    "linear": _linear,
    "cosine": _cosine,
    "one_minus_sqrt": _one_minus_sqrt,
    "constant": _constant,
    "warmup_stable_decay": _linear,
}
"""The factor of the peak, by progress from 0 to 1 through the falling part of the schedule."""


def num_warmup_steps(num_steps: int, config: OptimizerConfig) -> int:
    """Return the warmup steps of a phase of `num_steps` steps."""
    if config.warmup_steps is not None:
        return config.warmup_steps
    return round(config.warmup_ratio * num_steps)


def learning_rate_at(step: int, num_steps: int, config: OptimizerConfig) -> float:
    """Return the learning rate of a step of a phase; the run is one phase if it has no others.

    It rises linearly to its peak at the last warmup step, and then follows the schedule. That
    ends one step after the last, so that no step is taken with a rate of 0.

    Args:
        step: The step, counted from 0 at the beginning of the phase.
        num_steps: The steps of the phase.
        config: The section `optimizer` of the phase.
    """
    warmup = num_warmup_steps(num_steps, config)
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    falls_from = warmup
    if config.schedule == "warmup_stable_decay":
        falls_from = max(warmup, num_steps - round(config.decay_ratio * num_steps))
    progress = max(0, step - falls_from) / max(1, num_steps - falls_from)
    factor = SCHEDULES[config.schedule](min(progress, 1.0))
    end = config.final_learning_rate_ratio
    return config.learning_rate * (end + (1.0 - end) * factor)
