"""What attention.py measures, in a process of its own."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from machine import best_device, finish
from mlmtune.modeling.device import DTYPES, use_deterministic_kernels
from mlmtune.modeling.varlen_attention import sequence_arguments, varlen_attention

HEAD_SIZE = 64
KINDS = {"whole row": (1, None), "129 neighbours": (1, 64), "3 sequences": (3, None)}
"""The sequences of a row, and the tokens that a token sees to each side; None for all."""


def measure(
    length: int, num_tokens: int, num_heads: int, precision: str, num_timings: int
) -> list[dict[str, Any]]:
    """Return the times of each kind for rows of a length, and whether results repeat."""
    return [
        {"length": length, "kind": kind, **_measure(length, num_tokens // length, num_heads,
                                                    precision, num_timings, *what)}
        for kind, what in KINDS.items()
    ]  # fmt: skip


def _measure(
    length: int,
    num_rows: int,
    num_heads: int,
    precision: str,
    num_timings: int,
    num_sequences: int,
    window: int | None,
) -> dict[str, Any]:
    device = best_device()
    torch.manual_seed(0)
    # As a model's projections lie in memory.
    inputs = [
        torch.randn(num_rows, length, num_heads, HEAD_SIZE, device=device, dtype=DTYPES[precision])
        .requires_grad_()
        for _ in range(3)
    ]  # fmt: skip
    of_output = torch.randn_like(inputs[0])
    columns = torch.arange(length, device=device)
    sequences = columns * num_sequences // length
    borders: dict[str, Any] = {}
    allowed = sequences[:, None] == sequences
    if window is not None:
        allowed &= (columns[:, None] - columns).abs() <= window
        borders = {"sliding_window": window + 1}
    if num_sequences > 1:
        tokens = torch.arange(num_rows * length, device=device).reshape(num_rows, length)
        starts = tokens[:, torch.cat([columns[:1], columns[1:][sequences.diff() > 0]])]
        ends = torch.tensor([num_rows * length], device=device)
        borders = sequence_arguments(torch.cat([starts.reshape(-1), ends]).int(), length)
    mask = None if bool(allowed.all()) else allowed.expand(num_rows, 1, length, length)
    layer = nn.Module()

    def by_mask() -> torch.Tensor:
        query, key, value = (tensor.transpose(1, 2) for tensor in inputs)
        attended = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return attended.transpose(1, 2)

    def by_borders() -> torch.Tensor:
        query, key, value = (tensor.transpose(1, 2) for tensor in inputs)
        return varlen_attention(layer, query, key, value, None, **borders)[0]

    def run(way: Callable[[], torch.Tensor]) -> list[torch.Tensor]:
        for tensor in inputs:
            tensor.grad = None
        output = way()
        output.backward(of_output)
        return [output.detach(), *(tensor.grad for tensor in inputs if tensor.grad is not None)]

    def timed(way: Callable[[], torch.Tensor]) -> dict[str, Any]:
        first = run(way)
        repeats = all(
            torch.equal(*pair) for _ in range(3) for pair in zip(first, run(way), strict=True)
        )
        seconds = []
        for _ in range(num_timings):
            finish(device)
            started = time.perf_counter()
            run(way)
            finish(device)
            seconds.append(time.perf_counter() - started)
        return {"ms": 1000 * statistics.median(seconds), "repeats": repeats}

    free = timed(by_mask)
    if device.type == "cuda":
        use_deterministic_kernels()
    try:
        pairs = zip(run(by_borders), run(by_mask), strict=True)
        difference = max(float((a - b).norm() / b.norm()) for a, b in pairs)
        ways = {"mask": timed(by_mask), "borders": timed(by_borders)}
    finally:
        torch.use_deterministic_algorithms(False)
    return {**ways, "free": free, "difference": difference}
