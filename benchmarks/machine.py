"""Describes the machine of a benchmark, and measures how fast it multiplies matrices."""

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from mlmtune.modeling.device import DTYPES
from mlmtune.training.environment import describe_environment

MATRIX_SIZES = {"cuda": 8192, "cpu": 2048}
"""Large enough that arithmetic, not memory, limits a product; small enough to take a moment."""
NUM_PRODUCTS, NUM_TIMINGS = 5, 9


def has_gpu() -> bool:
    return torch.cuda.is_available()


def best_device() -> torch.device:
    return torch.device("cuda" if has_gpu() else "cpu")


def describe() -> dict[str, Any]:
    """Return versions and devices, and nothing that names a user or a path."""
    return {**describe_environment(1), "device": device_name()}


def device_name() -> str:
    if has_gpu():
        return torch.cuda.get_device_name()
    name = torch.cpu.get_capabilities().get("cpu_name") or "CPU"
    return f"{name}, {torch.get_num_threads()} threads"


def num_bytes_in(folder: Path) -> int:
    """Return the bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def matmul_rate(precision: str) -> float:
    """Measure the FLOP/s of a large square product, as torch computes it by default."""
    device = best_device()
    size = MATRIX_SIZES[device.type]
    a, b = (torch.randn(size, size, device=device, dtype=DTYPES[precision]) for _ in range(2))
    seconds = []
    for _ in range(NUM_TIMINGS):
        finish(device)
        started = time.perf_counter()
        for _ in range(NUM_PRODUCTS):
            a @ b
        finish(device)
        seconds.append((time.perf_counter() - started) / NUM_PRODUCTS)
    # The first timings include the choice of a kernel.
    return 2 * size**3 / statistics.median(seconds[2:])


def finish(device: torch.device) -> None:
    """Wait until a device has done the work that was launched on it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def settle(step: Callable[[], object], device: torch.device) -> None:
    """Take a step that is not measured, if the device's memory was released after the last turn."""
    if device.type == "cuda":
        step()
        finish(device)


def release(device: torch.device) -> None:
    """Release the memory that the allocator keeps for later, which the other sides need, too."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
