"""A grid of settings: which runs it makes, what it refuses, what it says."""

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import BertModel

from mlmtune.commands import training
from mlmtune.commands.sweep import sweep
from mlmtune.commands.sweep_grid import plan_sweep
from mlmtune.config import ClassificationConfig, Config
from mlmtune.console import Console
from mlmtune.errors import ConfigError, Interrupted

RATES = "optimizer.learning_rate=[0.001, 0.01, 0.001]"


@pytest.fixture
def swept(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[dict[str, Any], str]]:
    """Runs a sweep; gives sweep.json's content and what was printed."""

    def run(path: Path, *overrides: str, kind: type = Config) -> tuple[dict[str, Any], str]:
        planned = plan_sweep(path, overrides, kind)
        capsys.readouterr()
        sweep(path, planned, Console(notes_to_stderr=True), as_json=False)
        record = json.loads((planned.folder / "sweep.json").read_text(encoding="utf-8"))
        return record, capsys.readouterr().out

    return run


def test_a_grid_ends_in_one_table_with_the_best_first(runs: Any, swept: Any) -> None:
    path = runs.config()
    record, shown = swept(
        path, RATES, "masking.mlm_probability=[0.15, 0.3]", "training.max_steps=4"
    )
    assert record["axes"] == ["optimizer.learning_rate", "masking.mlm_probability"]
    assert len(record["runs"]) == 4
    perplexities = [run["results"]["perplexity"] for run in record["runs"]]
    assert perplexities == sorted(perplexities)
    # The same masks of the same text, whatever was trained with.
    assert len({run["results"]["num_masked_tokens"] for run in record["runs"]}) == 1
    assert len({run["results"]["perplexity_before"] for run in record["runs"]}) == 1

    best = record["runs"][0]["settings"]
    settings = " ".join(f"{key}={value}" for key, value in best.items())
    assert f"best: {settings}" in shown
    command = shown.splitlines()[-1]
    assert command.startswith("train with it: ")
    assert shlex.split(command)[-3 - len(best) :] == [
        "--config", str(path), "training.max_steps=4", *(f"{k}={v}" for k, v in best.items()),
    ]  # fmt: skip
    assert shown.splitlines()[1].split()[:3] == [
        "optimizer.learning_rate", "masking.mlm_probability", "perplexity",
    ]  # fmt: skip
    for run in record["runs"]:
        folder = Path(run["run"])
        assert (folder / "model" / "model.safetensors").is_file()
        assert not (folder / "checkpoints").exists()


def test_runs_are_ranked_by_what_chooses_the_best_weights(
    runs: Any, swept: Any, pages: dict[str, Any]
) -> None:
    path = runs.config(
        corpus=pages, evaluation={"retrieval": True, "mask_draws": 1},
        checkpoint={"best_by": "retrieval"},
    )  # fmt: skip
    record, shown = swept(path, "optimizer.learning_rate=[0.1, 0.003]", "optimizer.warmup_ratio=0")
    results = [run["results"] for run in record["runs"]]
    found = [of_run["retrieval_ndcg_at_10"] for of_run in results]
    assert found[0] > found[1], "the test needs runs that differ"
    assert "nDCG at 10" in shown.splitlines()[1]
    base = results[0]["retrieval_ndcg_at_10_before"]
    is_said = f"every run is worse than its base (nDCG at 10 {base:.1%} before" in shown
    assert is_said == (found[0] < base)
    low, high = results[0]["retrieval_ndcg_at_10_interval"]
    assert ("the other run lies within" in shown) == (low <= found[1] <= high)


@pytest.mark.parametrize(
    ("task", "metric", "shown_metric", "noun"),
    [
        ("classification", "macro_f1", "macro-F1", "24 validation examples"),
        ("entities", "micro_f1", "entity F1", "48 validation entities"),
    ],
)
def test_a_task_is_swept_on_validation_and_its_test_left_alone(
    tasks: Any, swept: Any, task: str, metric: str, shown_metric: str, noun: str
) -> None:
    if task == "entities":
        tasks.hold_sentences()
    path = tasks.config(training={"max_steps": 12}, evaluation={"every": 4})
    record, shown = swept(path, "optimizer.learning_rate=[1e-6, 0.01]", kind=ClassificationConfig)
    f1s = [run["results"][metric] for run in record["runs"]]
    assert f1s == sorted(f1s, reverse=True)
    assert shown_metric in shown
    assert "mlmtune finetune" in shown
    assert noun in shown
    for run in record["runs"]:
        assert not list(Path(run["run"]).glob("test_*"))


def test_what_is_finished_is_not_done_again(
    runs: Any, swept: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = runs.config()
    train, trained = training.train, []

    def interrupted(config: Config, *arguments: Any) -> Any:
        trained.append(config.run.output_dir)
        if len(trained) == 2:
            raise Interrupted("stopped", 2)
        return train(config, *arguments)

    monkeypatch.setattr(training, "train", interrupted)
    with pytest.raises(Interrupted, match="the same command continues") as caught:
        swept(path, RATES)
    assert caught.value.exit_code == 130
    first = Path(trained[0], "model", "model.safetensors")
    written = first.stat().st_mtime_ns
    record, _ = swept(path, RATES)
    assert len(record["runs"]) == 2
    assert first.stat().st_mtime_ns == written


def test_a_run_that_diverges_is_a_result(runs: Any, swept: Any) -> None:
    path = runs.config()
    record, shown = swept(path, "optimizer.learning_rate=[1e30, 0.001]", "optimizer.warmup_ratio=0")
    assert [run["results"] is None for run in record["runs"]] == [False, True]
    assert "diverged" in shown
    assert record["runs"][0]["settings"] == {"optimizer.learning_rate": 0.001}


def test_a_new_head_that_is_worse_than_token_frequencies_is_said_to_be_so(
    runs: Any, swept: Any, model_dir: Path, tokenizer: Any, tmp_path: Path
) -> None:
    encoder = tmp_path / "encoder"
    BertModel.from_pretrained(model_dir).save_pretrained(encoder)
    tokenizer.save_pretrained(encoder)
    path = runs.config(model={"name_or_path": str(encoder)}, training={"max_steps": 3})
    _, shown = swept(path, "optimizer.learning_rate=[0.4, 0.5]")
    assert "no run predicts better than token frequencies alone (perplexity " in shown


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["training.max_steps=3"], r"there is nothing to try: give a setting several values"),
        (["corpus.split_seed=[1, 2]"], r"^corpus.split_seed: cannot be swept, because runs"),
        (["chunking.chunk_length=[16, 32]"], r"^chunking.chunk_length: cannot be swept"),
        (["model.name_or_path=[a, b]"], r"^model.name_or_path: cannot be swept"),
        (["run.output_dir=[a, b]"], r"^run.output_dir: cannot be swept"),
        (["checkpoint.best_by=[perplexity, retrieval]"], r"^checkpoint.best_by: cannot be swept"),
        (["run.seed=[]"], r"run.seed=\[\]: names no value"),
        (["run.seed=[1]", "run.seed=[2]"], r"run.seed=\[2\]: is given twice"),
        (["run.seed=[1"], r"run.seed=\[1: not YAML; write run.seed=\[A, B, C\]"),
        (["optimizer.learning_rat=[1, 2]"], r"did you mean 'learning_rate'"),
        (["optimizer.learning_rate=[0.1, fast]"], r"optimizer.learning_rate.*fast"),
        ([f"run.seed={list(range(300))}"], r"these values make 300 runs; 256 is the most"),
        (
            ["run.seed=[1, 2]", "training.max_steps=null", "training.epochs=1"],
            r"training.max_steps: a sweep needs a budget for each run; add training.max_steps=N",
        ),
    ],
)
def test_what_cannot_be_swept_is_said_before_anything_runs(
    runs: Any, overrides: list[str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        plan_sweep(runs.config(), overrides, Config)


def test_a_task_may_be_swept_over_models_but_not_over_examples(tasks: Any) -> None:
    path = tasks.config()
    planned = plan_sweep(path, ["model.name_or_path=[a/b, c/d]"], ClassificationConfig)
    names = [Path(trial.config.run.output_dir).name for trial in planned.trials]
    assert len(set(names)) == 2
    assert not any("/" in name for name in names)
    with pytest.raises(ConfigError, match=r"^data.train: cannot be swept"):
        plan_sweep(path, ["data.train=[a, b]"], ClassificationConfig)


SHARED = {
    "tracking": {"with": ["tensorboard"], "run_name": "one name for all"},
    "hub": {"hub_model_id": "tiny", "push": "evaluation"},
}


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("one of many runs is not pushed")

    monkeypatch.setattr("mlmtune.training.pushing.check_repository", fail)


@pytest.mark.usefixtures("no_hub")
def test_each_run_is_tracked_by_its_own_name_and_none_is_pushed(runs: Any, swept: Any) -> None:
    record, _ = swept(runs.config(**SHARED), RATES, "training.max_steps=2")
    for run in record["runs"]:
        folder = Path(run["run"])
        assert [path.name for path in (folder / "tensorboard").iterdir()] == [folder.name]


@pytest.mark.usefixtures("no_hub")
def test_where_it_is_tracked_makes_no_other_run(runs: Any) -> None:
    plain = plan_sweep(runs.config(), [RATES, "training.max_steps=2"], Config)
    tracked = plan_sweep(runs.config(**SHARED), [RATES, "training.max_steps=2"], Config)
    folders = [[trial.config.run.output_dir for trial in plan.trials] for plan in (plain, tracked)]
    assert folders[0] == folders[1]
