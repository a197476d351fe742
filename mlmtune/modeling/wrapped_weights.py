"""Weights that were saved from inside a wrapper, whose names have parts of its name."""

from collections.abc import Collection
from typing import Any

WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""Parts of names: of DistributedDataParallel, torch.compile, FSDP, activation checkpointing."""


def names_without_wrapper(
    names: Collection[str], model: Any, lost: Collection[str]
) -> tuple[dict[str, str], str] | None:
    """Names under which the model would find its weights.

    Whatever is named in `WRAPPERS` goes, and then one prefix that all of the lost weights have,
    such as the name of an attribute of the class that held the model.

    Args:
        names: of the weights in the files.
        model: has not found some of its weights.
        lost: their names in the model.

    Returns:
        The new name of each, and what has been left out; None where that does not explain it.
    """
    renamed = {name: _unwrapped(name) for name in names}
    parts = {part for name in names for part in name.split(".") if part in WRAPPERS}
    encoder = f"{model.base_model_prefix}."
    # A long name is no other's ending; norms have other names in files of old.
    wanted = max((name for name in lost if "Norm" not in name), key=len, default="")
    endings = (wanted, wanted.removeprefix(encoder))
    prefixes = {
        name.removesuffix(ending)
        for name in renamed.values()
        for ending in endings
        if name == ending or name.endswith(f".{ending}")
    }
    # `bert.` before the whole name of a bare encoder's weight is no prefix, but the model's own.
    prefixes = {
        prefix.removesuffix(encoder) if f".{prefix}".endswith(f".{encoder}") else prefix
        for prefix in prefixes
    }
    if len(prefixes) != 1:
        return None
    prefix = prefixes.pop()
    if not parts and not prefix:
        return None
    own = model.state_dict().keys()

    def in_model(name: str) -> str:
        rest = name.removeprefix(prefix)
        is_bare = encoder + rest in own or rest.startswith("pooler.")
        return encoder + rest if prefix and is_bare and rest not in own else rest

    left_out = [*sorted(parts), *([prefix.removesuffix(".")] if prefix else [])]
    return {old: in_model(new) for old, new in renamed.items()}, ", ".join(left_out)


def _unwrapped(name: str) -> str:
    parts = name.split(".")
    while len(parts) > 1 and parts[0] in WRAPPERS:
        del parts[0]
    # Inside a name, `module` may be what a model calls a part of its own.
    return ".".join(part for part in parts if part not in WRAPPERS[1:])
