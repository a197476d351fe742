"""What a batch gives to train on."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Losses:
    """Sums over a batch, in nats, in fp32. Scalars.

    Attributes:
        targets: cross entropies of what is predicted: masked tokens, or the labels of examples.
        pair: cross entropies of the pairs of sentences; None where sequences are no pairs.
        num_pairs_correct: pairs whose likelier label is right.
        num_pair_ones: pairs with label 1.
    """

    targets: torch.Tensor
    pair: torch.Tensor | None = None
    num_pairs_correct: torch.Tensor | None = None
    num_pair_ones: torch.Tensor | None = None
