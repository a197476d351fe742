"""Memory: what a run takes, what there is, and the micro batch that fits.

The global batch never changes: a smaller micro batch means more accumulation, and the same steps to
rounding (on a GPU dropout, if there is any, is drawn anew).
"""

import os
from pathlib import Path
from typing import Any

import psutil
import torch

from mlmtune.errors import ResourceError, is_out_of_memory
from mlmtune.modeling.device import free_cached_memory
from mlmtune.training.job import Job
from mlmtune.training.task import Task

BYTES_PER_PARAMETER = 16
"""fp32 weights, gradients, and AdamW's two moments."""

MOMENTS_BYTES_PER_PARAMETER = 8

CGROUP = Path("/sys/fs/cgroup")
"""Where Linux tells a container its own limit, which is less than the machine's memory."""


def estimate_memory(task: Task, micro_batch_size: int) -> int:
    """Bytes that training takes on a device: parameters and their moments, and activations.

    Activations by Korthikanti et al. 2022 ("Reducing activation recomputation in large transformer
    models", eq. 1): T * B * H * (34 + 5 * A * T / H) bytes a layer at 16 bits, for B sequences of
    T tokens, H hidden, A heads; twice that in fp32; with checkpointing 2 * T * B * H. Then logits
    of what is predicted, their gradients, and a copy in fp32.
    """
    config, model_config = task.config, task.loaded.model.config
    tokens, num_logits = task.memory_shape(micro_batch_size)
    hidden = int(getattr(model_config, "hidden_size", 0))
    heads = int(getattr(model_config, "num_attention_heads", 0))
    layers = int(getattr(model_config, "num_hidden_layers", 0))
    width = 2 if config.training.precision == "fp32" else 1

    by_layer = 34 * hidden + 5 * heads * tokens
    if config.training.gradient_checkpointing:
        by_layer = 2 * hidden
    activations = micro_batch_size * tokens * layers * by_layer * width
    logits = num_logits * 3 * 4
    return BYTES_PER_PARAMETER * task.loaded.num_parameters + activations + logits


def available_bytes() -> int:
    """Memory of this machine, or of this container, that nothing uses or only the file cache."""
    available = int(psutil.virtual_memory().available)
    try:
        limit = int((CGROUP / "memory.max").read_text())
        used = int((CGROUP / "memory.current").read_text())
        counts = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
        cached = int(counts["active_file"]) + int(counts["inactive_file"])
    except (OSError, ValueError, KeyError):  # no container, or one without a limit ("max")
        return available
    return max(min(available, limit - used + cached), 0)


def fit_micro_batch(job: Job) -> None:
    """Halve the micro batch until it fits, and record it; all processes settle on the same.

    On a GPU, micro batches of real chunks are computed, forward and backward, beside memory set
    aside for the moments that the first step will add. On a CPU nothing is tried, because a
    process that asks for too much is killed without a word: there the estimate decides.

    Raises:
        ResourceError: not even one sequence fits.
    """
    while not _fits_everywhere(job):
        _halve(job)
    size = job.task.plan.micro_batch_size
    job.task = job.task.with_micro_batch_size(size)
    job.progress.say(f"micro batches of {size} fit into memory")


def shrink_micro_batch(job: Job) -> None:
    """Go on with half the micro batch after memory ran out in a step; recorded for a resumed run.

    Raises:
        ResourceError: not even one sequence fits; or there are several processes, of which the
            others are waiting for this one in the middle of the step.
    """
    size = job.task.plan.micro_batch_size
    if job.accelerator.num_processes > 1:
        raise ResourceError(
            f"out of memory in step {job.state.step + 1} with micro batches of {size}; go on with "
            f"--resume auto training.micro_batch_size={max(1, size // 2)} (the steps stay the same)"
        )
    _halve(job)
    plan = job.task.plan
    job.progress.say(
        f"out of memory with micro batches of {size}; going on with {plan.micro_batch_size}, "
        f"{plan.num_accumulation} of them a step, so that a step stays {plan.global_batch_size} "
        "sequences"
    )


def _halve(job: Job) -> None:
    size = job.task.plan.micro_batch_size
    if size == 1:
        raise ResourceError(
            "out of memory with micro batches of one sequence; set "
            f"training.gradient_checkpointing: true, lower {job.task.length_key}, or use a smaller "
            "model"
        )
    job.task = job.task.with_micro_batch_size(size // 2)


def _fits_everywhere(job: Job) -> bool:
    accelerator = job.accelerator
    mine = torch.tensor(int(_fits(job)), device=accelerator.device)
    return int(accelerator.reduce(mine, reduction="sum")) == int(accelerator.num_processes)


def _fits(job: Job) -> bool:
    task = job.task
    if job.accelerator.device.type != "cpu":
        return _can_compute(job)
    # The weights are there already, and the processes of this machine share what is left.
    needed = estimate_memory(task, task.plan.micro_batch_size) - 4 * task.loaded.num_parameters
    sharing = int(os.environ.get("LOCAL_WORLD_SIZE", job.accelerator.num_processes))
    return needed <= available_bytes() // sharing


def _can_compute(job: Job) -> bool:
    device = job.accelerator.device
    try:
        moments: Any = None
        if not job.plain_optimizer.state:
            num_bytes = MOMENTS_BYTES_PER_PARAMETER * job.task.loaded.num_parameters
            moments = torch.empty(num_bytes, dtype=torch.uint8, device=device)
        # The second one finds the gradients of the first in memory.
        for batch in job.task.stream.micro_batches(job.state.step)[:2]:
            with job.accelerator.no_sync(job.model):
                losses = job.task.losses(job.model, batch.to(device))
                job.accelerator.backward(losses.weighted(dict.fromkeys(losses.terms, 1.0)))
        del moments
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        fits = False
    else:
        fits = True
    job.optimizer.zero_grad()
    free_cached_memory(device)
    return fits
