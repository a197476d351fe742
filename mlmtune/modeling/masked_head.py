"""The vocabulary-wide head on masked positions only, for any architecture.

At a masking rate of 15 %, 85 % of the head's logits would be computed for nothing. A forward hook
on the encoder (`model.base_model`) passes only the rows at masked positions to the head, which runs
unchanged up to its last layer. That layer passes its input on, so that its logits are computed for
a few rows at a time (`modeling/output_layer.py`). A small batch shows whether an architecture
allows the one and the other.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from mlmtune.masking.collator import MaskedBatch
from mlmtune.modeling.attention import attention_of_any_device
from mlmtune.modeling.device import DTYPES
from mlmtune.modeling.evaluation_mode import in_evaluation_mode
from mlmtune.modeling.losses import LOSS, Losses
from mlmtune.modeling.output_layer import OutputLayer, chunks_of
from mlmtune.modeling.packing import Packing
from mlmtune.modeling.pair_head import pair_logits, token_logits

PROBE_TOLERANCE = 1e-4
"""Largest relative difference at which logits of both ways count as equal."""

PROBE_ERRORS = (RuntimeError, ValueError, IndexError, AttributeError, TypeError)
"""What architectures raise that do not allow what is probed."""

PAIR_LOSS, PAIR_ACCURACY, PAIR_LABEL_SHARE = "pair_loss", "pair_accuracy", "pair_label_share"
"""The names of sums over pairs: of cross entropies, right answers, and labels of 1."""


@dataclass(frozen=True)
class HeadOutputs:
    """The outputs of a model's heads for a batch.

    Attributes:
        rows: (M, H) What the output layer takes at the masked positions; their logits (M, V) if
            `output_layer` is None.
        output_layer: The last layer of the masked-LM head, which is yet to be computed.
        pair_logits: (B, 2) For label 0, whose segments belong together in this order, and label 1.
            None for a model without a head for pairs.
    """

    rows: torch.Tensor
    output_layer: OutputLayer | None
    pair_logits: torch.Tensor | None

    def logits(self) -> Iterator[torch.Tensor]:
        """Yield the logits (m, V), in fp32, of one chunk of masked positions after the other."""
        if self.output_layer is not None:
            return self.output_layer.logits(self.rows)
        return (chunk.float() for chunk in chunks_of(self.rows, self.rows.shape[1]))

    def summed_loss(self, labels: torch.Tensor) -> torch.Tensor:
        """Return the sum of the cross entropies of the masked positions' labels (M,), in nats."""
        if self.output_layer is not None:
            return self.output_layer.summed_loss(self.rows, labels)
        return functional.cross_entropy(self.rows.float(), labels, reduction="sum")


class MaskedHead:
    """Computes logits at masked positions, and no others if the architecture allows it.

    Args:
        model: A masked language model of transformers. Its encoder gets a hook, and its output
            layer another `forward`.
        vocab_size: The number of ids, for a probe batch.
        precision: `fp32`, `bf16` or `fp16`: that of the output layer's matrix products.

    Attributes:
        is_sparse: Whether the architecture allows it.
        output_layer: The output layer, if the model returns its result as the logits. It then
            needs memory for one chunk of logits, and otherwise for those of all masked positions.
        packing: Lays out batches of uneven sequences; None if they stay padded.
    """

    def __init__(self, model: Any, vocab_size: int, precision: str = "fp32") -> None:
        self.packing: Packing | None = None
        self._rows: torch.Tensor | None = None
        self.is_sparse = True
        self.output_layer: OutputLayer | None = None
        device = next((p.device for p in model.parameters()), None)  # an ONNX file has none
        ids = torch.arange(2 * 8, device=device).reshape(2, 8) % vocab_size
        hook = model.base_model.register_forward_hook(self._keep_rows)
        if model.base_model is model or not self._agrees_with_the_full_head(model, ids):
            self.is_sparse = False
            hook.remove()
        elif (layer := _layer_of_logits(model, ids)) is not None:
            self._pass_on_input(layer)
            self.output_layer = OutputLayer(layer, torch.float32)
            if self._agrees_with_the_full_head(model, ids):
                self.output_layer = OutputLayer(layer, DTYPES[precision])
            else:
                self.output_layer = None
                del layer.forward

    def _pass_on_input(self, layer: nn.Linear) -> None:
        """Let a layer return its input while the head runs on masked positions."""

        def forward(input: torch.Tensor) -> torch.Tensor:
            if self._rows is not None:
                return input
            return functional.linear(input, layer.weight, layer.bias)

        layer.forward = forward  # type: ignore[method-assign]

    def _keep_rows(self, module: nn.Module, args: Any, output: Any) -> Any:
        if self._rows is None:
            return output
        hidden = output[0]  # (B, T, H)
        rows = hidden.reshape(1, -1, hidden.shape[-1]).index_select(1, self._rows)  # (1, M, H)
        if isinstance(output, tuple):
            return (rows, *output[1:])
        output.last_hidden_state = rows
        return output

    def packed(self, batch: MaskedBatch) -> MaskedBatch:
        """Return a batch on the CPU in as few rows as the architecture allows."""
        return batch if self.packing is None else self.packing.pack(batch)

    def outputs(self, model: Any, batch: MaskedBatch) -> HeadOutputs:
        """Compute the logits at a batch's masked positions, and those of its pairs.

        Args:
            model: The model of this head, bare or wrapped for training.
            batch: A batch on the model's device.
        """
        num_masked = batch.num_masked_tokens  # without the padding for compiled models
        if not self.is_sparse:
            output = model(**batch.model_inputs())
            dense = token_logits(output)  # (B, T, V)
            positions = batch.masked_positions[:num_masked]
            rows = dense.reshape(-1, dense.shape[-1]).index_select(0, positions)
            return HeadOutputs(rows, None, pair_logits(output))
        self._rows = batch.masked_positions
        try:
            output = model(**batch.model_inputs())
        finally:
            self._rows = None
        rows = token_logits(output)[0, :num_masked]  # of (1, M, H), or (1, M, V)
        return HeadOutputs(rows, self.output_layer, pair_logits(output))

    def losses(self, model: Any, batch: MaskedBatch) -> Losses:
        """Compute the loss of a batch's masked tokens, and the loss and tallies of its pairs.

        The arguments are those of `outputs`. A batch without masked tokens has a loss of 0, with
        gradients of 0, so that every process takes part in the exchange of gradients.
        """
        outputs = self.outputs(model, batch)
        mlm, of_pairs = outputs.summed_loss(batch.masked_labels()), outputs.pair_logits
        if batch.pair_labels is None:
            return Losses({LOSS: mlm})
        assert of_pairs is not None  # loading refuses a model without a head for pairs
        pair = functional.cross_entropy(of_pairs.float(), batch.pair_labels, reduction="sum")
        num_correct = (of_pairs.argmax(dim=-1) == batch.pair_labels).sum()
        return Losses(
            {LOSS: mlm, PAIR_LOSS: pair},
            {PAIR_ACCURACY: num_correct, PAIR_LABEL_SHARE: batch.pair_labels.sum()},
        )

    def _agrees_with_the_full_head(self, model: Any, ids: torch.Tensor) -> bool:
        # Equal shapes prove nothing: a head may mix neighbouring rows, so values are compared.
        rows = torch.tensor([1, 4, 5, 11], device=ids.device)
        batch = MaskedBatch(ids, ids, rows, len(rows), None, None)
        try:
            with _probing(model):
                dense = token_logits(model(input_ids=ids))
                expected = dense.reshape(-1, dense.shape[-1])[rows]
                actual = torch.cat([*self.outputs(model, batch).logits()])
        except PROBE_ERRORS:
            return False
        scale = expected.abs().max().clamp(min=1e-6)
        return actual.shape == expected.shape and bool(
            ((actual - expected).abs().max() / scale) <= PROBE_TOLERANCE
        )


@contextmanager
def _probing(model: Any) -> Iterator[None]:
    with in_evaluation_mode(model), torch.no_grad(), attention_of_any_device(model):
        yield


def _layer_of_logits(model: Any, ids: torch.Tensor) -> nn.Linear | None:
    """Return the linear layer whose result is the model's logits; None if there is none."""
    results = []
    try:
        layer = model.get_output_embeddings()
        if type(layer) is not nn.Linear:
            return None
        with _probing(model), layer.register_forward_hook(lambda *call: results.append(call[2])):
            logits = token_logits(model(input_ids=ids))
    except PROBE_ERRORS:
        return None
    # Not by values: a soft cap hardly changes the small logits of a probe.
    return layer if [id(result) for result in results] == [id(logits)] else None
