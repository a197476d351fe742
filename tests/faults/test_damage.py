"""Checkpoints that are damaged, or not what they seem."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import xxhash
from damages import flip_a_bit, truncate
from runs import Run, Runs, assert_same_end
from scenario import FILES, SECTIONS

from mlmtune.errors import CheckpointError
from mlmtune.training.checkpoint import find_fault

DAMAGES: list[Callable[[Path], None]] = [truncate, flip_a_bit, Path.unlink]


@pytest.fixture
def stopped(runs: Runs, expected: Run, kept: Path) -> Run:
    """A run with checkpoints 6 and 7 that was killed before its end was written."""
    shutil.copytree(expected.path, runs.at().path)
    run = runs.at()
    shutil.rmtree(run.path / "model")
    for name in ("train_results.json", "eval_results.json", "all_results.json", "status.json"):
        (run.path / name).unlink()
    return run


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_named_and_the_checkpoint_before_is_used(
    runs: Runs,
    expected: Run,
    stopped: Run,
    capsys: pytest.CaptureFixture[str],
    damage: Callable[[Path], None],
    name: str,
) -> None:
    damage(stopped.checkpoint(7) / name)
    capsys.readouterr()
    run = runs.train(**SECTIONS, resume="auto")
    said = capsys.readouterr().out
    [line] = [line for line in said.splitlines() if "is passed over" in line]
    assert f"{stopped.checkpoint(7)} is passed over: " in line
    assert name in line or "MANIFEST.json is missing or broken" in line
    assert f"resumed from {stopped.checkpoint(6)}, after step 6" in said
    assert_same_end(run, expected)


@pytest.mark.parametrize("damage", DAMAGES)
def test_all_damaged_ends_the_run_and_deletes_nothing(
    runs: Runs, stopped: Run, damage: Callable[[Path], None]
) -> None:
    for step, name in zip(stopped.checkpoint_steps, ("state.json", "model.safetensors"),
                          strict=True):  # fmt: skip
        damage(stopped.checkpoint(step) / name)
    metrics = (stopped.path / "metrics.jsonl").read_bytes()
    before = contents(stopped.path / "checkpoints")
    with pytest.raises(CheckpointError, match="none of the 2 checkpoints is whole") as caught:
        runs.train(**SECTIONS, resume="auto")
    assert caught.value.exit_code == 4
    assert str(stopped.path / "checkpoints") in str(caught.value)
    assert contents(stopped.path / "checkpoints") == before
    assert (stopped.path / "metrics.jsonl").read_bytes() == metrics
    assert not (stopped.path / "model").exists()


class Bomb:
    """Leaves a file where a pickle of it is opened."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return (Path.touch, (self.marker,))


def test_a_pickle_beside_a_checkpoint_is_never_opened(
    runs: Runs, expected: Run, stopped: Run, tmp_path: Path
) -> None:
    folder = stopped.checkpoint(6)
    marker = tmp_path / "opened"
    names = ["pytorch_model.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth",
             "training_args.bin", "random_states_0.pkl", "custom_checkpoint_0.pkl"]  # fmt: skip
    for name in names:
        (folder / name).write_bytes(pickle.dumps(Bomb(marker)))
    pickle.loads((folder / names[0]).read_bytes())
    assert marker.exists()  # the bomb works
    marker.unlink()

    runs.train("other", **SECTIONS, resume=str(folder))
    shutil.rmtree(stopped.checkpoint(7))
    run = runs.train(**SECTIONS, resume="auto")
    assert_same_end(run, expected)
    assert not marker.exists()


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors"])
def test_a_pickle_in_the_place_of_tensors_is_never_opened(
    runs: Runs, stopped: Run, tmp_path: Path, name: str
) -> None:
    """Even where the manifest was made to match it."""
    marker, folder = tmp_path / "opened", stopped.checkpoint(7)
    (folder / name).write_bytes(pickle.dumps(Bomb(marker)))
    manifest = json.loads((folder / "MANIFEST.json").read_text(encoding="utf-8"))
    manifest["files"][name] = {
        "size": (folder / name).stat().st_size,
        "xxh3_128": xxhash.xxh3_128_hexdigest((folder / name).read_bytes()),
    }
    (folder / "MANIFEST.json").write_text(json.dumps(manifest), encoding="utf-8")
    assert find_fault(folder) is None
    with pytest.raises(CheckpointError, match=r"checkpoint-7") as caught:
        runs.train(**SECTIONS, resume="auto")
    assert caught.value.exit_code == 4
    assert not marker.exists()
