"""Dropout on a CPU, whose masks are a function of keys.

PyTorch's generator for the CPU draws a number for each element, one after the other on one core.
Here 16 bits of a counter-based draw decide each element, which is several times faster. A key
belongs to a sequence, so the result does not depend on how a batch is divided, nor on which
sequences share a row.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from mlmtune.masking.places import Places
from mlmtune.randomness import UInt64Array, bits, key

LEVELS = 2**16
"""The number of values of a draw of 16 bits."""


class KeyedDropout(TorchFunctionMode):
    """A context in which `torch.nn.functional.dropout` draws by keys, wherever it is called.

    Modules call it, and so does the eager attention of transformers. A tensor of three dimensions
    or more, whose first is B or a multiple of it, is drawn by sequence. One of two dimensions, such
    as an embedding of positions, has one mask for all sequences. PyTorch draws for all others.

    Args:
        row_keys: (B,) A key for each sequence of the next batch.
        shared_key: (1,) The key for tensors that belong to no sequence.
        places: Where the sequences lie in R rows of T tokens, if not each fills a row. A tensor of
            (R, T, ...) or (..., T, T) is then drawn without its padding. If sequences share rows,
            PyTorch draws for all others.
        num_calls: How many times this forward pass has drawn before.
    """

    _active: ClassVar[list["KeyedDropout"]] = []

    def __init__(
        self,
        row_keys: UInt64Array,
        shared_key: UInt64Array,
        places: Places | None = None,
        num_calls: int = 0,
    ) -> None:
        super().__init__()
        self._row_keys, self._shared_key, self._places = row_keys, shared_key, places
        self._num_calls = num_calls

    def __enter__(self) -> Self:
        self._active.append(self)
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        self._active.pop()

    @classmethod
    def checkpoint_contexts(
        cls,
    ) -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
        """Be the `context_fn` of torch.utils.checkpoint, so that recomputing draws the same."""
        recomputing: AbstractContextManager[Any] = nullcontext()
        if cls._active:
            now = cls._active[-1]
            recomputing = cls(now._row_keys, now._shared_key, now._places, now._num_calls)
        return nullcontext(), recomputing

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is functional.dropout:
            return self._dropout(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def _dropout(
        self, input: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
    ) -> torch.Tensor:
        keys = self._row_keys if input.ndim > 2 else self._shared_key
        places = self._places if input.ndim > 2 else None
        num_rows = len(keys) if places is None else places.shape[0]
        if places is not None and not _fits(places, input.shape):
            places = None
        num_levels_dropped = round(p * LEVELS)
        if (
            not training
            or not 0 < num_levels_dropped < LEVELS
            or input.device.type != "cpu"
            or (places is None and (num_rows < len(keys) or input.shape[0] % num_rows))
        ):
            return functional.dropout(input, p, training, inplace)
        self._num_calls += 1
        keys = key(keys, self._num_calls)
        if places is None:
            draws = _draw(keys, input.numel() // len(keys)).reshape(input.shape)
        else:
            draws = _draw_in_places(keys, places, input.shape)
        keep = draws >= num_levels_dropped - LEVELS // 2
        scale = LEVELS / (LEVELS - num_levels_dropped)
        kept: torch.Tensor = _Keep.apply(input, keep, scale)  # type: ignore[no-untyped-call]
        return kept


def _draw(keys: UInt64Array, num_draws: int) -> torch.Tensor:
    """Return (B, num_draws) int16, uniform over all values, by keys (B,)."""
    counters = np.arange(-(-num_draws // 4), dtype=np.uint64)  # 4 draws in 64 bits
    words = np.empty((len(keys), len(counters)), dtype=np.uint64)
    for row, row_key in enumerate(keys):  # a row fits into the CPU's cache, the whole does not
        words[row] = bits(row_key, counters)
    return torch.from_numpy(words.view(np.int16))[:, :num_draws]


def _fits(places: Places, shape: torch.Size) -> bool:
    """Whether a tensor holds each token of each row, or each pair of them."""
    num_rows, length = places.shape
    return shape[:2] == places.shape or (
        shape[0] % num_rows == 0 and shape[-2:] == (length, length)
    )


def _draw_in_places(keys: UInt64Array, places: Places, shape: torch.Size) -> torch.Tensor:
    """Return int16 draws for a tensor of shared rows, as each sequence alone would get them."""
    draws = torch.full(shape, LEVELS // 2 - 1, dtype=torch.int16)  # keeps padding
    num_rows, length = places.shape
    is_by_token = shape[:2] == places.shape
    by_row = draws if is_by_token else draws.reshape(num_rows, -1, length, length)
    for sequence, (row, start, end) in enumerate(places):
        columns = slice(start, end)
        block = by_row[row, columns] if is_by_token else by_row[row, :, columns, columns]
        drawn = _draw(keys[sequence : sequence + 1], block.numel())
        block.copy_(drawn.reshape(block.shape))
    return draws


class _Keep(torch.autograd.Function):
    """x * keep * scale, which saves one byte per element for the backward pass."""

    @staticmethod
    def forward(ctx: Any, input: torch.Tensor, keep: torch.Tensor, scale: float) -> torch.Tensor:
        ctx.save_for_backward(keep)
        ctx.scale = scale
        return input.mul(keep).mul_(scale)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (keep,) = ctx.saved_tensors
        return gradients[0].mul(keep).mul_(ctx.scale), None, None
