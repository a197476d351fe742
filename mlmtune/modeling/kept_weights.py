"""Weights of a checkpoint that are not trained: a pooler, heads for other tasks.

A masked language model does not have them, so it would be saved without them, and a classifier that
is fine-tuned on the result would start from a random pooler. They are saved with the result.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers.core_model_loading import WeightRenaming
from transformers.modeling_utils import load_state_dict

from mlmtune.modeling.weight_files import weight_files


def read_kept_weights(
    folder: Path, model: Any, unexpected: Collection[str], renamed: Mapping[str, str]
) -> dict[str, torch.Tensor]:
    """Read the tensors of a checkpoint that a model does not have, and no others.

    Weights that the architecture declares obsolete are not in `unexpected`, so they are not kept.
    Integer buffers (`position_ids`) are not kept either, nor copies of the embeddings under another
    name, which would keep their values from before training.

    Args:
        folder: The checkpoint, in one file or several, as safetensors or pickled.
        model: The model that from_pretrained() has loaded from it, not trained yet.
        unexpected: The `unexpected_keys` that from_pretrained() reported.
        renamed: Names in the files -> names under which they were loaded, if these differ.

    Returns:
        Tensors in fp32, by the names under which other classes of the architecture find them.
    """
    if not unexpected:
        return {}
    prefix = f"{model.base_model_prefix}."
    embeddings = model.get_input_embeddings().weight
    has_prefix, kept = False, {}
    for in_file, read in _tensors(weight_files(folder, model.config.to_dict())):
        saved_as = renamed.get(in_file, in_file)
        has_prefix |= saved_as.startswith(prefix)
        name = name_when_loaded(saved_as, model)
        if name not in unexpected:
            continue
        tensor = read()
        is_copy = tensor.shape == embeddings.shape and torch.equal(tensor.float(), embeddings)
        if tensor.is_floating_point() and not is_copy:
            # A copy, because `tensor` is a view of a file that may be replaced during the run.
            kept[name] = tensor.to(torch.float32, copy=True)
    if has_prefix:
        return kept
    # Names of a bare encoder's checkpoint lack the prefix that a model with a head expects.
    return {prefix + name: tensor for name, tensor in kept.items()}


def _tensors(paths: list[Path]) -> Iterator[tuple[str, Callable[[], torch.Tensor]]]:
    """Yield each tensor's name, and a function that reads it until the next is asked for."""
    for path in paths:
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as file:
                for name in file.keys():  # noqa: SIM118
                    yield name, partial(file.get_tensor, name)
        else:
            for name, tensor in load_state_dict(str(path)).items():  # memory-mapped if possible
                yield name, tensor.detach


def name_when_loaded(name: str, model: Any) -> str:
    """Return what from_pretrained() makes of a name in a file, such as `weight` of `gamma`."""
    for conversion in getattr(model, "_weight_conversions", None) or []:
        if isinstance(conversion, WeightRenaming):
            name, _ = conversion.rename_source_key(name)
    return name
