"""The losses of a batch: named sums."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

LOSS = "loss"
"""The term that every task has. `train_loss` is its mean."""

FILL = "fill"
"""The tally of tokens of tasks with padding. Its mean is the share of positions that are tokens."""


@dataclass(frozen=True)
class Losses:
    """Sums over a batch, as scalars, each under the name that its mean has in metrics.jsonl.

    Attributes:
        terms: Losses in nats, in fp32. A step trains on the sum of their means.
        tallies: Counts that are only logged, such as the number of right predictions.
    """

    terms: dict[str, torch.Tensor]
    tallies: dict[str, torch.Tensor] = field(default_factory=dict)

    def weighted(self, weights: Mapping[str, float]) -> torch.Tensor:
        """Return the weighted sum of the terms, of which gradients are taken."""
        return torch.stack([term * weights[name] for name, term in self.terms.items()]).sum()
