"""What the files of all runtimes have in common: the graph they are made from, and how they run.

optimum would be the usual tool, but optimum-onnx and optimum-intel refuse transformers 5.
"""

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from inspect import signature
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn
from transformers.modeling_outputs import MaskedLMOutput

from mlmtune.errors import ConfigError, is_fault_of_machine, named
from mlmtune.modeling.evaluation_mode import in_evaluation_mode
from mlmtune.modeling.loading import LoadedModel


class ExportedModel(nn.Module):
    """A file of a runtime in the place of a masked language model of transformers, on the CPU.

    Args:
        path: The file.
        inputs: The names of its inputs, of shape (B, T).
        run: Computes the logits (B, T, V) from the inputs, int64.
    """

    device = torch.device("cpu")

    def __init__(
        self, path: Path, inputs: Sequence[str], run: Callable[[Mapping[str, Any]], Any]
    ) -> None:
        super().__init__()
        self.name_or_path = str(path)
        self._inputs = inputs
        self._run = run

    @property
    def base_model(self) -> "ExportedModel":
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
        logits: np.ndarray[Any, Any] = self._run(
            {name: given[name].numpy() for name in self._inputs}
        )
        return MaskedLMOutput(logits=torch.from_numpy(logits))


class Runtime(Protocol):
    """The module of a runtime.

    Attributes:
        VERSION: The version of the runtime.
        SNIPPET: Code that fills the one mask of `{text}` by the `{files}` of a form of the model,
            which is at `model`; the first of the files is the one to open.
    """

    VERSION: str
    SNIPPET: str

    def write(self, loaded: LoadedModel, path: Path) -> None:
        """Write a masked language model for any number and length of sequences, in fp32.

        Its inputs are those of the tokenizer that the model takes, (B, T) int64; its output is
        `logits` (B, T, V).

        Args:
            loaded: The model, as `load_pretrained` returns it.
            path: The file. Large weights may be in others of its name.

        Raises:
            ConfigError: The architecture cannot be exported with lengths that vary.
        """

    def write_int8(self, source: Path, target: Path) -> None:
        """Write a model that is in fp32 with the weights of its matrix products in 8 bits."""

    def open_model(self, path: Path) -> ExportedModel:
        """Open a model, with as many threads as PyTorch uses, so that the two can be compared."""


@contextmanager
def exporting(loaded: LoadedModel, runtime: str) -> Iterator[torch.export.ExportedProgram]:
    """Give the graph of a model, for sequences of any number and length, to a runtime's writer.

    Args:
        loaded: The model.
        runtime: The name of the runtime, for the error.

    Raises:
        ConfigError: The architecture has no such graph, or what the block does with it failed.
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
        with in_evaluation_mode(model), quietly():
            yield torch.export.export(
                model,
                (),
                {name: values.get(name, ids) for name in names},
                dynamic_shapes=dict.fromkeys(names, sizes),
            )
    except Exception as error:
        if is_fault_of_machine(error):
            raise
        raise ConfigError(
            f"{model.name_or_path}: a {model.config.model_type} model cannot be exported to "
            f"{runtime} ({named(error.__cause__ or error)}); use it with transformers"
        ) from error


@contextmanager
def quietly() -> Iterator[None]:
    """Leave out what exporters say of themselves: versions, missing vision packages, advice."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
