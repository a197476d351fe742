"""A disk that is full or cannot be written."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from child import full_disk_in_saving
from runs import Run, Runs, assert_same_end
from scenario import SECTIONS, whole_steps

from mlmtune.errors import ResourceError


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "tokenizer.json"])
def test_full_while_a_checkpoint_is_written(
    start: Callable[..., Any], runs: Runs, expected: Run, name: str
) -> None:
    """The file that is too large is cut; those that are smaller are written."""
    run = runs.at()
    size = (expected.checkpoint(4 + 2) / name).stat().st_size
    child = start(fault=partial(full_disk_in_saving, 4, size - 1))
    assert child.exit_code() == 6
    [line] = child.err.splitlines()
    assert f"{run.checkpoint(4)}: cannot be written" in line
    assert "older checkpoints are as they were: make room, then --resume auto" in line
    assert [path.name for path in (run.path / "checkpoints").iterdir()] == ["checkpoint-2"]
    assert whole_steps(run) == [2]
    status = run.json("status.json")
    assert (status["state"], status["exit_code"]) == ("failed", 6)
    assert_same_end(runs.train(**SECTIONS, resume="auto"), expected)


@pytest.mark.parametrize("below", [False, True])
def test_an_output_that_cannot_be_written_is_found_before_the_model_loads(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, below: bool
) -> None:
    monkeypatch.setattr("runs.build_masked_lm", lambda *_: pytest.fail("loaded first"))
    (tmp_path / "file").write_text("", encoding="utf-8")
    output = tmp_path / "file" / "run" if below else tmp_path / "file"
    with pytest.raises(ResourceError, match=r"cannot be written .*run\.output_dir") as caught:
        runs.train(run={"output_dir": str(output)})
    assert caught.value.exit_code == 6
