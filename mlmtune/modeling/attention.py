"""The choice of how attention is computed."""

from typing import Any

import torch

ATTENTION_TABLE = (
    # device, precision, longest chunk, has dropout -> the fastest on two CPU cores with AVX-512
    ("cpu", "bf16", 256, None, "eager"),
    ("cpu", None, None, True, "eager"),
    (None, None, None, None, "sdpa"),
)
"""The choices for `attn_implementation: auto`. None fits anything; the first row that fits wins."""


def attention_for(
    device: torch.device, precision: str, chunk_length: int, *, has_dropout: bool
) -> str:
    """Return the fastest implementation by the table."""
    return next(
        implementation
        for on_device, in_precision, longest, with_dropout, implementation in ATTENTION_TABLE
        if on_device in (None, device.type)
        and in_precision in (None, precision)
        and (longest is None or chunk_length <= longest)
        and with_dropout in (None, has_dropout)
    )


def keep_attention_type(model: Any) -> None:
    """Restore BigBird's kind of attention before each input.

    At the first short input it would change from sparse to full attention, and never back.
    """
    encoder = model.base_model
    if hasattr(encoder, "set_attention_type"):
        kind = encoder.attention_type
        encoder.register_forward_pre_hook(lambda module, args: module.set_attention_type(kind))
