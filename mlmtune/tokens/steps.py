"""The steps of a tokenizer.json that come before its model."""

from collections.abc import Mapping
from typing import Any


def normalizers(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the steps of the normalizer of a tokenizer.json."""
    return _steps(content["normalizer"], "normalizers")


def pre_tokenizers(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the steps of the pre-tokenizer of a tokenizer.json."""
    return _steps(content["pre_tokenizer"], "pretokenizers")


def _steps(part: dict[str, Any] | None, key: str) -> list[dict[str, Any]]:
    if part is None:
        return []
    steps: list[dict[str, Any]] = part.get(key, [part])
    return steps
