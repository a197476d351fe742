"""A masked batch whose sequences share rows, so that little of it is padding.

Only the layout differs from the padded batch: the sequences, their masks and the order of the
predictions are the same. What keeps the sequences of a row apart is up to the model
(`mlmtune.modeling.packing`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import torch

from mlmtune.masking.collator import IGNORE_INDEX, MaskedBatch
from mlmtune.masking.places import Places


@dataclass(frozen=True, kw_only=True)
class PackedBatch(MaskedBatch):
    """A batch with several sequences in a row. R rows, T tokens in a row, B sequences.

    `input_ids`, `labels` and `token_type_ids` are (R, T), and `masked_positions` are indices into
    the flattened (R * T) batch, in the order of the padded batch: by sequence.

    Attributes:
        sequences: (R, T) int64, the number of the sequence that each token belongs to, and -1 at
            padding. A token attends to those with the same number, so that padding attends to
            padding and no softmax is without terms.
        cu_seqlens: (N + 1,) int32, where each of these sequences starts if all rows are joined,
            and the number of their tokens. What is left of a row is a sequence of padding.
        position_ids: (R, T) int64, the position of each token in its sequence, as the model counts.
        attention: Makes the arguments of the model's forward pass that keep sequences apart.
    """

    sequences: torch.Tensor
    cu_seqlens: torch.Tensor
    position_ids: torch.Tensor
    attention: Callable[["PackedBatch"], dict[str, Any]]

    @classmethod
    def of(
        cls,
        batch: MaskedBatch,
        places: Places,
        *,
        pad_token_id: int,
        first_position: int,
        attention: Callable[["PackedBatch"], dict[str, Any]],
    ) -> Self:
        """Lay out a padded batch in the places of its sequences.

        Args:
            batch: A batch on the CPU.
            places: Where each sequence goes.
            pad_token_id: Fills what is left.
            first_position: The position of a sequence's first token.
            attention: As the attribute.
        """
        sequences, columns, place_of = places.tokens()
        num_positions = places.shape[0] * places.shape[1]
        source = torch.from_numpy(sequences * batch.input_ids.shape[1] + columns)
        target = torch.from_numpy(place_of)

        def laid_out(values: torch.Tensor, filler: int) -> torch.Tensor:
            rows = torch.full((num_positions,), filler, dtype=torch.int64)
            rows[target] = values
            return rows.reshape(places.shape)

        def moved(tensor: torch.Tensor, filler: int) -> torch.Tensor:
            return laid_out(tensor.reshape(-1)[source], filler)

        place = torch.empty(batch.input_ids.numel(), dtype=torch.int64)
        place[source] = target
        types = batch.token_type_ids
        rows = laid_out(torch.from_numpy(sequences), -1)
        return cls(
            input_ids=moved(batch.input_ids, pad_token_id),
            labels=moved(batch.labels, IGNORE_INDEX),
            masked_positions=place[batch.masked_positions],
            num_masked_tokens=batch.num_masked_tokens,
            attention_mask=None,
            token_type_ids=None if types is None else moved(types, 0),
            pair_labels=batch.pair_labels,
            sequences=rows,
            cu_seqlens=_borders(rows),
            position_ids=laid_out(torch.from_numpy(columns), 0) + first_position,
            attention=attention,
            places=places,
        )

    def model_inputs(self) -> dict[str, Any]:
        return {
            **super().model_inputs(),
            "position_ids": self.position_ids,
            **self.attention(self),
        }


def _borders(sequences: torch.Tensor) -> torch.Tensor:
    """Return (N + 1,) int32 where the numbers (R, T) change, row after row, and R * T."""
    starts = torch.ones(sequences.shape, dtype=torch.bool)
    starts[:, 1:] = sequences[:, 1:] != sequences[:, :-1]
    borders = starts.reshape(-1).nonzero().squeeze(1).int()
    return torch.cat([borders, torch.tensor([sequences.numel()], dtype=torch.int32)])
