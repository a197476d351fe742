"""What a run needs on each of 1, 2 or 8 GPUs, as a table."""

from collections.abc import Iterator
from dataclasses import replace

import torch

from mlmtune.config import Config
from mlmtune.errors import ConfigError
from mlmtune.tables import table
from mlmtune.training.memory_estimate import Load, Memory, estimate, has_scores
from mlmtune.training.plan import Plan
from mlmtune.training.task import Task

NUM_GPUS = (1, 2, 8)
CARDS_GB = (24, 40, 80)
RESERVED_GB = 1
"""What CUDA, NCCL and the gaps between tensors take of a card."""

PARTS = {
    "weights": "weights",
    "gradients": "gradients",
    "moments": "AdamW's moments",
    "copies": "weights in 16 bits",
    "activations": "activations",
    "vocabulary": "logits, embeddings",
}
"""The names of the rows, by the fields of `Memory`."""


def memory_table(config: Config, task: Task, device: torch.device) -> Iterator[str]:
    """Yield the estimated gigabytes on each GPU, and the smallest card that they fit on.

    A step keeps its size, so that each of several GPUs may compute fewer sequences at once. If
    they need a larger card than the smallest, the table has what settings would save.

    Args:
        config: The config with its `auto`, which may be decided otherwise on a GPU.
        task: The model, and the sizes of its batches.
        device: The device of this process, for which `auto` was decided.
    """
    loads = {n: load for n in NUM_GPUS if (load := _load(config, task, n, device)) is not None}
    held = {n: estimate(task.loaded.model, load) for n, load in loads.items()}
    rows = [[f"GB in {loads[1].precision}", *(f"{n} GPU{'s' * (n > 1)}" for n in loads)]]
    rows.append(["micro batch", *(f"{load.micro_batch_size:,}" for load in loads.values())])
    for part, name in PARTS.items():
        cells = [getattr(memory, part) for memory in held.values()]
        if any(cells):
            rows.append([name, *map(gigabytes, cells)])
    rows.append(["each GPU", *(gigabytes(memory.total) for memory in held.values())])
    rows.append(["fits a card of", *map(card, held.values())])
    if any(smallest_card(memory) != CARDS_GB[0] for memory in held.values()):
        for setting, changed in _savings(config, loads).items():
            cells = [estimate(task.loaded.model, load) for load in changed.values()]
            rows.append([f"with {setting}", *(gigabytes(memory.total) for memory in cells)])
            rows.append(["fits a card of", *map(card, cells)])
    yield from table(rows)


def _load(config: Config, task: Task, num_gpus: int, device: torch.device) -> Load | None:
    """Return what each GPU computes; None if there are fewer sequences in a step than GPUs."""
    try:
        plan = Plan.of(task.plan.phases, config.training, num_processes=num_gpus)
    except ConfigError:
        return None
    num_tokens, num_logits = task.memory_shape(plan.micro_batch_size, torch.device("cuda"))
    precision = task.config.training.precision
    if device.type == "cpu" and config.training.precision == "auto":
        precision = "bf16"
    return Load(
        plan.micro_batch_size,
        num_tokens,
        num_logits,
        precision,
        is_checkpointed=config.training.gradient_checkpointing,
        has_scores=has_scores(task.loaded.model, config.model.attn_implementation),
        num_shards=num_gpus if config.training.shard_optimizer else 1,
    )


def _savings(config: Config, loads: dict[int, Load]) -> dict[str, dict[int, Load]]:
    """Return what GPUs would compute with settings that save memory, by the settings."""
    checkpointed = {n: replace(load, is_checkpointed=True) for n, load in loads.items()}
    sharded = {n: replace(load, num_shards=n) for n, load in loads.items()}
    both = {n: replace(load, num_shards=n) for n, load in checkpointed.items()}
    is_checkpointed = config.training.gradient_checkpointing
    if is_checkpointed and config.training.shard_optimizer:
        return {}
    if is_checkpointed or config.training.shard_optimizer:
        return {"shard_optimizer" if is_checkpointed else "gradient_checkpointing": both}
    return {"gradient_checkpointing": checkpointed, "shard_optimizer": sharded, "both": both}


def gigabytes(num_bytes: int) -> str:
    """Return a number of bytes in gigabytes, with at least two digits that count."""
    return f"{num_bytes / 1e9:.{1 if num_bytes >= 1e9 else 2}f}"


def smallest_card(memory: Memory) -> int | None:
    """Return the gigabytes of the smallest card that has room; None if none has."""
    return next((c for c in CARDS_GB if memory.total <= (c - RESERVED_GB) * 1e9), None)


def card(memory: Memory) -> str:
    """Return the smallest card that has room in words."""
    size = smallest_card(memory)
    return "none" if size is None else f"{size} GB"
