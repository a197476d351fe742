"""Dropout on a CPU: masks as a function of keys, several times faster than PyTorch draws them.

PyTorch's generator for the CPU draws one number after the other, on one core, for every element.
Here 16 bits of a counter-based draw decide an element. Since a key stands for a sequence and not
for a place in a micro-batch, the result does not depend on how a batch is divided either.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from mlmtune.randomness import UInt64Array, bits, key

LEVELS = 2**16
"""Values that a draw of 16 bits can take."""

DRAWS_IN_64_BITS = 4


class KeyedDropout(TorchFunctionMode):
    """While active, `torch.nn.functional.dropout` draws by these keys, wherever it is called.

    Modules call it, and so does the eager attention of transformers. A tensor of at least three
    dimensions, of which the first is B or B times as many heads, is drawn by sequence; one of two,
    such as an embedding of positions, is the same for all sequences. Others are left to PyTorch.

    Args:
        row_keys: (B,) one key for each sequence of the batch that is about to be computed.
        shared_key: (1,) for what belongs to no sequence.
        num_calls: how often dropout was drawn before in this forward pass.
    """

    _active: ClassVar[list["KeyedDropout"]] = []

    def __init__(self, row_keys: UInt64Array, shared_key: UInt64Array, num_calls: int = 0) -> None:
        super().__init__()
        self._row_keys, self._shared_key = row_keys, shared_key
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
        """`context_fn` of torch.utils.checkpoint: what is computed again is dropped as before."""
        again: AbstractContextManager[Any] = nullcontext()
        if cls._active:
            now = cls._active[-1]
            again = cls(now._row_keys, now._shared_key, now._num_calls)
        return nullcontext(), again

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is functional.dropout:
            return self._dropout(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def _dropout(
        self, input: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
    ) -> torch.Tensor:
        keys = self._row_keys if input.ndim > 2 else self._shared_key
        num_levels_dropped = round(p * LEVELS)
        if (
            not training
            or not 0 < num_levels_dropped < LEVELS
            or input.device.type != "cpu"
            or input.shape[0] % len(keys)
        ):
            return functional.dropout(input, p, training, inplace)
        self._num_calls += 1
        draws = _draw(key(keys, self._num_calls), input.numel() // len(keys))
        keep = draws.reshape(input.shape) >= num_levels_dropped - LEVELS // 2
        scale = LEVELS / (LEVELS - num_levels_dropped)
        kept: torch.Tensor = _Keep.apply(input, keep, scale)  # type: ignore[no-untyped-call]
        return kept


def _draw(keys: UInt64Array, num_draws: int) -> torch.Tensor:
    """(B, num_draws) int16, uniform over all its values, for each key of (B,)."""
    counters = np.arange(-(-num_draws // DRAWS_IN_64_BITS), dtype=np.uint64)
    words = np.empty((len(keys), len(counters)), dtype=np.uint64)
    for row, row_key in enumerate(keys):  # one at a time: what is computed on stays in the cache
        words[row] = bits(row_key, counters)
    return torch.from_numpy(words.view(np.int16))[:, :num_draws]


class _Keep(torch.autograd.Function):
    """x * keep * scale, which remembers one byte an element for the way back."""

    @staticmethod
    def forward(ctx: Any, input: torch.Tensor, keep: torch.Tensor, scale: float) -> torch.Tensor:
        ctx.save_for_backward(keep)
        ctx.scale = scale
        return input.mul(keep).mul_(scale)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (keep,) = ctx.saved_tensors
        return gradients[0].mul(keep).mul_(ctx.scale), None, None
