"""Attention within the sequences of a row, by the flash kernel that is part of PyTorch.

PyTorch's `scaled_dot_product_attention` takes windows and the borders of sequences as a mask of all
pairs of tokens, and computes all of them. The kernel behind `varlen_attn` computes only the pairs
within a sequence and a window (Dao 2023, "FlashAttention-2: Faster Attention with Better
Parallelism and Work Partitioning", 3.3). It needs no other package, a GPU from Ampere on, and 16
bits. Everywhere else the same function computes the same with a mask, so that a model can be probed
on the CPU.

Importing this module registers `VARLEN` with transformers.
"""

from typing import Any

import torch
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

VARLEN = "varlen"
"""The name of this attention as `attn_implementation`."""

LARGEST_HEAD = 256
"""The most dimensions of a head for which the kernel is built; it takes multiples of 8."""


def sequence_arguments(cu_seqlens: torch.Tensor, row_length: int) -> dict[str, Any]:
    """Return the arguments of a model's forward pass that keep sequences apart.

    Args:
        cu_seqlens: (N + 1,) int32, ascending from 0 to the number of tokens of all rows: where
            each sequence starts if all rows are joined, and the end of the last one.
        row_length: Tokens of a row, than which no sequence is longer.
    """
    # The names are transformers' for flash attention, so that its models pass them on.
    return {
        "cu_seq_lens_q": cu_seqlens,
        "cu_seq_lens_k": cu_seqlens,
        "max_length_q": row_length,
        "max_length_k": row_length,
    }


def varlen_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    cu_seq_lens_q: torch.Tensor | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Compute attention as transformers asks its attention functions to.

    Args:
        module: The attention layer.
        query: (R, A, T, D), for A heads.
        key: The same; it may have fewer heads, as may `value`.
        value: The same.
        attention_mask: (R, 1, T, T) bool, which says all there is to say; else None.
        dropout: The rate of dropped pairs.
        scaling: The factor of the products.
        sliding_window: One more than the tokens that a token sees to each side; None for all.
        cu_seq_lens_q: As `sequence_arguments`; None if each row is one sequence.
        others: Must not change the result.

    Returns:
        (R, T, A, D), and None for the weights.

    Raises:
        ValueError: The layer asks for more than this.
    """
    if others.get("position_bias") is not None or others.get("softcap") is not None:
        raise ValueError(f"{VARLEN} has neither a bias of positions nor a soft cap")
    is_plain = sliding_window is None and cu_seq_lens_q is None
    if attention_mask is None and not is_plain and not dropout and _kernel_takes(value):
        return _by_kernel(query, key, value, scaling, sliding_window, cu_seq_lens_q), None
    if attention_mask is None and not is_plain:
        attention_mask = _mask(query, sliding_window, cu_seq_lens_q)
    attended: tuple[torch.Tensor, None] = sdpa_attention_forward(
        module, query, key, value, attention_mask, dropout=dropout, scaling=scaling,
        is_causal=False,
    )  # fmt: skip
    return attended


def _kernel_takes(value: torch.Tensor) -> bool:
    size = value.shape[-1]
    return (
        value.is_cuda
        and torch.version.hip is None
        and value.dtype in (torch.bfloat16, torch.float16)
        and size <= LARGEST_HEAD
        and size % 8 == 0
    )


def _by_kernel(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float | None,
    sliding_window: int | None,
    cu_seqlens: torch.Tensor | None,
) -> torch.Tensor:
    num_rows, num_heads, length, size = query.shape
    if cu_seqlens is None:
        ends = length * (num_rows + 1)
        cu_seqlens = torch.arange(0, ends, length, dtype=torch.int32, device=query.device)

    def joined(tensor: torch.Tensor) -> torch.Tensor:
        """Return (R * T, A, D) in the precision of the values; rotations may be in fp32."""
        tensor = tensor.to(value.dtype)
        if tensor.shape[1] < num_heads:
            tensor = tensor.repeat_interleave(num_heads // tensor.shape[1], dim=1)
        return tensor.transpose(1, 2).reshape(-1, num_heads, size)

    attended = varlen_attn(
        joined(query), joined(key), joined(value), cu_seqlens, cu_seqlens, length, length,
        scale=scaling,
        window_size=(-1, -1) if sliding_window is None else (sliding_window - 1,) * 2,
    )  # fmt: skip
    assert isinstance(attended, torch.Tensor)
    return attended.view(num_rows, length, num_heads, size)


def _mask(
    query: torch.Tensor, sliding_window: int | None, cu_seqlens: torch.Tensor | None
) -> torch.Tensor:
    """Return (R, 1, T, T), or (1, 1, T, T) for rows of one sequence: who sees whom."""
    num_rows, _, length, _ = query.shape
    columns = torch.arange(length, device=query.device)
    allowed = torch.ones(1, length, length, dtype=torch.bool, device=query.device)
    if sliding_window is not None:
        allowed = allowed & ((columns[:, None] - columns).abs() < sliding_window)
    if cu_seqlens is not None:
        tokens = torch.arange(num_rows * length, device=query.device)
        numbers = torch.searchsorted(cu_seqlens.long(), tokens, right=True).view(num_rows, length)
        allowed = allowed & (numbers[:, :, None] == numbers[:, None, :])
    return allowed[:, None]


def _mask_of_padding(*, attention_mask: torch.Tensor | None = None, **others: Any) -> Any:
    """Return the mask that a batch with padding needs, and none for others.

    Windows are then an argument of each layer's attention.
    """
    if attention_mask is None:
        return None
    return sdpa_mask(attention_mask=attention_mask, **others)


AttentionInterface.register(VARLEN, varlen_attention)
AttentionMaskInterface.register(VARLEN, _mask_of_padding)
