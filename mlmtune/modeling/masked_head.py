"""The vocabulary-wide head on masked positions only, for any architecture.

At a masking rate of 15 %, 85 % of the head's logits would be computed for nothing. A forward hook
on the encoder (`model.base_model`) passes only the rows at masked positions to the head, which runs
unchanged. A small batch shows whether an architecture allows it.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from mlmtune.masking.collator import IGNORE_INDEX, MaskedBatch
from mlmtune.modeling.losses import LOSS, Losses
from mlmtune.modeling.pair_head import pair_logits, token_logits

PROBE_TOLERANCE = 1e-4
"""Largest relative difference at which logits of both ways count as equal."""

PAIR_LOSS, PAIR_ACCURACY, PAIR_LABEL_SHARE = "pair_loss", "pair_accuracy", "pair_label_share"
"""The names of sums over pairs: of cross entropies, right answers, and labels of 1."""


@dataclass(frozen=True)
class HeadOutputs:
    """The logits of a batch.

    Attributes:
        logits: (M, V) At the masked positions.
        pair_logits: (B, 2) For label 0, whose segments belong together in this order, and label 1.
            None for a model without a head for pairs.
    """

    logits: torch.Tensor
    pair_logits: torch.Tensor | None


class MaskedHead:
    """Computes logits at masked positions, and no others if the architecture allows it.

    Args:
        model: A masked language model of transformers. Its encoder gets a hook.
        vocab_size: The number of ids, for a probe batch.

    Attributes:
        is_sparse: Whether the architecture allows it.
    """

    def __init__(self, model: Any, vocab_size: int) -> None:
        self._rows: torch.Tensor | None = None
        self.is_sparse = True
        hook = model.base_model.register_forward_hook(self._keep_rows)
        if model.base_model is model or not self._agrees_with_the_full_head(model, vocab_size):
            self.is_sparse = False
            hook.remove()

    def _keep_rows(self, module: nn.Module, args: Any, output: Any) -> Any:
        if self._rows is None:
            return output
        hidden = output[0]  # (B, T, H)
        rows = hidden.reshape(1, -1, hidden.shape[-1]).index_select(1, self._rows)  # (1, M, H)
        if isinstance(output, tuple):
            return (rows, *output[1:])
        output.last_hidden_state = rows
        return output

    def outputs(self, model: Any, batch: MaskedBatch) -> HeadOutputs:
        """Compute the logits at a batch's masked positions, and those of its pairs.

        Args:
            model: The model of this head, bare or wrapped for training.
            batch: A batch on the model's device.
        """
        if not self.is_sparse:
            output = model(**batch.model_inputs())
            dense = token_logits(output)  # (B, T, V)
            rows = dense.reshape(-1, dense.shape[-1]).index_select(0, batch.masked_positions)
            return HeadOutputs(rows, pair_logits(output))
        self._rows = batch.masked_positions
        try:
            output = model(**batch.model_inputs())
        finally:
            self._rows = None
        return HeadOutputs(token_logits(output)[0], pair_logits(output))  # of (1, M, V)

    def losses(self, model: Any, batch: MaskedBatch) -> Losses:
        """Compute the loss of a batch's masked tokens, and the loss and tallies of its pairs.

        The arguments are those of `outputs`.
        """
        if batch.num_masked_tokens == 0:
            # The model still runs, so that every process takes part in the exchange of gradients.
            output = model(**batch.model_inputs())
            mlm, of_pairs = token_logits(output).float().sum() * 0.0, pair_logits(output)
        else:
            outputs = self.outputs(model, batch)
            of_pairs = outputs.pair_logits
            mlm = functional.cross_entropy(
                outputs.logits.float(),
                batch.masked_labels(),
                reduction="sum",
                ignore_index=IGNORE_INDEX,
            )
        if batch.pair_labels is None:
            return Losses({LOSS: mlm})
        assert of_pairs is not None  # loading refuses a model without a head for pairs
        pair = functional.cross_entropy(of_pairs.float(), batch.pair_labels, reduction="sum")
        num_correct = (of_pairs.argmax(dim=-1) == batch.pair_labels).sum()
        return Losses(
            {LOSS: mlm, PAIR_LOSS: pair},
            {PAIR_ACCURACY: num_correct, PAIR_LABEL_SHARE: batch.pair_labels.sum()},
        )

    def _agrees_with_the_full_head(self, model: Any, vocab_size: int) -> bool:
        # Equal shapes prove nothing: a head may mix neighbouring rows, so values are compared.
        device = next(model.parameters()).device
        ids = torch.arange(2 * 8, device=device).reshape(2, 8) % vocab_size
        rows = torch.tensor([1, 4, 5, 11], device=device)
        batch = MaskedBatch(ids, ids, rows, len(rows), None, None)
        was_training = model.training
        model.eval()
        try:
            with torch.no_grad():
                dense = token_logits(model(input_ids=ids))
                expected = dense.reshape(-1, dense.shape[-1])[rows]
                actual = self.outputs(model, batch).logits
                scale = expected.abs().max().clamp(min=1e-6)
                return actual.shape == expected.shape and bool(
                    ((actual - expected).abs().max() / scale) <= PROBE_TOLERANCE
                )
        except (RuntimeError, ValueError, IndexError, AttributeError, TypeError):
            return False
        finally:
            model.train(was_training)
