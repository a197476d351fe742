"""What memory_estimate.py measures: what is allocated in training steps."""

import json
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from mlmtune.training.memory import estimate_memory
from options import Setting
from ours import Training, config_for

NUM_STEPS = 2
BYTES_BETWEEN_STEPS = 12
"""Of a parameter: its weight and its moments."""


def measure(setting: Setting, micro_batch_size: int, is_checkpointed: bool) -> dict[str, Any]:
    """Return the bytes of all tensors at their most, and the parts of the estimate."""
    training = {
        "micro_batch_size": micro_batch_size, "gradient_checkpointing": is_checkpointed,
        "global_batch_size": setting.batch_size, "max_steps": setting.max_steps,
        "precision": setting.precision,
    }  # fmt: skip
    side = Training(setting, config_for(setting, training=training))
    device = side.learner.accelerator.device
    side.step()  # the first one makes the moments
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        for _ in range(NUM_STEPS):
            side.step()
        allocated = torch.cuda.max_memory_allocated()
    else:
        before = BYTES_BETWEEN_STEPS * side.task.loaded.num_parameters
        allocated = before + _most_allocated(side, setting.workspace / "trace.json")
    return {
        "allocated": allocated,
        "estimated": vars(estimate_memory(side.task, micro_batch_size, device, 1)),
        "attention": side.task.loaded.attn_implementation,
    }


def _most_allocated(side: Training, trace: Path) -> int:
    """Return the most bytes that steps allocate on a CPU beside what is there before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        for _ in range(NUM_STEPS):
            side.step()
    profiled.export_chrome_trace(str(trace))
    events = json.loads(trace.read_text(encoding="utf-8"))["traceEvents"]
    sizes = [event["args"] for event in events if event.get("name") == "[memory]"]
    before = sizes[0]["Total Allocated"] - sizes[0]["Bytes"]
    return max(int(size["Total Allocated"]) for size in sizes) - int(before)
