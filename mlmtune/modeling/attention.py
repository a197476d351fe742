"""How attention is computed."""

from typing import Any

import torch

ATTENTION_TABLE = (
    # device, precision, chunks up to, with dropout -> the fastest on two CPU cores with AVX-512
    ("cpu", "bf16", 256, None, "eager"),
    ("cpu", None, None, True, "eager"),
    (None, None, None, None, "sdpa"),
)
"""How attention is computed for `auto`. None fits anything; the first row that fits wins."""


def attention_for(
    device: torch.device, precision: str, chunk_length: int, *, has_dropout: bool
) -> str:
    """The implementation that the table has for a device, a precision and a length."""
    for on, computes_in, up_to, with_dropout, implementation in ATTENTION_TABLE:
        if (
            on in (None, device.type)
            and computes_in in (None, precision)
            and (up_to is None or chunk_length <= up_to)
            and with_dropout in (None, has_dropout)
        ):
            return implementation
    raise AssertionError("the table's last row fits everything")


def keep_attention_type(model: Any) -> None:
    """Let BigBird compute each input by its own kind of attention.

    At its first short input it would turn from sparse to full attention, and never back.
    """
    encoder = model.base_model
    if hasattr(encoder, "set_attention_type"):
        own = encoder.attention_type
        encoder.register_forward_pre_hook(lambda module, args: module.set_attention_type(own))
