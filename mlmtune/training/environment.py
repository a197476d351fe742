"""Versions, devices and peak memory; never environment variables or paths."""

import os
import platform
import resource
from importlib.metadata import version
from typing import Any

import torch

from mlmtune import __version__

PACKAGES = (
    "torch", "transformers", "tokenizers", "accelerate", "datasets", "numpy", "safetensors",
)  # fmt: skip


def versions() -> dict[str, str]:
    """Return the versions of mlmtune and of the libraries that decide a run's bits."""
    return {"mlmtune": __version__, **{name: version(name) for name in PACKAGES}}


def describe_environment(num_processes: int) -> dict[str, Any]:
    """Return the content of environment.json."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": versions(),
        "cpu": torch.cpu.get_capabilities().get("cpu_name") or platform.machine(),
        "num_cpus": os.cpu_count(),
        "num_threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        "num_processes": num_processes,
    }


def peak_memory_bytes(device: torch.device) -> int:
    """Return the peak memory of this process on a GPU, or else its peak resident set."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    # Linux counts in KiB, macOS in bytes.
    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
