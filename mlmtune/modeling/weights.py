"""Reading a checkpoint's weights into a model, and checking that all of them have arrived.

transformers draws a weight at random, without an error, if the checkpoint has none of its name. A
head may be new; an encoder may not.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
import transformers
from transformers.modeling_utils import load_state_dict

from mlmtune.errors import is_fault_of_machine
from mlmtune.modeling.locating import ModelFolder, read_model_config
from mlmtune.modeling.tokenizer import CODE_OF_ITS_OWN
from mlmtune.modeling.weight_files import quantised, weight_files

QUANTISED_DTYPES = (torch.int8, torch.uint8, torch.float8_e4m3fn, torch.float8_e5m2)

WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""Parts of names from DistributedDataParallel, torch.compile, FSDP, activation checkpointing."""


@dataclass(frozen=True)
class ReadModel:
    """A model that was read from a checkpoint.

    Attributes:
        model: The model in fp32, on the CPU.
        missing: Names of its weights that the files do not hold; they were drawn.
        unexpected: Names, as loaded, of tensors in the files that the model does not have.
        renamed: Names in the files -> names in the model; empty if they are the same.
        notes: Sentences for the user.
    """

    model: Any
    missing: set[str]
    unexpected: set[str]
    renamed: Mapping[str, str]
    notes: tuple[str, ...]


def read_model(
    folder: ModelFolder, auto_class: Any, model_config: Any, attention: str | None, seed: int
) -> ReadModel:
    """Load a model with the head of a class.

    Args:
        folder: The model's folder.
        auto_class: One of transformers' `AutoModelFor...`.
        model_config: The model's own config.
        attention: How attention is computed; None leaves it to transformers.
        seed: The seed of the weights that the checkpoint does not hold.

    Raises:
        ConfigError: The weights cannot be read, are not this architecture's, or are not finite.
    """
    files = weight_files(folder.path, read_model_config(folder))
    for file in files:
        if file.suffix != ".safetensors":
            _check_pickle(folder, file)

    def load(model_class: Any, path: Path | None, **state: Any) -> Any:
        torch.manual_seed(seed)  # from_pretrained() draws the weights that are missing
        return model_class.from_pretrained(
            path,
            config=model_config,
            dtype=torch.float32,
            attn_implementation=attention,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # _check_arrived() checks them
            trust_remote_code=False,
            **state,
        )

    renamed: dict[str, str] = {}
    notes: list[str] = []
    try:
        model, report = load(auto_class, folder.path)
        if lost := _lost_weights(model, report["missing_keys"]):
            state = {name: t for file in files for name, t in load_state_dict(str(file)).items()}
            unwrapped = _names_without_wrapper(state.keys(), model, lost)
            if unwrapped is not None:
                renamed, left_out = unwrapped
                state = {renamed[name]: tensor for name, tensor in state.items()}
                model, report = load(type(model), None, state_dict=state)
                notes.append(
                    f"{folder.name}: its weights have the names of a wrapper; they are read "
                    f"without {left_out}"
                )
    except Exception as error:
        if is_fault_of_machine(error):
            raise
        raise folder.refused(why_not_loadable(error)) from error
    _check_arrived(folder, model, report)
    notes += _left_out(folder, model, report["unexpected_keys"])
    # A head whose size in the files is another was drawn, too.
    missing = set(report["missing_keys"]).union(name for name, *_ in report["mismatched_keys"])
    return ReadModel(model, missing, report["unexpected_keys"], renamed, tuple(notes))


def _check_arrived(folder: ModelFolder, model: Any, report: Mapping[str, Any]) -> None:
    """Refuse an encoder that the files do not fill, and weights that are not finite."""
    for name, in_file, by_config in sorted(report["mismatched_keys"]):
        if name.startswith(f"{model.base_model_prefix}."):
            raise folder.refused(
                f"has a config.json that does not fit its weights ({name} is {tuple(in_file)} in "
                f"the file and {tuple(by_config)} by the config); fetch or save it again"
            )
    if lost := _lost_weights(model, report["missing_keys"]):
        others = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
        raise folder.refused(
            f"lacks weights of its encoder ({lost[0]}{others}); its files are damaged or of "
            "another architecture: fetch or save it again"
        )
    for name, parameter in model.named_parameters():
        if not torch.isfinite(parameter).all():
            raise folder.refused(
                f"has weights that are not finite numbers ({name}); training it has diverged, or "
                "its files are damaged: choose another model"
            )


def _lost_weights(model: Any, missing: set[str]) -> list[str]:
    """Return the weights of the encoder that the files do not hold; poolers may be new."""
    encoder = f"{model.base_model_prefix}."
    return sorted(key for key in missing if key.startswith(encoder) and ".pooler." not in key)


def _names_without_wrapper(
    names: Collection[str], model: Any, lost: Collection[str]
) -> tuple[dict[str, str], str] | None:
    """Find the names under which the model finds its weights.

    The `WRAPPERS` are removed, and then one prefix that all lost weights have, such as the name of
    an attribute of the class that held the model.

    Args:
        names: The names of the weights in the files.
        model: The model, which has not found some of its weights.
        lost: The names of these weights in the model.

    Returns:
        The new name of each, and what was removed; None if no wrapper explains the names.
    """
    renamed = {name: _unwrapped(name) for name in names}
    parts = {part for name in names for part in name.split(".") if part in WRAPPERS}
    encoder = f"{model.base_model_prefix}."
    # A long name is not the ending of another one; old files have other names for norms.
    wanted = max((name for name in lost if "Norm" not in name), key=len, default="")
    endings = (wanted, wanted.removeprefix(encoder))
    prefixes = {
        name.removesuffix(ending)
        for name in renamed.values()
        for ending in endings
        if name == ending or name.endswith(f".{ending}")
    }
    # `bert.` before the name of a bare encoder's weight is the model's own prefix, no wrapper's.
    prefixes = {
        prefix.removesuffix(encoder) if f".{prefix}".endswith(f".{encoder}") else prefix
        for prefix in prefixes
    }
    if len(prefixes) != 1:
        return None
    prefix = prefixes.pop()
    if not parts and not prefix:
        return None
    model_names = model.state_dict().keys()

    def in_model(name: str) -> str:
        rest = name.removeprefix(prefix)
        is_bare = encoder + rest in model_names or rest.startswith("pooler.")
        return encoder + rest if prefix and is_bare and rest not in model_names else rest

    removed = [*sorted(parts), *filter(None, [prefix.removesuffix(".")])]
    return {old: in_model(new) for old, new in renamed.items()}, ", ".join(removed)


def _unwrapped(name: str) -> str:
    parts = name.split(".")
    while len(parts) > 1 and parts[0] in WRAPPERS:
        del parts[0]
    # Inside a name, `module` may be a part of the model itself.
    return ".".join(part for part in parts if part not in WRAPPERS[1:])


def _check_pickle(folder: ModelFolder, file: Path) -> None:
    """Check a file of pickled tensors without reading the tensors and without running code."""
    try:
        content = load_state_dict(str(file), map_location="meta")  # weights_only=True
    except UnpicklingError as error:
        raise folder.refused(
            f"has a {file.name} that is not a file of weights, or holds objects besides, which "
            "could run code when they are loaded; save the model with save_pretrained()"
        ) from error
    except (RuntimeError, EOFError, ValueError, OSError) as error:
        if is_fault_of_machine(error):
            raise
        raise folder.refused(f"has a {file.name} that is damaged; fetch it again") from error
    tensors = {name: t for name, t in content.items() if isinstance(t, torch.Tensor)}
    if not tensors:
        raise folder.refused(
            f"has a {file.name} that holds no weights but {', '.join(map(str, content))}; save the "
            "weights alone with save_pretrained()"
        )
    for name, tensor in tensors.items():
        if tensor.dtype in QUANTISED_DTYPES and tensor.ndim > 1:
            raise folder.refused(quantised(f"{name} is saved as {tensor.dtype}"))


def _left_out(folder: ModelFolder, model: Any, unexpected: set[str]) -> Iterator[str]:
    """Report that a model is smaller than its files, or does not use a head in them."""
    layers = sorted(name for name in unexpected if re.search(r"\b(layers?|h)\.\d+\.", name))
    if layers:
        yield (
            f"{folder.name}: its weights have more layers than its config.json says; {layers[0]} "
            f"and {len(layers) - 1} more weights are left out"
        )
    uses_other_head = getattr(model.config, "legacy", False) and hasattr(model, "cls")
    if uses_other_head and any(name.startswith("lm_predictions.lm_head.") for name in unexpected):
        yield (
            f"{folder.name}: its files hold a masked-LM head that its config.json leaves unused; "
            '"legacy": false there uses it'
        )


def why_not_loadable(error: Exception) -> str:
    """Say why transformers has not loaded a config or a model, to follow the model's name."""
    text = str(error)
    if "trust_remote_code" in text:
        return CODE_OF_ITS_OWN
    if "does not recognize this architecture" in text:
        return (
            f"has an architecture that transformers {transformers.__version__} does not know; "
            "choose another model, or install a version that knows it"
        )
    if "Unrecognized configuration class" in text or "Unrecognized model" in text:
        return (
            "is not a masked language model that transformers knows; choose one of the BERT kind "
            "(BERT, RoBERTa, DeBERTa, ModernBERT, ...)"
        )
    if isinstance(error, KeyError):
        return f"has a config.json that names {text}, which transformers does not know; correct it"
    reason = " ".join(text.split())[:200] or type(error).__name__
    return f"cannot be loaded ({reason})"
