"""The choice of how attention is computed."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from transformers.utils.import_utils import is_flash_attn_2_available, is_kernels_available

from mlmtune.errors import ConfigError, first_line
from mlmtune.modeling.evaluation_mode import in_evaluation_mode
from mlmtune.modeling.varlen_attention import VARLEN

FLASH, FLASH_KERNEL = "flash_attention_2", "kernels-community/flash-attn2"
"""Flash attention of the package `flash_attn`, and of the hub by the package `kernels`."""

PROBE_TOLERANCE = 1e-4
"""Largest difference between two kinds of attention, relative to the largest value."""

LONGEST_PROBE = 1024
"""Tokens of the longest probed sequence: beyond windows, and beyond the lengths at which BigBird's
and Longformer's attention becomes sparse, and little work for a model of long sequences."""


@dataclass(frozen=True)
class AttentionRule:
    """A case of `ATTENTION_TABLE`. None fits anything.

    Attributes:
        implementation: What is fastest in this case.
        device: The type of the device.
        precisions: `fp32`, `bf16` and `fp16`.
        shortest: Tokens of the longest input, at least.
        longest: The same, at most.
        has_dropout: Whether the model has any dropout.
    """

    implementation: str
    device: str | None = None
    precisions: tuple[str, ...] | None = None
    shortest: int | None = None
    longest: int | None = None
    has_dropout: bool | None = None

    def fits(self, device: str, precision: str, length: int, *, has_dropout: bool) -> bool:
        return (
            self.device in (None, device)
            and (self.precisions is None or precision in self.precisions)
            and (self.shortest is None or length >= self.shortest)
            and (self.longest is None or length <= self.longest)
            and self.has_dropout in (None, has_dropout)
        )


ATTENTION_TABLE = (
    # With a mask of pairs, for windows or for several sequences in a row, the usual attention takes
    # 2.5 times as long at 1,024 tokens, and 72 times at 8,192 (benchmarks/README.md). In shorter
    # rows the call itself takes longer. Without windows and borders, both are the same.
    AttentionRule(VARLEN, "cuda", ("bf16", "fp16"), shortest=1024, has_dropout=False),
    # The fastest on two CPU cores with AVX-512.
    AttentionRule("eager", "cpu", ("bf16",), longest=256),
    AttentionRule("eager", "cpu", has_dropout=True),
    AttentionRule("sdpa"),
)
"""The choices for `attn_implementation: auto`; the first rule that fits wins."""


def attention_for(device: str, precision: str, length: int, *, has_dropout: bool) -> str:
    """Return the fastest implementation by the table."""
    return next(
        rule.implementation
        for rule in ATTENTION_TABLE
        if rule.fits(device, precision, length, has_dropout=has_dropout)
    )


def has_windows(model_config: Any) -> bool:
    """Whether some layers' tokens see only their neighbours, as in ModernBERT."""
    return "sliding_attention" in (getattr(model_config, "layer_types", None) or ())


def is_flash(implementation: str) -> bool:
    """Whether an implementation is flash attention of a package or of the hub."""
    return "flash" in implementation or "/" in implementation


def takes_borders(implementation: str) -> bool:
    """Whether an attention implementation takes the sequences' `cu_seqlens` instead of a mask."""
    return implementation == VARLEN or is_flash(implementation)


def check_flash(implementation: str, device: str, precision: str, *, has_dropout: bool) -> None:
    """Refuse flash attention that was asked for by name where it cannot run.

    Raises:
        ConfigError: There is no GPU; or the run computes in fp32, or with dropout in attention,
            which only version 2 has.
    """
    if not is_flash(implementation):
        return
    if has_dropout and not implementation.endswith("2"):
        raise ConfigError(
            f"model.attn_implementation: {implementation} has no dropout, and the model has; set "
            f"model.dropout: 0.0, or {FLASH}"
        )
    if device == "cpu" or precision == "fp32":
        raise ConfigError(
            f"model.attn_implementation: {implementation} needs a GPU and 16 bits "
            f"(training.precision: bf16), and this run is in {precision} on {device}; set it "
            "to auto"
        )


def why_not(model: Any, implementation: str, length: int) -> str | None:
    """Let a model on the CPU use flash attention, and return why it cannot; None if it does.

    Args:
        model: A model that has been read with another attention.
        implementation: An implementation that takes borders.
        length: Tokens of the longest input.
    """
    # transformers looks at the packages alone, and the first step would fail.
    if torch.cuda.is_available() and torch.cuda.get_device_capability() < (8, 0):
        return f"{torch.cuda.get_device_name()} is older than Ampere"
    if implementation == FLASH and not is_flash_attn_2_available():
        if not is_kernels_available():
            return "neither the package flash_attn nor the package kernels is installed"
        implementation = FLASH_KERNEL
    before = model.config._attn_implementation
    try:
        expected = probe_encoder(model, length) if implementation == VARLEN else None
        model.set_attn_implementation(implementation)
        if not takes_borders(model.config._attn_implementation):
            return f"{type(model).__name__} has its own attention"
        if expected is None:
            _compute_exactly(model)
        elif not _agrees(expected, probe_encoder(model, length)):
            raise ValueError(f"{type(model).__name__} gives other results with it")
    except Exception as error:  # a package, a kernel, the network or the architecture
        model.set_attn_implementation(before)
        return first_line(error)
    return None


def probe_encoder(model: Any, length: int) -> torch.Tensor:
    """Return the encoder's states (1, T, H) for T tokens, up to `LONGEST_PROBE`."""
    size = model.get_input_embeddings().num_embeddings
    ids = torch.arange(min(length, LONGEST_PROBE), device=model.device)[None] % size
    with in_evaluation_mode(model), torch.no_grad():
        states: torch.Tensor = model.base_model(input_ids=ids)[0]
    return states


def _agrees(expected: torch.Tensor, actual: torch.Tensor) -> bool:
    return bool((actual - expected).abs().max() <= PROBE_TOLERANCE * expected.abs().max())


def _compute_exactly(model: Any) -> None:
    """Let the gradients of flash attention have the same bits in each run."""
    # Otherwise its backward pass adds up in the order in which the GPU's blocks end. transformers
    # reads the variable in each call, and ModernBERT's layers give their own answer.
    os.environ["FLASH_ATTENTION_DETERMINISTIC"] = "1"
    for module in model.modules():
        if hasattr(module, "deterministic_flash_attn"):
            module.deterministic_flash_attn = True


@contextmanager
def attention_of_any_device(model: Any) -> Iterator[None]:
    """Compute a model that flash attention would tie to a GPU on the CPU, where it is probed."""
    implementation = getattr(getattr(model, "config", None), "_attn_implementation", None) or ""
    if not is_flash(implementation):
        yield
        return
    model.set_attn_implementation(VARLEN)
    try:
        yield
    finally:
        model.set_attn_implementation(implementation)


def keep_attention_type(model: Any) -> None:
    """Restore BigBird's kind of attention before each input.

    At the first short input it would change from sparse to full attention, and never back.
    """
    encoder = model.base_model
    if hasattr(encoder, "set_attention_type"):
        kind = encoder.attention_type
        encoder.register_forward_pre_hook(lambda module, args: module.set_attention_type(kind))
