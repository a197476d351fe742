"""What a model is trained on: named sums over a batch."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

LOSS = "loss"
"""The term that every task has: `train_loss` is its mean, and its predictions are counted."""


@dataclass(frozen=True)
class Losses:
    """Sums over a batch, each under the name that its mean has in metrics.jsonl. Scalars.

    Attributes:
        terms: Losses in nats, in fp32. A step trains on the sum of their means.
        tallies: How many predictions are, for example, right. They are only logged.
    """

    terms: dict[str, torch.Tensor]
    tallies: dict[str, torch.Tensor] = field(default_factory=dict)

    def weighted(self, weights: Mapping[str, float]) -> torch.Tensor:
        """The sum of the terms, each multiplied by its weight; gradients are taken of this."""
        return torch.stack([term * weights[name] for name, term in self.terms.items()]).sum()
