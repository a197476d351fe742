"""Memory: how much a run needs, how much is free, and the micro-batch that fits.

The global batch never changes: a smaller micro-batch means more accumulation, and the same steps up
to rounding (and to dropout, which a GPU draws per micro-batch).
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import torch
from accelerate import Accelerator

from mlmtune.errors import ResourceError, is_out_of_memory
from mlmtune.modeling.device import free_cached_memory
from mlmtune.training.learner import Learner
from mlmtune.training.memory_estimate import Load, Memory, estimate, has_scores
from mlmtune.training.task import Task

MOMENTS_BYTES_PER_PARAMETER = 8

CGROUP = Path("/sys/fs/cgroup")
"""The folder in which Linux shows a container its limit, which is below the machine's memory."""


def estimate_memory(
    task: Task, micro_batch_size: int, device: torch.device, num_processes: int
) -> Memory:
    """Estimate the bytes that training needs on a device of each of some processes."""
    training, loaded = task.config.training, task.loaded
    num_tokens, num_logits = task.memory_shape(micro_batch_size, device)
    load = Load(
        micro_batch_size,
        num_tokens,
        num_logits,
        precision=training.precision,
        is_checkpointed=training.gradient_checkpointing,
        has_scores=has_scores(loaded.model, loaded.attn_implementation),
        num_shards=num_processes if training.shard_optimizer else 1,
    )
    return estimate(loaded.model, load)


def available_bytes() -> int:
    """Return the bytes of this machine or container that are free or hold only cached files."""
    available = int(psutil.virtual_memory().available)
    try:
        limit = int((CGROUP / "memory.max").read_text())
        used = int((CGROUP / "memory.current").read_text())
        counts = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
        cached = int(counts["active_file"]) + int(counts["inactive_file"])
    except (OSError, ValueError, KeyError):  # no container, or one without a limit ("max")
        return available
    return max(min(available, limit - used + cached), 0)


def fit_micro_batch(learner: Learner, task: Task, step: int, say: Callable[[str], None]) -> Task:
    """Return the task with micro-batches that fit; unchanged if the config gives their size.

    A size of `auto` is halved until it fits, and all processes settle on the same. On a GPU,
    micro-batches of real chunks are computed, forward and backward, beside memory set aside for
    the moments that the first step will add. On a CPU nothing is tried, because a process that
    asks for too much is killed without a message: there the estimate decides.

    Args:
        learner: The model and its optimizer, which a trial leaves as they were.
        task: The task whose micro-batches are made smaller.
        step: The next step, counted from 0; of those that follow, the longest batches are tried.
        say: Reports the size that fits.

    Raises:
        ResourceError: Not even one sequence fits.
    """
    if task.config.training.micro_batch_size != "auto":
        return task
    fits = fits_by_estimate if learner.accelerator.device.type == "cpu" else fits_by_trial
    step = task.plan.heaviest_step(step)
    while not _all_agree(learner.accelerator, fits(learner, task, step)):
        task = _halve(task)
    # Recorded as a number, so that a resumed run does not measure again.
    task = task.with_micro_batch_size(task.plan.micro_batch_size)
    say(f"micro batches of {task.plan.micro_batch_size} fit into memory")
    return task


def shrink_micro_batch(
    task: Task, num_processes: int, step: int, say: Callable[[str], None]
) -> Task:
    """Return the task with micro-batches of half the size, after memory ran out in a step.

    Raises:
        ResourceError: Not even one sequence fits; or there are several processes, of which the
            others are waiting for this one in the middle of the step.
    """
    size = task.plan.micro_batch_size
    if num_processes > 1:
        raise ResourceError(
            f"out of memory in step {step + 1} with micro batches of {size}; resume with "
            f"--resume auto training.micro_batch_size={max(1, size // 2)} (the steps stay the same)"
        )
    task = _halve(task)
    plan = task.plan
    phase = plan.phases[plan.locate(step)[0]]
    say(
        f"out of memory with micro batches of {size}; going on with {plan.micro_batch_size}, "
        f"{plan.num_accumulation(phase)} of them per step, so that a step stays "
        f"{phase.global_batch_size} sequences"
    )
    return task


def _halve(task: Task) -> Task:
    size = task.plan.micro_batch_size
    if size == 1:
        raise ResourceError(
            "out of memory with micro batches of one sequence; set "
            "training.gradient_checkpointing: true (with several GPUs training.shard_optimizer: "
            f"true, too), lower {task.length_key}, or use a smaller model"
        )
    return task.with_micro_batch_size(size // 2)


def _all_agree(accelerator: Accelerator, mine: bool) -> bool:
    count = accelerator.reduce(torch.tensor(int(mine), device=accelerator.device), reduction="sum")
    return int(count) == int(accelerator.num_processes)


def fits_by_estimate(learner: Learner, task: Task, step: int) -> bool:
    """Whether the estimate fits into this process's share of free memory."""
    # The weights are loaded already, and the processes of this machine share what is left.
    device = learner.accelerator.device
    num_processes = learner.accelerator.num_processes
    needed = estimate_memory(task, task.plan.micro_batch_size, device, num_processes)
    num_sharing = int(os.environ.get("LOCAL_WORLD_SIZE", num_processes))
    return needed.total - needed.weights <= available_bytes() // num_sharing


def fits_by_trial(learner: Learner, task: Task, step: int) -> bool:
    """Whether micro-batches of a step can be computed on this process's device."""
    accelerator, device = learner.accelerator, learner.accelerator.device
    fits = True
    try:
        moments: Any = None
        if not learner.plain_optimizer.state:
            num_bytes = MOMENTS_BYTES_PER_PARAMETER * learner.num_optimized
            moments = torch.empty(num_bytes, dtype=torch.uint8, device=device)
        # Two, because the second one finds the gradients of the first in memory.
        for batch in task.stream.micro_batches(step)[:2]:
            with accelerator.no_sync(learner.model):
                learner.backward(task, batch)
        del moments
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        fits = False
    learner.clear_gradients()
    free_cached_memory()
    return fits
