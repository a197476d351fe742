"""Manifests: lists of a folder's files with size and hash, by which damage is found."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mlmtune.integrity import file_digest

MANIFEST = "MANIFEST.json"
"""The manifest of a checkpoint or a finished run; written last."""


def manifest_of(folder: Path, files: Iterable[Path]) -> dict[str, Any]:
    """Return the manifest of some files below a folder; their names are relative to it."""
    entries = {
        str(file.relative_to(folder)): {"size": file.stat().st_size, "xxh3_128": file_digest(file)}
        for file in files
    }
    return {"files": entries}


def find_damage(folder: Path, manifest: Any, needed: Iterable[str] = ()) -> str | None:
    """Return what is wrong with the files of a folder; None if nothing is.

    Args:
        folder: The folder that names in the manifest are relative to.
        manifest: The content of the manifest; None if it could not be read.
        needed: Files that the manifest must list.
    """
    try:
        files = {name: (e["size"], e["xxh3_128"]) for name, e in manifest["files"].items()}
    except (KeyError, TypeError, AttributeError):
        return f"{MANIFEST} is missing or broken"
    unlisted = [name for name in needed if name not in files]
    if unlisted:
        return f"{MANIFEST} does not list {unlisted[0]}"
    for name, (size, digest) in files.items():
        file = folder / name
        if not file.is_file():
            return f"{name} is {'a folder' if file.is_dir() else 'missing'}"
        if file.stat().st_size != size:
            return f"{name} has {file.stat().st_size} bytes instead of {size}"
        if file_digest(file) != digest:
            return f"{name} does not match its checksum"
    return None
