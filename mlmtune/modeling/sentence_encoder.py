"""Sentence encoders: how sentence-transformers makes the embedding of a text from its tokens."""

import json
from pathlib import Path
from typing import Any, Literal

MODULES = "modules.json"

Pooling = Literal["mean", "cls"]


def pooling_of(folder: Path) -> Pooling | None:
    """Return the pooling of a sentence encoder; None if a folder holds another kind of model.

    Args:
        folder: The folder with config.json; modules.json is in it or, where the encoder is a module
            of its own, in the folder above.
    """
    for root in (folder, folder.parent):
        modules = _read(root / MODULES)
        if not isinstance(modules, list):
            continue
        paths = {str(m.get("type")): str(m.get("path")) for m in modules if isinstance(m, dict)}
        if root != folder and folder.name not in paths.values():
            continue
        for kind, path in paths.items():
            if kind.endswith(".Pooling"):
                settings = _read(root / path / "config.json")
                return "cls" if _takes_cls(settings) else "mean"
    return None


def _takes_cls(settings: Any) -> bool:
    if not isinstance(settings, dict):
        return False
    return bool(settings.get("pooling_mode_cls_token")) or settings.get("pooling_mode") == "cls"


def _read(path: Path) -> Any:
    """Read a JSON file; None if it is missing or broken."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
