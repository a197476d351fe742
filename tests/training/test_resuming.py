"""A run that is stopped and resumed ends with the bits of one that was not."""

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from runs import assert_same_end

from mlmtune.errors import CheckpointError, Interrupted
from mlmtune.evaluation.scoring import FixedMasks
from mlmtune.modeling import attention
from mlmtune.training import checkpoint, loop
from mlmtune.training.checkpoint import TrainState

# Epochs end in steps 4 and 7; evaluations take four batches; metrics span two steps.
SECTIONS: dict[str, dict[str, Any]] = {
    "model": {"dropout": 0.1},
    "training": {"max_steps": 7, "global_batch_size": 32, "micro_batch_size": 12, "log_every": 2},
    "evaluation": {"every": 3, "batch_size": 8},
    "checkpoint": {"every": 2, "keep": 2},
}


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kept")


@pytest.fixture
def expected(runs: Any, kept: Path) -> Any:
    """The run that was not stopped; trained once."""
    name = str(kept / "expected")
    return runs.at(name) if (kept / "expected").exists() else runs.train(name, **SECTIONS)


def stop_in_evaluation(patch: pytest.MonkeyPatch, at: int) -> None:
    """Get a signal in the second batch of the evaluation after step `at`."""
    evaluate, score = loop.evaluate, FixedMasks.score
    batches: list[int] = []
    step = [0]

    def note_step(task: Any, learner: Any, state: TrainState, stop: Any) -> Any:
        step[0] = state.step
        return evaluate(task, learner, state, stop)

    def count(masks: FixedMasks, *arguments: Any) -> Any:
        batches.append(step[0])
        if batches.count(at) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return score(masks, *arguments)

    patch.setattr(loop, "evaluate", note_step)
    patch.setattr(FixedMasks, "score", count)


def stop_after_evaluation(patch: pytest.MonkeyPatch, at: int) -> None:
    evaluate = loop.evaluate

    def evaluate_and_stop(task: Any, learner: Any, state: TrainState, stop: Any) -> Any:
        evaluation = evaluate(task, learner, state, stop)
        if state.step == at:
            os.kill(os.getpid(), signal.SIGTERM)
        return evaluation

    patch.setattr(loop, "evaluate", evaluate_and_stop)


@pytest.mark.parametrize("step", [1, 2, 3, 4, 5])
def test_stopped_after_a_step(
    runs: Any, expected: Any, stopping_after: Callable[..., Any], step: int
) -> None:
    with stopping_after(step), pytest.raises(Interrupted) as caught:
        runs.train(**SECTIONS)
    assert caught.value.exit_code == 143
    assert str(runs.at().checkpoint(step)) in str(caught.value)
    assert "--resume auto" in str(caught.value)
    status = runs.at().json("status.json")
    assert (status["state"], status["exit_code"]) == ("interrupted", 143)
    assert_same_end(runs.train(**SECTIONS, resume="auto"), expected)


@pytest.mark.parametrize("stop", [stop_in_evaluation, stop_after_evaluation])
@pytest.mark.parametrize("step", [3, 6])
def test_stopped_around_an_evaluation(
    runs: Any, expected: Any, stop: Callable[..., None], step: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        stop(patch, step)
        with pytest.raises(Interrupted):
            runs.train(**SECTIONS)
    assert runs.at().checkpoint(step).is_dir()
    assert (step in runs.at().evaluations) == (stop is stop_after_evaluation)
    assert_same_end(runs.train(**SECTIONS, resume="auto"), expected)


def test_stopped_again_after_an_evaluation_that_was_pending(runs: Any, expected: Any) -> None:
    for stop in (stop_in_evaluation, stop_after_evaluation):
        with pytest.MonkeyPatch.context() as patch:
            stop(patch, 3)
            with pytest.raises(Interrupted):
                runs.train(**SECTIONS, resume="auto")
    assert_same_end(runs.train(**SECTIONS, resume="auto"), expected)


def test_stopped_in_the_last_evaluation(runs: Any, expected: Any) -> None:
    with pytest.MonkeyPatch.context() as patch:
        stop_in_evaluation(patch, 7)
        with pytest.raises(Interrupted):
            runs.train(**SECTIONS)
    assert_same_end(runs.train(**SECTIONS, resume="auto"), expected)


def test_stopped_at_every_step(
    runs: Any, expected: Any, stopping_after: Callable[..., Any]
) -> None:
    for step in range(1, 7):
        with stopping_after(step, signal.SIGINT), pytest.raises(Interrupted) as caught:
            runs.train(**SECTIONS, resume="auto")
        assert caught.value.exit_code == 130
    assert_same_end(runs.train(**SECTIONS, resume="auto"), expected)


def test_stopped_in_the_evaluation_before_the_first_step(
    runs: Any, expected: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        score = FixedMasks.score

        def stop(masks: FixedMasks, *arguments: Any) -> Any:
            os.kill(os.getpid(), signal.SIGINT)
            return score(masks, *arguments)

        patch.setattr(FixedMasks, "score", stop)
        with pytest.raises(Interrupted, match="before the first step") as caught:
            runs.train(**SECTIONS)
    assert caught.value.exit_code == 130
    assert runs.at().checkpoint_steps == []
    assert_same_end(runs.train(**SECTIONS, resume="auto"), expected)


def test_resume_auto_starts_where_there_is_nothing(
    runs: Any, expected: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    run = runs.train(**SECTIONS, resume="auto")
    assert "no checkpoint yet" in capsys.readouterr().out
    assert_same_end(run, expected)


def test_resume_from_a_path(runs: Any, expected: Any, stopped: Any) -> None:
    assert stopped.checkpoint_steps == [3, 4, 5]
    run = runs.train(**SECTIONS, resume=str(stopped.checkpoint(3)))
    assert_same_end(run, expected)


def test_a_renamed_checkpoint_is_saved_under_its_own_name(
    runs: Any, expected: Any, stopped: Any
) -> None:
    renamed = stopped.checkpoint(5).rename(stopped.checkpoint(5).with_name("renamed"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "announce", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(Interrupted, match="checkpoint-5"):
            runs.train(**SECTIONS, resume=str(renamed))
    assert stopped.checkpoint_steps == [3, 4, 5]
    assert_same_end(runs.train(**SECTIONS, resume="auto"), expected)


def test_resume_from_another_directory(runs: Any, expected: Any, stopped: Any) -> None:
    run = runs.train("second", **SECTIONS, resume=str(stopped.checkpoint(5)))
    assert run.model_bytes == expected.model_bytes
    assert run.json("eval_results.json") == expected.json("eval_results.json")


def test_resume_in_another_directory_exports_the_best(
    runs: Any, stopping_after: Callable[..., Any], worse_after: Callable[[int], None]
) -> None:
    worse_after(3)  # the best lies in the directory that is left
    with stopping_after(5), pytest.raises(Interrupted):
        runs.train("first", **SECTIONS)
    first = runs.at("first")
    second = runs.train("second", **SECTIONS, resume=str(first.checkpoint(5)))
    assert second.json("eval_results.json")["step"] == 3
    assert second.model_bytes == (first.checkpoint(3) / "model.safetensors").read_bytes()


def test_a_best_checkpoint_that_is_lost_is_said(
    runs: Any,
    stopping_after: Callable[..., Any],
    worse_after: Callable[[int], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    worse_after(3)
    with stopping_after(5), pytest.raises(Interrupted):
        runs.train(**SECTIONS)
    (runs.at().checkpoint(3) / "model.safetensors").unlink()
    capsys.readouterr()
    run = runs.train(**SECTIONS, resume="auto")
    assert "checkpoint-3 was the best, but model.safetensors is missing" in capsys.readouterr().out
    step = run.json("eval_results.json")["step"]
    assert step > 5
    assert run.json("eval_results.json")["loss"] == run.evaluations[step]


def test_a_path_that_is_no_checkpoint(runs: Any, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"--resume .*nowhere") as caught:
        runs.train(**SECTIONS, resume=str(tmp_path / "nowhere"))
    assert caught.value.exit_code == 4


# ------------------------------------------------------------------------- what has changed


@pytest.fixture
def stopped(runs: Any, stopping_after: Callable[..., Any], kept: Path) -> Any:
    """A run that was stopped after step 5; trained once."""
    if not (kept / "stopped").exists():
        with stopping_after(5), pytest.raises(Interrupted):
            runs.train(str(kept / "stopped"), **SECTIONS)
    shutil.copytree(kept / "stopped", runs.at().path)
    return runs.at()


def changed(section: str, **values: Any) -> dict[str, dict[str, Any]]:
    return {**SECTIONS, section: {**SECTIONS.get(section, {}), **values}}


@pytest.mark.parametrize(
    ("section", "key", "old", "new"),
    [
        ("run", "seed", 42, 7),
        ("training", "global_batch_size", 32, 16),
        ("optimizer", "learning_rate", 0.001, 0.002),
        ("masking", "mlm_probability", 0.15, 0.3),
        ("chunking", "chunk_length", 16, 32),
        ("model", "dropout", 0.1, 0.2),
        ("corpus", "validation_fraction", 0.2, 0.3),
    ],
)
def test_a_changed_setting_is_refused_and_named(
    runs: Any, stopped: Any, section: str, key: str, old: Any, new: Any
) -> None:
    before = sorted(stopped.path.rglob("*"))
    with pytest.raises(CheckpointError) as caught:
        runs.train(**changed(section, **{key: new}), resume="auto")
    assert caught.value.exit_code == 4
    assert f"  {section}.{key}: {old} in the checkpoint, {new} now" in str(caught.value)
    assert "--allow-changes" in str(caught.value)
    assert stopped.json("attempt.json")["exit_code"] == 4
    (stopped.path / "attempt.json").unlink()
    assert sorted(stopped.path.rglob("*")) == before


def test_a_changed_corpus_is_refused(
    runs: Any, stopping_after: Callable[..., Any], corpus_dir: Path, tmp_path: Path
) -> None:
    corpus = tmp_path / "corpus"
    shutil.copytree(corpus_dir, corpus)
    sections = changed("corpus", sources=[{"format": "text", "path": str(corpus)}])
    with stopping_after(5), pytest.raises(Interrupted):
        runs.train(**sections)
    (corpus / "new.txt").write_text("a new document about storage", encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"\n  corpus\.fingerprint: "):
        runs.train(**sections, resume="auto")


def test_another_model_is_refused(runs: Any, stopped: Any, model_dir: Path, tmp_path: Path) -> None:
    other = tmp_path / "other-model"
    shutil.copytree(model_dir, other)
    with pytest.raises(CheckpointError) as caught:
        runs.train(**changed("model", name_or_path=str(other)), resume="auto")
    assert f"model.name_or_path: {model_dir} in the checkpoint, {other} now" in str(caught.value)


def test_allow_changes_insists(runs: Any, stopped: Any, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    run = runs.train(**changed("run", seed=7), resume="auto", allow_changes=True)
    assert "run.seed: 42 in the checkpoint, 7 now" in capsys.readouterr().out
    assert run.json("train_results.json")["global_step"] == 7
    assert run.json("status.json")["state"] == "finished"
    assert checkpoint.load_state(run.checkpoint(7)).identity["run.seed"] == 7


@pytest.mark.parametrize(("key", "new"), [("seed", 7), ("mask_draws", 3), ("max_chunks", 2)])
def test_no_option_makes_measurements_compare_that_do_not(
    runs: Any, stopped: Any, key: str, new: int
) -> None:
    named = f"(?s)would not compare.*  evaluation.{key}: "
    with pytest.raises(CheckpointError, match=named) as caught:
        runs.train(**changed("evaluation", **{key: new}), resume="auto", allow_changes=True)
    assert "--allow-changes" not in str(caught.value)


def test_changed_text_is_said_not_to_compare(
    runs: Any, stopped: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    sections = changed("corpus", validation_fraction=0.3)
    runs.train(**sections, resume="auto", allow_changes=True)
    assert "of the earlier text, and does not compare" in capsys.readouterr().out


def test_what_only_shows_may_change(runs: Any, stopped: Any, expected: Any) -> None:
    sections = changed("training", log_every=1)
    run = runs.train(**{**sections, "checkpoint": {"every": 1, "keep": 5}}, resume="auto")
    assert run.model_bytes == expected.model_bytes


def test_an_example_that_the_base_was_not_asked_for_shows_its_words_after_training_alone(
    runs: Any, stopped: Any, expected: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    example = "create a storage [MASK] ."
    run = runs.train(**changed("evaluation", examples=[example]), resume="auto")
    shown = capsys.readouterr().out
    assert f"{example}\n  after:  " in shown
    assert run.model_bytes == expected.model_bytes


def test_a_resumed_run_keeps_what_was_decided_for_it(
    runs: Any, stopped: Any, expected: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = [(None, None, None, None, "sdpa")]  # another version's table, or another machine's
    monkeypatch.setattr(attention, "ATTENTION_TABLE", chosen)
    run = runs.train(**SECTIONS, resume="auto")
    assert "attn_implementation: eager" in (run.path / "config.resolved.yaml").read_text()
    assert run.model_bytes == expected.model_bytes


def test_a_choice_of_the_user_s_own_that_changed_is_refused(runs: Any, stopped: Any) -> None:
    with pytest.raises(CheckpointError, match=r"model\.attn_implementation: eager in the "):
        runs.train(**changed("model", attn_implementation="sdpa"), resume="auto")
