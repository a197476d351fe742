"""The schema of the config: whether a key is a section, a list, or one of several kinds."""

import types
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel

from mlmtune.config import keys_of
from mlmtune.yaml_document import KeyPath, YamlDocument


def alternatives(annotation: Any) -> list[Any]:
    """Return the members of a union; any other type is its own only member."""
    is_union = get_origin(annotation) in (Union, types.UnionType)
    return list(get_args(annotation)) if is_union else [annotation]


def optional_of(annotation: Any) -> Any:
    """Return `X` for `X | None`, and any other annotation as it is."""
    others = [kind for kind in alternatives(annotation) if kind is not type(None)]
    return others[0] if len(others) == 1 else annotation


def section_in(annotation: Any) -> type[BaseModel] | None:
    """Return the section that a field is or may be; None if it cannot be one."""
    kinds = [kind for kind in alternatives(annotation) if isinstance(kind, type)]
    return next((kind for kind in kinds if issubclass(kind, BaseModel)), None)


def list_item(annotation: Any) -> Any:
    """Return the type of the entries of a field that is or may be a list; None for others."""
    kind = optional_of(annotation)
    return get_args(kind)[0] if get_origin(kind) is list else None


def section_of(annotation: Any) -> type[BaseModel] | None:
    """Return the section that a field, or an entry of its list, is or may be."""
    return section_in(annotation) or section_in(list_item(annotation))


def take_one_for_a_list(document: YamlDocument, kind: type[BaseModel], path: KeyPath = ()) -> None:
    """Put a single value into a list if the schema expects a list of such values.

    Args:
        document: Changed in place; the new entry keeps the origin of the value.
        kind: The section at `path`.
        path: The section to begin with.
    """
    section = document.value_at(path)
    if not isinstance(section, dict):
        return
    for key, field in keys_of(kind).items():
        if section.get(key) is None:
            continue
        below, item = (*path, key), list_item(field.annotation)
        section_of_item = section_in(item)
        kind_of_item = str | int | float if section_of_item is None else dict
        if item is not None and isinstance(section[key], kind_of_item):
            document.move_below(below, 0)
            section[key] = [section[key]]
        if (inner := section_in(field.annotation)) is not None:
            take_one_for_a_list(document, inner, below)
        elif section_of_item is not None and isinstance(section[key], list):
            for number in range(len(section[key])):
                take_one_for_a_list(document, section_of_item, (*below, number))
