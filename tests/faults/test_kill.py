"""kill -9 at any moment: a checkpoint is whole, the newest is used, the end is the same."""

import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from child import (
    has_entries,
    is_building,
    is_gone,
    is_marking,
    is_there,
    killed_in_exporting,
    killed_in_marking,
    killed_in_saving,
    killed_in_tokenizing,
)
from runs import Run, Runs, assert_same_end
from scenario import FILES, IN_PHASES, SECTIONS, whole_steps

from mlmtune.training.checkpoint import TrainState
from mlmtune.training.checkpointer import Checkpointer

KILLED = -signal.SIGKILL


@pytest.fixture
def goes_on(runs: Runs, expected: Run, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Resumes the run to its end, which must be that of the run that met no fault."""

    def resume(step: int | None) -> str:
        capsys.readouterr()
        run = runs.train(**SECTIONS, resume="auto")
        said = capsys.readouterr().out
        if step is None:
            assert "holds no checkpoint yet" in said
        else:
            assert f"resumed from {run.checkpoint(step)}, after step {step}" in said
        assert_same_end(run, expected)
        assert run.checkpoint_steps == whole_steps(run) == expected.checkpoint_steps
        assert not list(run.path.rglob(".writing-*"))
        return said

    return resume


@pytest.mark.parametrize("num_entries", range(len(FILES) + 1))
def test_while_each_file_of_a_checkpoint_is_written(
    start: Callable[..., Any], runs: Runs, goes_on: Callable[..., str], num_entries: int
) -> None:
    """The last entry has just been made, and may be empty."""
    run = runs.at()
    writing = run.path / "checkpoints" / ".writing-checkpoint-4"
    fault = partial(killed_in_saving, 4, partial(has_entries, writing, num_entries))
    assert start(fault=fault).exit_code() == KILLED
    assert len(list(writing.iterdir())) == num_entries
    assert run.checkpoint_steps == whole_steps(run) == [2]
    goes_on(2)


def test_the_files_of_a_checkpoint_are_all_of_them(expected: Run) -> None:
    assert {path.name for path in expected.checkpoint(7).iterdir()} == set(FILES)


def test_before_a_whole_checkpoint_gets_its_name(
    start: Callable[..., Any], runs: Runs, goes_on: Callable[..., str]
) -> None:
    run = runs.at()
    writing = run.path / "checkpoints" / ".writing-checkpoint-4"
    fault = partial(killed_in_saving, 4, partial(is_there, writing / "MANIFEST.json"))
    assert start(fault=fault).exit_code() == KILLED
    assert run.checkpoint_steps == [2]
    goes_on(2)


def test_while_the_first_checkpoint_is_written(
    start: Callable[..., Any], runs: Runs, goes_on: Callable[..., str]
) -> None:
    writing = runs.at().path / "checkpoints" / ".writing-checkpoint-2"
    fault = partial(killed_in_saving, 2, partial(has_entries, writing, 3))
    assert start(fault=fault).exit_code() == KILLED
    assert runs.at().checkpoint_steps == []
    goes_on(None)


@pytest.mark.parametrize(("keep", "step", "whole"), [(2, 6, [2, 4, 6]), (1, 4, [2, 4])])
def test_between_the_name_and_pruning(
    start: Callable[..., Any],
    runs: Runs,
    goes_on: Callable[..., str],
    keep: int,
    step: int,
    whole: list[int],
) -> None:
    run = runs.at()
    fault = partial(killed_in_saving, step, partial(is_there, run.checkpoint(step)))
    child = start(fault=fault, checkpoint={**SECTIONS["checkpoint"], "keep": keep})
    assert child.exit_code() == KILLED
    assert whole_steps(run) == whole
    goes_on(step)


@pytest.mark.parametrize("num_left", [len(FILES) - 1, 3, 0])
@pytest.mark.parametrize(("keep", "step", "whole"), [(2, 6, [4, 6]), (1, 4, [4])])
def test_while_pruning(
    start: Callable[..., Any],
    runs: Runs,
    goes_on: Callable[..., str],
    keep: int,
    step: int,
    whole: list[int],
    num_left: int,
) -> None:
    run = runs.at()
    fault = partial(killed_in_saving, step, partial(has_entries, run.checkpoint(2), num_left))
    child = start(fault=fault, checkpoint={**SECTIONS["checkpoint"], "keep": keep})
    assert child.exit_code() == KILLED
    assert whole_steps(run) == whole
    assert 2 in run.checkpoint_steps
    goes_on(step)


def test_around_the_border_between_two_phases(start: Callable[..., Any], runs: Runs) -> None:
    """Before the border's checkpoint has its name, after that, and in the next phase."""
    stable, decay = IN_PHASES["phases"]
    sections = {**IN_PHASES, "phases": [stable, {**decay, "reset_optimizer": True}]}
    expected = runs.train("expected", **sections)
    for step, moment, resumed in (
        (4, "checkpoints/.writing-checkpoint-4/MANIFEST.json", 2),
        (4, "checkpoints/checkpoint-4", 4),
        (6, "checkpoints/.writing-checkpoint-6/model.safetensors", 4),
    ):
        run = runs.at(f"at-{step}-{resumed}")
        fault = partial(killed_in_saving, step, partial(is_there, run.path / moment))
        assert start(fault=fault, name=run.path.name, **sections).exit_code() == KILLED
        assert whole_steps(run)[-1] == resumed
        assert_same_end(runs.train(run.path.name, **sections, resume="auto"), expected)


@pytest.mark.parametrize("keep", [1, 2])
def test_some_checkpoint_is_whole_at_every_instant(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, keep: int
) -> None:
    """Looked at after each call that makes, renames or deletes something."""
    save = Checkpointer.save
    calls = {os.mkdir, os.open, os.rename, os.replace, os.unlink, os.rmdir}
    seen: list[list[int]] = []

    def look(frame: Any, event: str, function: Any) -> None:
        if event == "c_return" and function in calls:
            seen.append(whole_steps(runs.at()))

    def save_watched(checkpointer: Checkpointer, state: TrainState) -> Path:
        if state.step == 2:
            return save(checkpointer, state)
        sys.setprofile(look)
        try:
            return save(checkpointer, state)
        finally:
            sys.setprofile(None)

    monkeypatch.setattr(Checkpointer, "save", save_watched)
    runs.train(**{**SECTIONS, "checkpoint": {**SECTIONS["checkpoint"], "keep": keep}})
    assert len(seen) > 3 * len(FILES)  # of three checkpoints each is made, named or deleted
    assert [] not in seen
    assert seen[0] == [2]
    assert seen[-1] == [6, 7][-keep:]


MOMENTS_OF_EXPORT: dict[str, Callable[[Path], Callable[[], bool]]] = {
    "before": lambda run: partial(is_gone, run / "model"),
    "within": lambda run: partial(has_entries, run / ".writing-model", 2),
    "after": lambda run: partial(is_there, run / "model"),
    "between the results": lambda run: partial(is_there, run / "eval_results.json"),
}


@pytest.mark.parametrize("moment", MOMENTS_OF_EXPORT)
def test_around_the_writing_of_the_model(
    start: Callable[..., Any], runs: Runs, goes_on: Callable[..., str], moment: str
) -> None:
    run = runs.at()
    fault = partial(killed_in_exporting, MOMENTS_OF_EXPORT[moment](run.path))
    assert start(fault=fault).exit_code() == KILLED
    assert run.json("status.json")["state"] == "running"
    assert not (run.path / "all_results.json").exists()
    assert whole_steps(run) == [6, 7]
    goes_on(7)


@pytest.mark.parametrize("num_entries", [1, 2, 3])
def test_while_the_token_store_is_written(
    start: Callable[..., Any],
    token_cache: Path,
    goes_on: Callable[..., str],
    num_entries: int,
) -> None:
    """Its mark, a shard, and the manifest, by which a store is opened."""
    fault = partial(killed_in_tokenizing, partial(is_building, token_cache, num_entries))
    assert start(fault=fault).exit_code() == KILLED
    [partial_store] = (token_cache / "tokens").glob(".writing-*")
    assert len(list(partial_store.iterdir())) == num_entries
    assert "tokenizing the corpus" in goes_on(None)
    assert not partial_store.exists()


@pytest.mark.parametrize("num_entries", [1, 2, 3, 4])
def test_while_marks_are_written(
    start: Callable[..., Any], token_cache: Path, num_entries: int
) -> None:
    """What they follow from, a shard, its entry, and the manifest, by which they are opened."""
    words = {"tokenization": {"word_segmenter": "rjieba"}}
    fault = partial(killed_in_marking, partial(is_marking, token_cache, num_entries))
    assert start(command="prepare", fault=fault, **words).exit_code() == KILLED
    [unfinished] = (token_cache / "tokens").glob("*/.writing-*")
    assert len(list(unfinished.iterdir())) == num_entries
    store = unfinished.parent
    shard = (store / "shard-00000" / "word_starts.bin").read_bytes()

    assert start(command="prepare", **words).exit_code() == 0
    assert not unfinished.exists()
    # There is no Chinese in this text, so its words are the tokenizer's.
    assert (store / "words-rjieba" / "shard-00000.bin").read_bytes() == shard
    assert {path.name for path in (store / "words-rjieba").iterdir()} == {
        "marks.json", "shard-00000.bin",
    }  # fmt: skip
