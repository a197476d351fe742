"""MaskingCollator: chunks -> MaskedBatch. One vectorised pass; masks are a function of keys."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from mlmtune.config import MaskingConfig
from mlmtune.errors import ConfigError
from mlmtune.masking.corruption import corrupt, replacement_ids
from mlmtune.masking.selection import (
    STRATEGIES,
    highest_mlm_probability,
    select,
    without_unknown,
)
from mlmtune.randomness import UInt64Array
from mlmtune.tokens.chunking import ChunkBatch
from mlmtune.tokens.unknown import unknown_token_id

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

IGNORE_INDEX = -100
"""Label where nothing is predicted, as everywhere in PyTorch and transformers."""

COUNT_MULTIPLE = 64
"""Padded counts of masked positions are multiples of this, which suits matrix units too."""


@dataclass(frozen=True)
class MaskedBatch:
    """What a model is trained or evaluated on. B sequences, T tokens, M masked tokens.

    Attributes:
        input_ids: (B, T) int64, corrupted.
        labels: (B, T) int64: the original id where a token is predicted, else -100.
        masked_positions: (M,) int64 indices into the flattened (B * T) batch, ascending; where the
            collator pads them, followed by positions whose label is -100.
        num_masked_tokens: how many of them are masked; known without waiting for a device.
        attention_mask: (B, T) int64, 0 at padding; None where nothing is padded.
        token_type_ids: (B, T) int64, 1 in the second segment of a pair and else 0; None where the
            model has none.
        pair_labels: (B,) int64, 1 where the segments of a pair do not belong together as they
            stand; None where sequences are no pairs.
    """

    input_ids: torch.Tensor
    labels: torch.Tensor
    masked_positions: torch.Tensor
    num_masked_tokens: int
    attention_mask: torch.Tensor | None
    token_type_ids: torch.Tensor | None
    pair_labels: torch.Tensor | None = None

    def masked_labels(self) -> torch.Tensor:
        """(M,) the labels at `masked_positions`."""
        return self.labels.reshape(-1).index_select(0, self.masked_positions)

    def model_inputs(self) -> dict[str, torch.Tensor]:
        """The keyword arguments of the model's forward pass, without labels."""
        inputs = {
            "input_ids": self.input_ids,
            "attention_mask": self.attention_mask,
            "token_type_ids": self.token_type_ids,
        }
        return {name: tensor for name, tensor in inputs.items() if tensor is not None}

    def to(self, device: torch.device) -> Self:
        """The same batch on another device."""
        moved: dict[str, Any] = {
            name: value.to(device, non_blocking=True) if isinstance(value, torch.Tensor) else value
            for name, value in vars(self).items()
        }
        return type(self)(**moved)


class MaskingCollator:
    """Masks chunks by a strategy; holds what the tokenizer decides.

    Args:
        tokenizer: names the mask token, and the tokens that must not be drawn as replacements.
        config: strategy and rates.
        with_token_type_ids: whether the model has token types.
        is_for_compiled_model: give batches of one shape nearly always the same M, by padding, and
            an attention mask.

    Raises:
        ConfigError: the tokenizer has no mask token.
    """

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerFast",
        config: MaskingConfig,
        *,
        with_token_type_ids: bool,
        is_for_compiled_model: bool = False,
    ) -> None:
        if tokenizer.mask_token_id is None:
            raise ConfigError(
                f"{tokenizer.name_or_path}: the tokenizer has no mask token, so this is not a "
                "masked language model; choose another model.name_or_path"
            )
        self._mask_token_id = int(tokenizer.mask_token_id)
        self._unknown_token_id = unknown_token_id(tokenizer)
        self._replacements = replacement_ids(tokenizer)
        self._config = config
        self._strategy = STRATEGIES[config.strategy]
        self._with_token_type_ids = with_token_type_ids
        self._is_for_compiled_model = is_for_compiled_model

    def without_unknown(self, chunks: ChunkBatch) -> ChunkBatch:
        """The chunks with unknown tokens set aside; see `selection.without_unknown`."""
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
            keys: (B,) one key per chunk: equal keys, equal masks.
            mlm_probability: the rate, which may change over a run.
            slice_number: which of the masks that these keys give; see `selection.select`.
        """
        chunks = self.without_unknown(chunks)
        heads = self._strategy.group(chunks, keys, self._config)
        selected = select(chunks, keys, heads, mlm_probability, slice_number)
        corrupted = corrupt(
            chunks.input_ids,
            selected,
            heads,
            keys,
            mask_token_id=self._mask_token_id,
            replacements=self._replacements,
            mask_replace_prob=self._config.mask_replace_prob,
            random_replace_prob=self._config.random_replace_prob,
        )
        attention_mask = None
        width = corrupted.shape[1]
        # One that is always there keeps a compiled model to one graph.
        if self._is_for_compiled_model or (chunks.lengths < width).any():
            attention_mask = torch.from_numpy(
                (np.arange(width) < chunks.lengths[:, None]).astype(np.int64)
            )
        positions = np.flatnonzero(selected)
        num_masked_tokens = len(positions)
        if self._is_for_compiled_model:
            positions = self._padded(positions, selected)
        return MaskedBatch(
            input_ids=torch.from_numpy(corrupted),
            labels=torch.from_numpy(np.where(selected, chunks.input_ids, IGNORE_INDEX)),
            masked_positions=torch.from_numpy(positions),
            num_masked_tokens=num_masked_tokens,
            attention_mask=attention_mask,
            token_type_ids=self._token_type_ids(chunks),
            pair_labels=_tensor(chunks.pair_labels),
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
        """Positions up to a count that a batch of this shape does not exceed once in a billion."""
        expected = highest_mlm_probability(self._config.mlm_probability) * selected.size
        spread = math.sqrt(expected * self._strategy.num_tokens_together)
        largest = max(expected + 6.0 * spread, len(positions))
        count = min(-int(-largest // COUNT_MULTIPLE) * COUNT_MULTIPLE, selected.size)
        # Fewer than all positions are masked wherever something is left to pad.
        filler = np.full(count - len(positions), np.argmin(selected), dtype=np.int64)
        return np.concatenate([positions, filler])


def _tensor(array: NDArray[np.int64] | None) -> torch.Tensor | None:
    return None if array is None else torch.from_numpy(array)
