"""A hub on the loopback, which this process takes for the real one."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants
from local_hub import TOKEN, LocalHub, serving

from mlmtune.sharing import hub_repository


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalHub]:
    """The hub; this process has a token for it, and does not wait between attempts."""
    with serving() as local:
        monkeypatch.setattr(constants, "ENDPOINT", local.endpoint)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setattr(hub_repository, "WAITS_SECONDS", (0.0, 0.0))
        # The client waits by itself between some of its requests.
        monkeypatch.setattr("time.sleep", lambda seconds: None)
        yield local


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What a model's folder looks like."""
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text('{"model_type": "bert"}', encoding="utf-8")
    (model / "model.safetensors").write_bytes(bytes(range(256)) * 40)
    (model / "README.md").write_text(f"{hub_repository.HERE}\n", encoding="utf-8")
    return model
