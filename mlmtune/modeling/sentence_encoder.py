"""Sentence encoders: how sentence-transformers makes the embedding of a text from its tokens."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from mlmtune.files import write_json

MODULES = "modules.json"
POOLING_FOLDER = "1_Pooling"


@dataclass(frozen=True)
class SentenceEncoder:
    """What follows the encoder in a model of sentence-transformers.

    Attributes:
        pooling: The content of the config.json of its pooling; empty if that is not known.
        normalizes: Whether embeddings are scaled to length 1, which no cosine depends on.
    """

    pooling: dict[str, Any]
    normalizes: bool

    @classmethod
    def of(cls, folder: Path) -> Self | None:
        """Read what is said of a model; None if it is no sentence encoder.

        Args:
            folder: The folder with config.json; modules.json is in it or, where the encoder is a
                module of its own, in the folder above.
        """
        for root in (folder, folder.parent):
            modules = _read(root / MODULES)
            entries = [m for m in modules if isinstance(m, dict)] if modules is not None else []
            paths = {str(entry.get("type")): str(entry.get("path")) for entry in entries}
            if root != folder and folder.name not in paths.values():
                continue
            for kind, path in paths.items():
                if kind.endswith(".Pooling"):
                    pooling = _read(root / path / "config.json")
                    normalizes = any(kind.endswith(".Normalize") for kind in paths)
                    return cls(pooling if isinstance(pooling, dict) else {}, normalizes)
        return None

    @property
    def kind(self) -> Literal["mean", "cls"]:
        """What an embedding is: the state of the first token, or the mean, as any other kind is."""
        return "cls" if self._pools_by("cls", "cls_token") else "mean"

    @property
    def note(self) -> str | None:
        """A sentence about a kind that is measured as if it was the mean; None for the usual."""
        if self._pools_by("cls", "cls_token") or self._pools_by("mean", "mean_tokens"):
            return None
        return (
            "is a sentence encoder that pools neither by the mean nor by the first token, or does "
            "not say how; retrieval takes the mean"
        )

    def _pools_by(self, name: str, key: str) -> bool:
        """Whether it pools in a way, which versions of sentence-transformers write differently."""
        return bool(self.pooling.get(f"pooling_mode_{key}")) or (
            self.pooling.get("pooling_mode") == name
        )

    def save(self, directory: Path) -> None:
        """Write what sentence-transformers reads beside a model that was saved in a folder."""
        names = ["Transformer", "Pooling", *["Normalize"] * self.normalizes]
        folders = ["", POOLING_FOLDER, "2_Normalize"]
        write_json(
            directory / MODULES,
            [
                {"idx": number, "name": str(number), "path": path,
                 "type": f"sentence_transformers.models.{name}"}
                for number, (name, path) in enumerate(zip(names, folders, strict=False))
            ],
        )  # fmt: skip
        (directory / POOLING_FOLDER).mkdir()
        write_json(directory / POOLING_FOLDER / "config.json", self.pooling)


def _read(path: Path) -> Any:
    """Read a JSON file; None if it is missing or broken."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
