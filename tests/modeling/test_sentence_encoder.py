import json
from pathlib import Path
from typing import Any

import pytest

from mlmtune.modeling.sentence_encoder import SentenceEncoder


def write(folder: Path, module: str, pooling: dict[str, Any] | None) -> None:
    modules = [
        {"path": module, "type": "sentence_transformers.models.Transformer"},
        {"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    ]
    (folder / module).mkdir(parents=True, exist_ok=True)
    (folder / "1_Pooling").mkdir()
    (folder / "modules.json").write_text(json.dumps(modules), encoding="utf-8")
    if pooling is not None:
        (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling), encoding="utf-8")


@pytest.mark.parametrize("module", ["", "0_Transformer"])
@pytest.mark.parametrize(
    ("pooling", "kind", "is_usual"),
    [
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, "mean", True),
        ({"pooling_mode_cls_token": True}, "cls", True),
        ({"pooling_mode": "cls"}, "cls", True),
        ({"pooling_mode": "mean"}, "mean", True),
        ({"pooling_mode_max_tokens": True}, "mean", False),
        (None, "mean", False),
    ],
)
def test_how_it_pools(
    tmp_path: Path, module: str, pooling: dict[str, Any] | None, kind: str, is_usual: bool
) -> None:
    write(tmp_path, module, pooling)
    encoder = SentenceEncoder.of(tmp_path / module)
    assert encoder is not None
    assert encoder.kind == kind
    assert (encoder.note is None) == is_usual


def test_another_model_is_none(tmp_path: Path) -> None:
    write(tmp_path, "0_Transformer", {})
    (tmp_path / "another").mkdir()
    assert SentenceEncoder.of(tmp_path / "another") is None
    (tmp_path / "modules.json").write_text("{", encoding="utf-8")
    assert SentenceEncoder.of(tmp_path) is None
