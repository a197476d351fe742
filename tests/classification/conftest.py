"""Configs of examples."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def data_config(tmp_path: Path) -> Callable[..., Any]:
    """The section `data` of a config; relative names are in the test's folder."""
    from mlmtune.config import DataConfig

    def make(**keys: Any) -> DataConfig:
        for side in ("train", "validation", "test"):
            if side in keys and keys.get("format") != "dataset":
                keys[side] = str(tmp_path / keys[side])
        return DataConfig(**{"format": "json", **keys})

    return make
