"""The last layer of a masked-LM head, whose logits are computed for a few rows at a time.

The logits of a large vocabulary, with their gradient, take more memory than the encoder: 12 GB for
4,915 masked tokens and 256,000 words. Here the gradient is computed right after the logits of a
chunk of rows, so that only one chunk of logits exists at a time, and no matrix product is computed
twice. `torch.nn.functional.linear_cross_entropy` of torch 2.13 does the same, but where the
products are in 16 bits, it also adds up the gradient of the weight in 16 bits.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

LOGITS_AT_ONCE = {"cpu": 2**24, "cuda": 2**28}
"""The most logits that exist at a time, by device: 64 MB and 1 GB in fp32.

Larger chunks are no faster on a CPU. A GPU needs about a thousand rows at a time, or else it waits
for the gradient of the weight, which every chunk reads and writes (by arithmetic; not measured). At
30,000 words, batches of up to 550 and 8,900 masked tokens are one chunk.
"""


@dataclass(frozen=True)
class OutputLayer:
    """A linear layer (H -> V) whose result is the model's logits.

    Attributes:
        module: The layer.
        dtype: The precision of its matrix products, as autocast would choose it.
    """

    module: nn.Linear
    dtype: torch.dtype

    def logits(self, rows: torch.Tensor) -> Iterator[torch.Tensor]:
        """Yield the logits (m, V), in fp32, of chunks of rows (M, H)."""
        weight, bias = self.module.weight.to(self.dtype), _cast(self.module.bias, self.dtype)
        for chunk in chunks_of(rows, len(weight)):
            yield functional.linear(chunk.to(self.dtype), weight, bias).float()

    def summed_loss(self, rows: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the sum of the cross entropies of rows (M, H) with labels (M,), in nats."""
        if not torch.is_grad_enabled():
            return self._loss_alone(rows, labels)
        weight, bias = self.module.weight, self.module.bias
        arguments = (rows, labels, weight, bias, self.dtype)
        loss: torch.Tensor = _SummedLoss.apply(*arguments)  # type: ignore[no-untyped-call]
        return loss

    def _loss_alone(self, rows: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        divided = zip(self.logits(rows), chunks_of(labels, len(self.module.weight)), strict=True)
        losses = [functional.cross_entropy(*chunk, reduction="sum") for chunk in divided]
        return torch.stack(losses).sum()


def chunks_of(rows: torch.Tensor, vocab_size: int) -> tuple[torch.Tensor, ...]:
    """Divide rows (M, ...) with V logits each into chunks of equal size, up to one row."""
    most = logits_at_once(rows.device)
    num_chunks = -(-len(rows) * vocab_size // most)
    return rows.tensor_split(min(max(num_chunks, 1), max(len(rows), 1)))


def logits_at_once(device: torch.device) -> int:
    """Return the most logits that exist at a time; one row has more in a larger vocabulary."""
    return LOGITS_AT_ONCE.get(device.type, LOGITS_AT_ONCE["cuda"])


class _SummedLoss(torch.autograd.Function):
    """The sum of cross entropies. Its gradients are computed with it, but for a common factor."""

    @staticmethod
    def forward(
        ctx: Any,
        rows: torch.Tensor,
        labels: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        dtype: torch.dtype,
    ) -> torch.Tensor:
        of_rows, of_weight = torch.empty_like(rows), torch.zeros_like(weight)
        of_bias = None if bias is None else torch.zeros_like(bias)
        cast_weight, cast_bias = weight.to(dtype), _cast(bias, dtype)
        losses = []
        for inputs, targets, of_inputs in zip(
            *(chunks_of(tensor, len(weight)) for tensor in (rows, labels, of_rows)), strict=True
        ):
            inputs, targets = inputs.to(dtype), targets[:, None]
            logits = functional.linear(inputs, cast_weight, cast_bias)
            log_probs = functional.log_softmax(logits, dim=-1, dtype=torch.float32)
            del logits
            of_labels = log_probs.gather(1, targets)
            losses.append(-of_labels.sum())
            # The gradient of the logits: the probabilities, less 1 at the label.
            of_logits = log_probs.exp_().scatter_(1, targets, of_labels.expm1())
            if of_bias is not None:
                of_bias += of_logits.sum(dim=0)
            of_logits = of_logits.to(dtype)
            of_inputs.copy_(of_logits @ cast_weight)
            if dtype == of_weight.dtype:
                of_weight.addmm_(of_logits.T, inputs)  # without a second tensor of its size
            else:
                of_weight += of_logits.T @ inputs
        ctx.gradients = of_rows, of_weight, of_bias
        return torch.stack(losses).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, factor: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        of_rows, of_weight, of_bias = ctx.gradients
        del ctx.gradients  # changed in place, so there is no second backward pass
        for gradient in (of_rows, of_weight, of_bias):
            if gradient is not None:
                gradient.mul_(factor)
        return of_rows, None, of_weight, of_bias, None


def _cast(bias: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor | None:
    return None if bias is None else bias.to(dtype)
