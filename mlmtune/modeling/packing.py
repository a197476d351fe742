"""Batches without padding, for the architectures that allow it.

Sequences of uneven length share rows (`mlmtune.masking.packed_batch`). Attention stays within each
sequence, and positions count from its start, so that each token gets the logits that it would have
in a row of its own (Krell et al. 2021, "Efficient sequence packing without cross-contamination",
3.2). A small batch shows whether an architecture does what it is asked.
"""

from collections.abc import Callable
from inspect import signature
from typing import Any, Self

import numpy as np
import torch
from torch import nn

from mlmtune.masking.collator import IGNORE_INDEX, MaskedBatch
from mlmtune.masking.packed_batch import PackedBatch
from mlmtune.masking.places import Places
from mlmtune.modeling.attention import (
    LONGEST_PROBE,
    attention_of_any_device,
    has_windows,
    takes_borders,
)
from mlmtune.modeling.evaluation_mode import in_evaluation_mode
from mlmtune.modeling.loading import LoadedModel
from mlmtune.modeling.varlen_attention import sequence_arguments

PROBE_TOLERANCE = 1e-4
"""Largest difference between both layouts, relative to that between tokens."""


class Packing:
    """Lays out batches in fewer rows.

    Args:
        loaded: The model, on the CPU, and its tokenizer.
        max_row_length: The tokens of a row at most.
    """

    def __init__(self, loaded: LoadedModel, max_row_length: int) -> None:
        encoder = loaded.model.base_model
        self._pad_token_id = loaded.tokenizer.pad_token_id
        self._first_position = _first_position(encoder)
        self._attention = _attention(encoder)
        self._takes_borders = takes_borders(encoder.config._attn_implementation)
        self._max_row_length = loaded.context_length or max_row_length

    @classmethod
    def if_possible(
        cls, loaded: LoadedModel, chunk_length: int, run: Callable[[MaskedBatch], Any]
    ) -> Self | None:
        """Return the packing of a model; None if its encoder's results are not the same.

        Args:
            loaded: The model, on the CPU, and its tokenizer.
            chunk_length: The tokens of the longest sequence.
            run: Runs the model's encoder on a batch, and passes on its rows at masked positions.
        """
        if "position_ids" not in signature(loaded.model.base_model.forward).parameters:
            return None  # RoFormer: it drops them, which rounding may hide in a new model
        packing = cls(loaded, chunk_length)
        padded = _probe_batch(loaded, min(chunk_length, LONGEST_PROBE))
        packed = packing.pack(padded)
        encoder, states = loaded.model.base_model, []
        # The states of the encoder, because those of a new head may all be the same.
        hook = encoder.register_forward_hook(lambda module, args, out: states.append(out[0]))
        try:
            with (
                in_evaluation_mode(loaded.model),
                attention_of_any_device(loaded.model),
                torch.no_grad(),
            ):
                run(padded)
                run(packed)
            expected, actual = states
            spread = (expected - expected.mean(dim=-2, keepdim=True)).abs().max()
            agrees = (actual - expected).abs().max() <= PROBE_TOLERANCE * spread
        except (RuntimeError, ValueError, LookupError, AttributeError, TypeError, AssertionError):
            return None
        finally:
            hook.remove()
        return packing if agrees else None

    def pack(self, batch: MaskedBatch) -> MaskedBatch:
        """Return the same sequences in fewer rows; the batch as it is if that saves nothing."""
        if batch.places is None:
            return batch
        places = Places.smallest(batch.places.lengths, self._max_row_length)
        if places is None and self._takes_borders:
            places = batch.places  # because a mask of the padding would cost more than borders
        if places is None:
            return batch
        return PackedBatch.of(
            batch,
            places,
            pad_token_id=self._pad_token_id,
            first_position=self._first_position,
            attention=self._attention,
        )


def _probe_batch(loaded: LoadedModel, length: int) -> MaskedBatch:
    """Return three sequences that fit into two rows, a few tokens of each as masked."""
    lengths = np.asarray([length, -(-length // 2), max(length // 3, 1)])
    is_token = torch.from_numpy(np.arange(length) < lengths[:, None])
    pad = loaded.tokenizer.pad_token_id
    ids = torch.arange(is_token.numel()).reshape(is_token.shape) % len(loaded.tokenizer)
    # RoBERTa takes this token for padding, wherever it is.
    ids = torch.where(ids == pad, loaded.tokenizer.mask_token_id, ids)
    places = is_token.reshape(-1).nonzero().squeeze(1)
    rows = places[:: max(len(places) // 32, 1)]
    return MaskedBatch(
        input_ids=torch.where(is_token, ids, pad),
        labels=torch.full_like(ids, IGNORE_INDEX),
        masked_positions=rows,
        num_masked_tokens=len(rows),
        attention_mask=is_token.long(),
        token_type_ids=torch.zeros_like(ids) if loaded.has_token_types else None,
        places=Places.padded(lengths, length),
    )


def _first_position(encoder: nn.Module) -> int:
    """Return the number of a sequence's first position."""
    for name, module in encoder.named_modules():
        if name.endswith("position_embeddings"):
            padding_idx = getattr(module, "padding_idx", None)
            return 0 if padding_idx is None else padding_idx + 1  # RoBERTa and its like
    return 0


def _attention(encoder: Any) -> Callable[[PackedBatch], dict[str, Any]]:
    """Return how the encoder is asked to keep sequences apart; see `PackedBatch.attention`."""
    config = encoder.config
    is_eager = config._attn_implementation == "eager"

    def prepared(allowed: torch.Tensor) -> torch.Tensor:
        """Return (R, T, T) as transformers' `masking_utils` prepares it, with a head dimension."""
        allowed = allowed[:, None]
        return torch.where(allowed, 0.0, torch.finfo(torch.float32).min) if is_eager else allowed

    def by_borders(batch: PackedBatch) -> dict[str, Any]:
        return sequence_arguments(batch.cu_seqlens, batch.input_ids.shape[1])

    def everywhere(batch: PackedBatch) -> dict[str, Any]:
        return {"attention_mask": prepared(_same(batch.sequences))}

    def in_deberta(batch: PackedBatch) -> dict[str, Any]:
        return {"attention_mask": _same(batch.sequences)}

    def by_layer_type(batch: PackedBatch) -> dict[str, Any]:
        allowed = _same(batch.sequences)
        columns = torch.arange(allowed.shape[1], device=allowed.device)
        is_near = (columns[:, None] - columns).abs() <= config.sliding_window
        return {
            "attention_mask": {
                "full_attention": prepared(allowed),
                "sliding_attention": prepared(allowed & is_near),
            }
        }

    if takes_borders(config._attn_implementation):
        return by_borders
    if has_windows(config):
        return by_layer_type
    if hasattr(getattr(encoder, "encoder", None), "get_attention_mask"):
        encoder.embeddings.register_forward_pre_hook(_hide_pairwise_mask, with_kwargs=True)
        return in_deberta
    return everywhere


def _hide_pairwise_mask(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
    """Hide a mask of pairs of tokens from DeBERTa's embeddings, which know masks of tokens only."""
    mask = kwargs.get("mask")
    return args, kwargs | {"mask": None} if mask is not None and mask.ndim > 2 else kwargs


def _same(sequences: torch.Tensor) -> torch.Tensor:
    """Return (R, T, T) whether two tokens of a row belong to the same sequence."""
    return sequences[:, :, None] == sequences[:, None, :]
