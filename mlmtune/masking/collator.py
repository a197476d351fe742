"""MaskingCollator: chunks -> MaskedBatch, in one vectorised pass."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from mlmtune.config import MaskingConfig
from mlmtune.masking.corruption import Corruption
from mlmtune.masking.places import Places
from mlmtune.masking.selection import STRATEGIES, highest_mlm_probability, select, without_unknown
from mlmtune.randomness import UInt64Array
from mlmtune.tokens.chunking import ChunkBatch
from mlmtune.tokens.unknown import unknown_token_id

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

IGNORE_INDEX = -100
"""The label of tokens that are not predicted, as everywhere in PyTorch and transformers."""

COUNT_MULTIPLE = 64
"""Padded counts of masked positions are multiples of this, which also suits matrix units."""


@dataclass(frozen=True)
class MaskedBatch:
    """What a model is trained or evaluated on. B sequences, T tokens, M masked tokens.

    Attributes:
        input_ids: (B, T) int64, corrupted.
        labels: (B, T) int64, the original id of each token that is predicted, else -100.
        masked_positions: (M,) int64 indices into the flattened (B * T) batch, ascending. If the
            collator pads them, positions whose label is -100 follow.
        num_masked_tokens: The number of masked positions without the padding. It is a Python
            number, so that nobody waits for a device.
        attention_mask: (B, T) int64, 0 at padding; None if nothing is padded.
        token_type_ids: (B, T) int64, 1 in the second segment of a pair, else 0; None if the model
            has no token types.
        pair_labels: (B,) int64, 1 if the segments of a pair do not belong together in this order;
            None if the sequences are not pairs.
        places: Where the sequences lie; None if each fills a row.
    """

    input_ids: torch.Tensor
    labels: torch.Tensor
    masked_positions: torch.Tensor
    num_masked_tokens: int
    attention_mask: torch.Tensor | None
    token_type_ids: torch.Tensor | None
    pair_labels: torch.Tensor | None = None
    places: Places | None = None

    @property
    def num_tokens(self) -> int:
        """The number of tokens without padding."""
        return self.input_ids.numel() if self.places is None else int(self.places.lengths.sum())

    def masked_labels(self) -> torch.Tensor:
        """Return (M,) the labels at `masked_positions`, without the padding."""
        positions = self.masked_positions[: self.num_masked_tokens]
        return self.labels.reshape(-1).index_select(0, positions)

    def model_inputs(self) -> dict[str, Any]:
        """Return the keyword arguments of the model's forward pass, without labels."""
        inputs = {
            "input_ids": self.input_ids,
            "attention_mask": self.attention_mask,
            "token_type_ids": self.token_type_ids,
        }
        return {name: tensor for name, tensor in inputs.items() if tensor is not None}

    def to(self, device: torch.device) -> Self:
        """Return the same batch on another device."""
        moved: dict[str, Any] = {
            name: moved_to(device, value) if isinstance(value, torch.Tensor) else value
            for name, value in vars(self).items()
        }
        return type(self)(**moved)


def moved_to(device: torch.device, tensor: torch.Tensor) -> torch.Tensor:
    """Copy a tensor to a device; a GPU copies it when its turn comes, and nobody waits."""
    if device.type == "cuda":
        tensor = tensor.pin_memory()  # from other memory, a copy waits for the kernels before it
    return tensor.to(device, non_blocking=True)


class MaskingCollator:
    """Masks chunks by a strategy.

    Args:
        with_token_type_ids: Whether the model has token types.
        is_for_compiled_model: Whether batches have a padded number of masked positions, which is
            nearly always the same for batches of one shape.

    Raises:
        ConfigError: The tokenizer has no mask token.
    """

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerFast",
        config: MaskingConfig,
        *,
        with_token_type_ids: bool,
        is_for_compiled_model: bool = False,
    ) -> None:
        self._corruption = Corruption.of(tokenizer, config)
        self._unknown_token_id = unknown_token_id(tokenizer)
        self._config = config
        self._strategy = STRATEGIES[config.strategy]
        self._with_token_type_ids = with_token_type_ids
        self._is_for_compiled_model = is_for_compiled_model

    def without_unknown(self, chunks: ChunkBatch) -> ChunkBatch:
        """Exclude unknown tokens from selection; see `selection.without_unknown`."""
        return without_unknown(
            chunks, self._unknown_token_id, keeps_words_whole=self._strategy.keeps_words_whole
        )

    def __call__(
        self,
        chunks: ChunkBatch,
        keys: UInt64Array,
        mlm_probability: float,
        slice_number: int = 0,
    ) -> MaskedBatch:
        """Mask a batch.

        Args:
            chunks: B chunks of up to T tokens.
            keys: (B,) One key per chunk; equal keys give equal masks.
            mlm_probability: The masking rate, which may change over a run.
            slice_number: Which of the disjoint masks of these keys to take; see
                `selection.select`.
        """
        chunks = self.without_unknown(chunks)
        heads = self._strategy.group(chunks, keys, self._config)
        selected = select(chunks, keys, heads, mlm_probability, slice_number)
        input_ids = self._corruption.apply(chunks.input_ids, selected, heads, keys)

        is_token = np.arange(input_ids.shape[1]) < chunks.lengths[:, None]
        places = attention_mask = None
        # A mask of ones would keep a compiled model from the flash kernel of attention. Without
        # it, the few batches with padding are a graph of their own.
        if not is_token.all():
            places = Places.padded(chunks.lengths, input_ids.shape[1])
            attention_mask = torch.from_numpy(is_token.astype(np.int64))
        positions = np.flatnonzero(selected)
        num_masked_tokens = len(positions)
        if self._is_for_compiled_model:
            positions = self._padded(positions, selected)
        pair_labels = chunks.pair_labels
        return MaskedBatch(
            torch.from_numpy(input_ids),
            labels=torch.from_numpy(np.where(selected, chunks.input_ids, IGNORE_INDEX)),
            masked_positions=torch.from_numpy(positions),
            num_masked_tokens=num_masked_tokens,
            attention_mask=attention_mask,
            token_type_ids=self._token_type_ids(chunks),
            pair_labels=None if pair_labels is None else torch.from_numpy(pair_labels),
            places=places,
        )

    def _token_type_ids(self, chunks: ChunkBatch) -> torch.Tensor | None:
        if not self._with_token_type_ids:
            return None
        if chunks.token_type_ids is None:
            return torch.zeros(chunks.input_ids.shape, dtype=torch.int64)
        return torch.from_numpy(chunks.token_type_ids)

    def _padded(
        self, positions: NDArray[np.int64], selected: NDArray[np.bool_]
    ) -> NDArray[np.int64]:
        expected = highest_mlm_probability(self._config.mlm_probability) * selected.size
        spread = math.sqrt(expected * self._strategy.num_tokens_together)
        # Six standard deviations are exceeded once in a billion batches.
        largest = max(expected + 6.0 * spread, len(positions))
        count = min(math.ceil(largest / COUNT_MULTIPLE) * COUNT_MULTIPLE, selected.size)
        # If there is anything to pad, some token is not selected, and argmin finds the first one.
        filler = np.full(count - len(positions), np.argmin(selected), dtype=np.int64)
        return np.concatenate([positions, filler])
