"""What a checkpoint holds besides the model that is trained: a pooler, heads for other tasks.

A masked language model leaves them out when it is saved, and a classifier that is fine-tuned on the
result would start from a pooler of random weights. So they are read here and saved with the rest.
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
    """The tensors of a checkpoint for which a model has no place. Only these are read.

    What the architecture itself declares to be obsolete is not among those that loading reports,
    and is not kept. Neither are buffers of integers (`position_ids`), nor copies of the embeddings
    under another name, which would go on to hold what they were before training.

    Args:
        folder: a checkpoint, in one file or several, as safetensors or pickled.
        model: as from_pretrained() has loaded it from there, not trained yet.
        unexpected: the `unexpected_keys` that it reported.
        renamed: names in the files, and those under which they were loaded; where they differ.

    Returns:
        By the names under which the other classes of the architecture look for them; fp32.
    """
    if not unexpected:
        return {}
    prefix = f"{model.base_model_prefix}."
    embeddings = model.get_input_embeddings().weight
    has_prefix, kept = False, {}
    named = {"transformers_weights": getattr(model.config, "transformers_weights", None)}
    for in_file, read in _tensors(weight_files(folder, named)):
        saved_as = renamed.get(in_file, in_file)
        has_prefix |= saved_as.startswith(prefix)
        name = _name_when_loaded(saved_as, model)
        if name not in unexpected:
            continue
        tensor = read()
        is_copy = tensor.shape == embeddings.shape and torch.equal(tensor.float(), embeddings)
        if tensor.is_floating_point() and not is_copy:
            # A copy: what was read is a view of the file, which may be replaced during the run.
            kept[name] = tensor.to(torch.float32, copy=True)
    if has_prefix:
        return kept
    # The checkpoint is a bare encoder's; among the weights of a model with a head, its have one.
    return {prefix + name: tensor for name, tensor in kept.items()}


def _tensors(paths: list[Path]) -> Iterator[tuple[str, Callable[[], torch.Tensor]]]:
    """Each tensor's name, and how to read it while the iterator stands there."""
    for path in paths:
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as file:
                for name in file.keys():  # noqa: SIM118
                    yield name, partial(file.get_tensor, name)
        else:
            for name, tensor in load_state_dict(str(path)).items():  # mapped if it can be
                yield name, tensor.detach


def _name_when_loaded(name: str, model: Any) -> str:
    """The name that from_pretrained() makes of one in a file, such as `weight` of `gamma`."""
    for conversion in getattr(model, "_weight_conversions", None) or []:
        if isinstance(conversion, WeightRenaming):
            name, _ = conversion.rename_source_key(name)
    return name
