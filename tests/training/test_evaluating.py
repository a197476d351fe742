"""What decides which weights are the best: perplexity, or retrieval."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from runs import Run, Runs, assert_same_end

from mlmtune.errors import DataError
from mlmtune.modeling.sentence_encoder import SentenceEncoder
from mlmtune.training import loop
from mlmtune.training.step import take_step

NDCG = "eval_retrieval_ndcg_at_10"


@pytest.fixture
def sections(pages: dict[str, Any]) -> dict[str, Any]:
    """What makes a config one whose weights are chosen by retrieval."""
    return {
        "corpus": pages,
        "evaluation": {"every": 1, "retrieval": True, "mask_draws": 1},
        "checkpoint": {"best_by": "retrieval", "keep": 1},
        "optimizer": {"learning_rate": 0.01},
    }


def by_step(run: Run) -> dict[int, float]:
    return {r["step"]: r[NDCG] for r in run.metrics if NDCG in r}


def test_the_best_weights_are_those_that_find_most(runs: Runs, sections: dict[str, Any]) -> None:
    run = runs.train(**sections)
    measured, results = by_step(run), run.json("eval_results.json")
    trained = {step: value for step, value in measured.items() if step > 0}
    assert len(set(trained.values())) > 1, "the test needs steps that differ"
    best = max(trained, key=lambda step: trained[step])  # of equal ones, the first
    assert results["step"] == best
    assert results["retrieval_ndcg_at_10"] == trained[best]
    assert results["retrieval_ndcg_at_10_before"] == measured[0]
    assert best != min(
        (step for step in run.evaluations if step > 0), key=lambda step: run.evaluations[step]
    ), "the test needs a best step that is not that of perplexity"


def test_what_got_worse_is_named_where_results_are_said(
    runs: Runs, sections: dict[str, Any], capsys: Any
) -> None:
    run = runs.train(**sections)
    lines, results = capsys.readouterr().out.splitlines(), run.json("eval_results.json")
    measured = by_step(run)
    fell = [step for step, value in measured.items() if value < measured[0]]
    assert fell, "the test needs a step that finds less than the base"
    for step in range(1, 7):
        [line] = [line for line in lines if line.startswith(f"after step {step}: ")]
        assert ("worse than before training: retrieval" in line) == (step in fell)
    change = results["retrieval_ndcg_at_10"] - results["retrieval_ndcg_at_10_before"]
    assert results["retrieval_worse_than_base"] == (change < 0)
    low, high = results["retrieval_ndcg_at_10_change_interval"]
    assert low < change < high
    low, high = results["retrieval_ndcg_at_10_interval"]
    assert low < results["retrieval_ndcg_at_10"] < high


def test_early_stopping_follows_retrieval(runs: Runs, sections: dict[str, Any]) -> None:
    full = by_step(runs.train("full", **sections))
    sections["training"] = {"early_stopping_patience": 1}
    stopped = by_step(runs.train("stopped", **sections))
    trained = [full[step] for step in range(1, 7)]
    first = next(n for n in range(1, 6) if trained[n] <= max(trained[:n]))
    assert max(stopped) == first + 1


class Killed(BaseException):
    """Nothing in the package catches it, so that nothing is saved."""


def test_a_killed_run_ends_with_the_same_choice(
    runs: Runs, sections: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = runs.train("expected", **sections)
    numbers = iter(range(6))

    def step_until_killed(*arguments: Any) -> Any:
        if next(numbers) == 3:
            raise Killed
        return take_step(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "take_step", step_until_killed)
        with pytest.raises(Killed):
            runs.train("stopped", **sections)
    assert_same_end(runs.train("stopped", resume="auto", **sections), expected)


def test_the_batch_size_of_an_evaluation_changes_no_rank(
    runs: Runs, sections: dict[str, Any]
) -> None:
    expected = runs.train("expected", **sections)
    sections["evaluation"]["batch_size"] = 3
    other = runs.train("other", **sections)
    assert by_step(other) == by_step(expected)
    assert other.model_bytes == expected.model_bytes


@pytest.mark.parametrize(
    ("pooling", "kind"), [("mean_tokens", "mean"), ("cls_token", "cls"), ("max_tokens", "mean")]
)
def test_a_sentence_encoder_stays_one_and_its_user_is_warned(
    runs: Runs, model_dir: Path, tmp_path: Path, capsys: Any, pooling: str, kind: str
) -> None:
    base = shutil.copytree(model_dir, tmp_path / "base")
    SentenceEncoder({f"pooling_mode_{pooling}": True}, normalizes=True).save(base)
    run = runs.train(model={"name_or_path": str(base)}, training={"max_steps": 1})
    lines = capsys.readouterr().out.splitlines()
    [warning] = [line for line in lines if "mlmtune merge" in line]
    assert "replay does not help" in warning
    unusual = [line for line in lines if "retrieval takes the mean" in line]
    assert len(unusual) == (pooling == "max_tokens")
    kept = SentenceEncoder.of(run.path / "model")
    assert kept is not None
    assert kept == SentenceEncoder.of(base)
    assert kept.kind == kind


def test_too_few_pages_are_refused_before_training(runs: Runs) -> None:
    with pytest.raises(DataError, match="retrieval cannot be measured"):
        runs.train(evaluation={"retrieval": True})
