"""The Python of docs/using-the-model.md, run from top to bottom with a tiny model."""

import re
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForSequenceClassification

PAGE = Path(__file__).parents[1] / "docs" / "using-the-model.md"


# On a machine without a GPU, of the Trainer's default.
@pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true:UserWarning")
def test_the_examples_run(runs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runs").mkdir()
    run = runs.train("runs/azure", training={"max_steps": 2})
    monkeypatch.chdir(tmp_path)
    printed: list[Any] = []
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    for block in blocks:
        scope = {"print": lambda *values: printed.append(values)}
        exec(compile(block, str(PAGE), "exec"), scope)
    *filled, [classes], [tags], [similarity] = printed
    assert len(filled) == 3
    assert all(0 < score < 1 for _, score in filled)
    assert classes[0]["label"] in ("question", "answer")
    assert {tag["entity_group"] for tag in tags} <= {"service"}
    assert similarity.shape == (2, 2)

    # What the page says of the LOAD REPORT.
    _, report = AutoModelForSequenceClassification.from_pretrained(
        run.path / "model", output_loading_info=True
    )
    assert {name for name in report["missing_keys"] if "pooler" not in name} == {
        "classifier.weight", "classifier.bias",
    }  # fmt: skip
    assert all(name.startswith("cls.predictions.") for name in report["unexpected_keys"])
