"""Models as ONNX files: written by PyTorch's exporter, and run by ONNX Runtime.

optimum-onnx would be the usual tool, but it refuses transformers 5.
"""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from torch import nn
from transformers.modeling_outputs import MaskedLMOutput

from mlmtune.errors import ConfigError, is_fault_of_machine, named
from mlmtune.modeling.evaluation_mode import in_evaluation_mode
from mlmtune.modeling.loading import LoadedModel

LARGEST_FILE = 2**31 - 2**20
"""The bytes that fit into one file of Protocol Buffers, with room for the graph."""

OPSET = 18
"""The version of ONNX's operators, of 2022. PyTorch's exporter writes no older one."""


class OnnxModel(nn.Module):
    """An ONNX file in the place of a masked language model of transformers, on the CPU.

    Its threads are as many as PyTorch uses, so that the two can be compared.

    Args:
        path: The file.
    """

    device = torch.device("cpu")

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.name_or_path = str(path)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3  # its advice on graphs is not the user's
        self._session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        self._inputs = [each.name for each in self._session.get_inputs()]

    @property
    def base_model(self) -> "OnnxModel":
        """The model itself: a file has no encoder apart from its head."""
        return self

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
    ) -> MaskedLMOutput:
        """Compute the logits (B, T, V) of `input_ids` (B, T); what is not given is the usual."""
        ones, zeros = torch.ones_like(input_ids), torch.zeros_like(input_ids)
        given = {
            "input_ids": input_ids,
            "attention_mask": ones if attention_mask is None else attention_mask,
            "token_type_ids": zeros if token_type_ids is None else token_type_ids,
        }
        feed = {name: given[name].numpy() for name in self._inputs}
        logits: np.ndarray[Any, Any] = self._session.run(["logits"], feed)[0]
        return MaskedLMOutput(logits=torch.from_numpy(logits))


def write_onnx(loaded: LoadedModel, path: Path) -> None:
    """Write a masked language model as an ONNX file, for any number and length of sequences.

    Its inputs are those of the tokenizer that the model takes, (B, T) int64; its output is `logits`
    (B, T, V). The weights of a model beyond `LARGEST_FILE` are in a second file, `NAME.data`.

    Args:
        loaded: The model, as `load_pretrained` returns it.
        path: The file.

    Raises:
        ConfigError: The architecture cannot be exported with lengths that vary.
    """
    model = loaded.model
    names = [
        name for name in ("input_ids", "attention_mask", "token_type_ids")
        if name in signature(model.forward).parameters
        and (name != "token_type_ids" or loaded.has_token_types)
    ]  # fmt: skip
    longest = loaded.context_length
    ids = torch.full((2, min(longest or 16, 16)), loaded.tokenizer.mask_token_id)
    values = {"token_type_ids": torch.zeros_like(ids), "attention_mask": torch.ones_like(ids)}
    sizes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence", max=longest)}
    try:
        with in_evaluation_mode(model), _quietly():
            program = torch.onnx.export(
                model,
                kwargs={name: values.get(name, ids) for name in names},
                input_names=names,
                output_names=["logits"],
                dynamic_shapes=dict.fromkeys(names, sizes),
                opset_version=OPSET,
                dynamo=True,
                verbose=False,
            )
            assert program is not None  # that is of the other exporter
            # Where a length decides the graph (Funnel), the exporter fixes it without an error.
            shapes = [each.shape or () for each in program.model.graph.inputs]
            if any(isinstance(size, int) for shape in shapes for size in shape):
                raise ValueError("its length would be fixed")
            num_bytes = sum(p.numel() * p.element_size() for p in model.parameters())
            program.save(path, external_data=num_bytes > LARGEST_FILE)
    except Exception as error:
        if is_fault_of_machine(error):
            raise
        raise ConfigError(
            f"{model.name_or_path}: a {model.config.model_type} model cannot be exported to ONNX "
            f"({named(error.__cause__ or error)}); use it with transformers"
        ) from error


def write_int8(source: Path, target: Path) -> None:
    """Write an ONNX file with the weights of its matrix products and embeddings in 8 bits.

    Activations are quantised while the model runs (dynamic quantisation), so no text is needed.

    Args:
        source: The file in fp32.
        target: The file to write.
    """
    with _quietly():
        quantize_dynamic(
            source, target, weight_type=QuantType.QInt8, per_channel=True,
            use_external_data_format=source.with_name(f"{source.name}.data").is_file(),
        )  # fmt: skip


@contextmanager
def _quietly() -> Iterator[None]:
    """Leave out what the exporters say of themselves: versions, missing vision packages, advice."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
