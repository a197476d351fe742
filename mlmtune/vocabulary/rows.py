"""The rows of new vocabulary entries in a model: its embeddings, its output layer and its bias.

transformers' `resize_token_embeddings` leaves behind the biases of some heads, and draws new rows
from the global generator. Here every tensor of the model that has a row for each id is found and
grown.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from mlmtune.errors import ConfigError
from mlmtune.modeling.evaluation_mode import in_evaluation_mode
from mlmtune.modeling.masked_head import PROBE_ERRORS
from mlmtune.modeling.pair_head import token_logits
from mlmtune.randomness import key, uniform

RowInit = Literal["subword_mean", "random"]
"""How the rows of new entries start."""

DEFAULT_RANGE = 0.02
"""The standard deviation of new rows, for models whose config does not name it."""

ROW_STREAM = 0x726F7773
"""Keeps the draws of rows apart from other draws of the same seed."""

_PROBED = 8
"""The number of new ids that the grown model is tried on."""


def extend_rows(
    model: Any,
    pieces: Mapping[int, Sequence[int]],
    num_rows: int,
    init: RowInit = "subword_mean",
    *,
    seed: int = 0,
    token_counts: NDArray[np.int64] | None = None,
) -> None:
    """Give a model rows for new entries, in place.

    `subword_mean` starts a row from the mean of its pieces' rows (Gee et al. 2022, "Fast vocabulary
    transfer for language model compression", 3), in the input and in the output layer. It is
    scaled to the mean norm of these rows, because the mean of unrelated rows is short, and the
    model has not seen rows as short as that. Its bias is the mean of its pieces' biases; with
    counts, plus its log frequency less the mean log frequency that its pieces had before, so a bias
    that is a log frequency stays one.

    `random` draws a row from a normal distribution with the model's `initializer_range`, as a
    function of the seed and the id. Its bias is 0.

    Rows without an entry, which only fill up the embeddings, become the mean of all rows, so that
    none is predicted more often than the average token (Hewitt 2021, "Initializing new word
    embeddings for pretrained language models"). All other rows keep their bits.

    Args:
        model: A masked language model of transformers.
        pieces: For each new id, the ids of the tokens that its text had before.
        num_rows: The number of rows to have, at least that of now.
        init: How rows start.
        seed: The seed of random rows.
        token_counts: (num_rows,) How often each id occurs in the text, with the new entries.

    Raises:
        ConfigError: The architecture's head cannot be given more rows.
    """
    now = model.get_input_embeddings().weight.shape[0]
    assert num_rows >= now  # rows are never taken away
    shifts = {} if token_counts is None else _log_ratios(token_counts, pieces)
    for number, tensor in enumerate(_vocabulary_tensors(model, now)):
        old = tensor.parameter.detach()
        new = torch.cat([old, old.mean(0, keepdim=True).expand(num_rows - now, *old.shape[1:])])
        for id_, its_pieces in pieces.items():
            if init == "subword_mean":
                new[id_] = _mean_of(old[list(its_pieces)])
                if new.ndim == 1:
                    new[id_] += shifts.get(id_, 0.0)
            elif new.ndim == 1:
                new[id_] = 0.0
            else:
                scale = getattr(model.config, "initializer_range", DEFAULT_RANGE)
                new[id_] = scale * _normal(new.shape[1], seed, number, id_)
        tensor.replace(new)
    model.config.vocab_size = num_rows
    _check_logits(model, list(pieces)[:_PROBED] or [0], num_rows)


@dataclass(frozen=True)
class _VocabularyTensor:
    """A parameter with a row for each id, and the modules that have it; tied ones share it."""

    parameter: nn.Parameter
    holders: list[tuple[nn.Module, str]]

    def replace(self, values: torch.Tensor) -> None:
        """Put other values, of more rows, in its place."""
        parameter = nn.Parameter(values, requires_grad=self.parameter.requires_grad)
        for module, name in self.holders:
            setattr(module, name, parameter)
            if isinstance(module, nn.Embedding):
                module.num_embeddings = len(values)
            elif isinstance(module, nn.Linear):
                module.out_features = len(values)


def _vocabulary_tensors(model: Any, num_rows: int) -> list[_VocabularyTensor]:
    """Return the input embeddings, and then the head's tensors that have a row for each id."""
    embeddings = model.get_input_embeddings().weight
    encoder = f"{model.base_model_prefix}."
    tensors = {id(embeddings): _VocabularyTensor(embeddings, [])}
    for path, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            is_in_head = not f"{path}.".startswith(encoder)
            if parameter is embeddings or (is_in_head and parameter.shape[:1] == (num_rows,)):
                tensor = tensors.setdefault(id(parameter), _VocabularyTensor(parameter, []))
                tensor.holders.append((module, name))
    return list(tensors.values())


def _log_ratios(counts: NDArray[np.int64], pieces: Mapping[int, Sequence[int]]) -> dict[int, float]:
    """Return how much more frequent each new id is than its pieces were, as mean log ratios."""
    before = counts.copy()
    for id_, its_pieces in pieces.items():
        np.add.at(before, list(its_pieces), counts[id_])
    return {
        id_: float(np.log(counts[id_] + 1.0) - np.log(before[list(its_pieces)] + 1.0).mean())
        for id_, its_pieces in pieces.items()
    }


def _mean_of(rows: torch.Tensor) -> torch.Tensor:
    """Return the mean of rows (n, H) with their mean norm, or that of biases (n,)."""
    mean = rows.mean(0)
    if rows.ndim == 1:
        return mean
    norm = mean.norm()
    return mean * (rows.norm(dim=1).mean() / norm) if norm > 0 else mean


def _normal(size: int, seed: int, tensor: int, id_: int) -> torch.Tensor:
    """Draw (size,) standard normal numbers, by the method of Box and Muller (1958)."""
    counters = np.arange(2 * size, dtype=np.uint64)
    first, second = uniform(key(ROW_STREAM, seed, tensor, id_), counters).reshape(2, size)
    drawn = np.sqrt(-2.0 * np.log1p(-first)) * np.cos(2.0 * math.pi * second)
    return torch.from_numpy(drawn).float()


def _check_logits(model: Any, ids: Sequence[int], num_rows: int) -> None:
    device = model.get_input_embeddings().weight.device
    try:
        with in_evaluation_mode(model), torch.no_grad():
            width = token_logits(model(input_ids=torch.tensor([ids], device=device))).shape[-1]
    except PROBE_ERRORS:
        width = None
    if width != num_rows:
        raise ConfigError(
            f"vocabulary: the head of {model.config.model_type} cannot be given more tokens; "
            "remove vocabulary, or choose a model of another architecture"
        )
