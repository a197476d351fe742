"""A disk that is full or cannot be written."""

import pkgutil
import shutil
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
    assert "older checkpoints are as they were: make room, then resume with --resume auto" in line
    assert [path.name for path in (run.path / "checkpoints").iterdir()] == ["checkpoint-2"]
    assert whole_steps(run) == [2]
    status = run.json("status.json")
    assert (status["state"], status["exit_code"]) == ("failed", 6)
    assert_same_end(runs.train(**SECTIONS, resume="auto"), expected)


def test_full_while_a_tokenizer_is_written(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its library raises a bare Exception."""

    def save(tokenizer: Any, directory: Path, **_: Any) -> None:
        tokenizer.backend_tokenizer.save("/dev/full")

    monkeypatch.setattr("transformers.PreTrainedTokenizerBase.save_pretrained", save)
    with pytest.raises(ResourceError, match=r"checkpoint-2: .* \(No space left on device\); older"):
        runs.train(**SECTIONS)
    assert runs.at().json("status.json")["exit_code"] == 6


def delete(path: Path) -> None:
    shutil.rmtree(path)


def rename(path: Path) -> None:
    path.rename(path.with_name("renamed"))


def replace(path: Path) -> None:
    rename(path)
    path.write_text("a file", encoding="utf-8")


@pytest.mark.parametrize("take_away", [delete, rename, replace])
@pytest.mark.parametrize("writer", ["run_dir.RunDir.append_metrics", "checkpointer.save_checkpoint",
                                    "results.writing_to"])  # fmt: skip
def test_an_output_directory_that_is_taken_away_is_said_and_not_made_anew(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, take_away: Callable[[Path], None], writer: str
) -> None:
    path = runs.at().path
    write = pkgutil.resolve_name(f"mlmtune.training.{writer}")

    def write_after_that(*arguments: Any, **options: Any) -> Any:
        take_away(path)
        return write(*arguments, **options)

    monkeypatch.setattr(f"mlmtune.training.{writer}", write_after_that)
    with pytest.raises(ResourceError, match="the output directory was deleted, moved or replaced"):
        runs.train(**{**SECTIONS, "training": {"max_steps": 2, "log_every": 1}})
    assert not path.is_dir()


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
