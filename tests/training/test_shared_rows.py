"""Training on texts that share rows is training on padded texts, but faster."""

from pathlib import Path
from typing import Any

import pytest

from mlmtune.modeling.packing import Packing


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    """Lines of 2 to 24 words."""
    words = ["the", "cluster", "node", "pool"] * 6
    path = tmp_path / "lines.txt"
    texts = [" ".join([*words[: 1 + 7 * number % 24], str(number)]) for number in range(60)]
    path.write_text("\n".join(texts), encoding="utf-8")
    return path


def test_a_run_is_the_same_with_shared_rows_and_without(
    runs: Any, lines: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sections = {
        "model": {"dropout": 0.2},
        "corpus": {
            "sources": [{"format": "lines", "path": str(lines)}],
            "validation_fraction": 0.2,
        },
        "chunking": {"mode": "per_document", "chunk_length": 32},
        "evaluation": {"every": 3, "mask_draws": 2},
    }
    training = {"max_steps": 3, "global_batch_size": 16, "log_every": 1}
    shared = runs.train("shared", training={**training, "micro_batch_size": 16}, **sections)
    assert "fill 9" in capsys.readouterr().out
    divided = runs.train("divided", training={**training, "micro_batch_size": 5}, **sections)
    monkeypatch.setattr(Packing, "if_possible", lambda *_: None)
    padded = runs.train("padded", training={**training, "micro_batch_size": 16}, **sections)
    assert "short ones are padded" in capsys.readouterr().out

    for other in (shared, divided):
        assert other.losses == pytest.approx(padded.losses, rel=1e-5)
        assert other.evaluations == pytest.approx(padded.evaluations, rel=1e-5)
    fill = [run.json("train_results.json")["fill"] for run in (shared, padded)]
    assert fill[0] > 0.9 > 0.7 > fill[1]
