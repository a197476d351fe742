"""What a run has written about itself: damaged, or disturbed by an attempt that never began."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from runs import Run, Runs, assert_same_end
from scenario import SECTIONS

from mlmtune.commands.push import push_run
from mlmtune.errors import CheckpointError, ConfigError, DataError, ResourceError
from mlmtune.report.runs import read_finished_run
from mlmtune.training import loop

FILES = [
    "status.json", "metrics.jsonl", "config.yaml", "config.resolved.yaml", "environment.json",
    "corpus.json", "train_results.json", "eval_results.json", "all_results.json", "MANIFEST.json",
    "model/config.json", "model/model.safetensors", "model/tokenizer.json", "model/README.md",
]  # fmt: skip
NOT_NEEDED = ("metrics.jsonl", "config.yaml", "model/README.md")
"""Without these a run is reported on and pushed all the same."""


def empty(file: Path) -> None:
    file.write_bytes(b"")


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-3])


def fill_with_garbage(file: Path) -> None:
    file.write_bytes(b'{"step": \x00\xff\n[1]\n{}\n' + file.read_bytes()[:50])


def make_a_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


DAMAGES: list[Callable[[Path], None]] = [
    Path.unlink, empty, truncate, fill_with_garbage, make_a_folder,
]  # fmt: skip


class Begins(Exception):
    """The run has got as far as building its parts."""


@pytest.fixture
def finished(runs: Runs, expected: Run) -> Run:
    shutil.copytree(expected.path, runs.at().path)
    return runs.at()


def contents(folder: Path) -> dict[Path, bytes]:
    """Of an earlier run; not of an attempt that failed."""
    files = (p for p in folder.rglob("*") if p.is_file())
    return {p: p.read_bytes() for p in files if p.name not in (".lock", "attempt.json")}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_named_and_can_be_made_again(
    runs: Runs,
    finished: Run,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    damage: Callable[[Path], None],
) -> None:
    damage(finished.path / name)
    if name in NOT_NEEDED:
        read_finished_run(finished.path)
    else:
        with pytest.raises(CheckpointError, match=r"--resume auto") as caught:
            read_finished_run(finished.path)
        assert name in str(caught.value)

    def build(*_: Any) -> None:
        raise Begins

    monkeypatch.setattr("runs.build_masked_lm", build)
    capsys.readouterr()
    if damage is make_a_folder and "/" not in name:
        with pytest.raises(ResourceError, match=r"is a folder.* move it away"):
            runs.train(**SECTIONS, resume="auto")
    elif name in NOT_NEEDED:
        runs.train(**SECTIONS, resume="auto")
        assert "already complete" in capsys.readouterr().out
    else:
        with pytest.raises(Begins):
            runs.train(**SECTIONS, resume="auto")
        assert name == "status.json" or f"is finished, but {name}" in capsys.readouterr().out


@pytest.mark.parametrize("names", [["status.json"], [n for n in FILES if n != "status.json"]])
def test_all_is_made_again_from_the_last_checkpoint(
    runs: Runs, finished: Run, expected: Run, names: list[str]
) -> None:
    metrics = (finished.path / "metrics.jsonl").read_bytes()
    for name in names:
        fill_with_garbage(finished.path / name)
    (finished.path / "metrics.jsonl").write_bytes(b'{"step": \x00\xff\n[1]\n' + metrics)
    run = runs.train(**SECTIONS, resume="auto")
    assert_same_end(run, expected)
    read_finished_run(run.path)
    assert sorted(p.name for p in (run.path / "model").iterdir()) == sorted(
        p.name for p in (expected.path / "model").iterdir()
    )


def test_a_damaged_model_is_not_pushed(finished: Run, console: Any) -> None:
    weights = finished.path / "model" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model\.safetensors does not match its checksum"):
        push_run(finished.path, "name", is_private=True, console=console)


@pytest.mark.parametrize(
    ("options", "sections", "error"),
    [
        ({"overwrite": True}, {"model": {"name_or_path": "./nowhere"}}, ConfigError),
        ({"overwrite": True}, {"corpus": {"min_characters": 100_000}}, DataError),
        ({"resume": "auto"}, {"optimizer": {"learning_rate": 0.5}}, CheckpointError),
        ({"resume": "checkpoint-6"}, {"optimizer": {"learning_rate": 0.5}}, CheckpointError),
        ({}, {}, ConfigError),
    ],
)
def test_an_attempt_that_is_refused_leaves_the_record_as_it_was(
    runs: Runs, finished: Run, options: dict[str, Any], sections: dict[str, Any], error: Any
) -> None:
    if "resume" in options and options["resume"] != "auto":
        options = {"resume": str(finished.checkpoint(6))}
    before = contents(finished.path)
    with pytest.raises(error):
        runs.train(**{**SECTIONS, **sections}, **options)
    assert contents(finished.path) == before
    read_finished_run(finished.path)


@pytest.mark.parametrize("place", ["resume", "announce", "evaluate_base", "begin"])
@pytest.mark.parametrize("options", [{"overwrite": True}, {"resume": "checkpoint-6"}])
def test_an_attempt_that_is_stopped_before_its_first_step_leaves_the_record_as_it_was(
    runs: Runs,
    finished: Run,
    monkeypatch: pytest.MonkeyPatch,
    place: str,
    options: dict[str, Any],
) -> None:
    def stop(*_: Any, **__: Any) -> None:
        assert finished.json("attempt.json")["state"] == "preparing"
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, place, stop)
    if "resume" in options:
        options = {"resume": str(finished.checkpoint(6))}
    before = contents(finished.path)
    with pytest.raises(KeyboardInterrupt):
        runs.train(**SECTIONS, **options)
    assert contents(finished.path) == before
    assert finished.json("attempt.json")["state"] == "failed"
    read_finished_run(finished.path)
