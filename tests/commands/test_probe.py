"""Models side by side on a task: what is drawn, what is said, what is kept."""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlmtune.classification.task_data import read_task_data
from mlmtune.commands import probe_fits, training
from mlmtune.commands.probe import probe
from mlmtune.commands.report import report_on
from mlmtune.config import ClassificationConfig
from mlmtune.config_loading import load_config
from mlmtune.console import Console
from mlmtune.errors import ConfigError, Interrupted
from mlmtune.report.probing import (
    ProbedModel,
    ProbeSetting,
)
from mlmtune.report.runs import read_finished_run

Probing = Callable[..., dict[str, Any]]


@pytest.fixture
def probing_of(tasks: Any, capsys: pytest.CaptureFixture[str]) -> Probing:
    """Probes models on the task and returns probe.json's content."""

    def run(*models: Path | str, **sections: Any) -> dict[str, Any]:
        config = load_config(tasks.config("task", **sections), kind=ClassificationConfig)
        capsys.readouterr()
        probe(config, list(map(str, models)), Console(notes_to_stderr=True), as_json=True)
        return json.loads(capsys.readouterr().out)

    return run


# ------------------------------------------------------------------------------------- the whole


def test_a_run_is_compared_with_its_base_and_its_report_says_so(
    runs: Any, tasks: Any, probing_of: Probing, capsys: pytest.CaptureFixture[str]
) -> None:
    run = runs.train("adapted")
    report_on([read_finished_run(run.path)], [], None, Console(is_quiet=True))
    result = probing_of(
        run.path,
        probe={"seeds": 2, "train_sizes": [10, "all", 500], "min_steps": 4},
        training={"max_steps": 4},
    )
    assert result["models"] == ["tiny-bert", "adapted"]
    assert (result["task"], result["num_test_examples"]) == ("task", 30)
    settings = [(row["method"], row["num_train_examples"], row["model"]) for row in result["rows"]]
    assert settings == [
        (method, size, model)
        for method in ("frozen", "finetuned")
        for size in (10, 80)
        for model in ("tiny-bert", "adapted")
    ]
    for row in result["rows"]:
        # Of all examples a frozen encoder gives the same whatever the seed.
        is_same = row["method"] == "frozen" and row["num_train_examples"] == 80
        assert [len(of_metric) for of_metric in row["scores"]] == [1 if is_same else 2] * 2
        assert (row["difference"] is None) == (row["model"] == "tiny-bert")
    assert len(result["sentences"]) == 1

    kept = run.json("probe.json")
    assert kept == {"task": result}
    report = run.json("report.json")
    assert report["probes"] == [result]
    for ending in ("md", "html"):
        text = (run.path / f"report.{ending}").read_text(encoding="utf-8")
        assert "On a task" in text
        assert result["sentences"][0].split(":")[0] in text
    # A report that is made again has it, too, and leaves out what another version wrote.
    older = {key: value for key, value in result.items() if key != "format_version"}
    (run.path / "probe.json").write_text(json.dumps({"older": older, "task": result}))
    capsys.readouterr()
    report_on([read_finished_run(run.path)], [], None, Console())
    assert "probe.json: the probe of older is of another version" in capsys.readouterr().out
    assert run.json("report.json")["probes"] == [result]

    table = (tasks.folder / "task-probe" / "probe.md").read_text(encoding="utf-8")
    assert table.count("\n| fine-tuned |") == 4
    assert not list((tasks.folder / "task-probe" / "fits").glob("*/"))  # no weights are left


def test_a_frozen_encoder_tells_what_it_can_see(tasks: Any, probing_of: Probing) -> None:
    learned = tasks.finetune("learned", training={"max_steps": 60}, evaluation={"every": 10})
    result = probing_of(
        tasks.model_dir, learned.path / "model", probe={"methods": ["frozen"], "seeds": 1}
    )
    base, trained = result["rows"]
    assert trained["scores"] == [[1.0], [1.0]]
    assert base["scores"][0][0] < 0.9
    assert trained["difference"]["interval"][0] > 0
    assert "better frozen on 80" in result["sentences"][0]


def test_entities_are_compared_by_their_f1(tasks: Any, probing_of: Probing) -> None:
    tasks.hold_sentences()
    other = {"seed": 7}
    sections = {"probe": {"seeds": 2, "train_sizes": [10, "all"], "min_steps": 20}}
    result = probing_of(tasks.model_dir, tasks.model_dir, run=other, training={}, **sections)
    assert result["metrics"] == ["precision", "recall", "micro_f1"]
    assert result["measured_on"] == "30 test sentences with 60 entities of 2 types"
    settings = [(row["method"], row["num_train_examples"]) for row in result["rows"][::2]]
    assert settings == [("frozen", 10), ("frozen", 80), ("finetuned", 10), ("finetuned", 80)]
    for base, same in zip(result["rows"][::2], result["rows"][1::2], strict=True):
        assert base["scores"] == same["scores"]
        assert same["difference"] == {"value": 0.0, "interval": [0.0, 0.0]}
    assert result["rows"][2]["scores"][-1][0] > 0
    assert "entity F1 in points: no clear difference frozen on 10" in result["sentences"][0]


def test_the_same_model_does_not_differ_from_itself(model_dir: Path, probing_of: Probing) -> None:
    sections = {"probe": {"seeds": 2, "train_sizes": [10], "min_steps": 3}, "training": {}}
    result = probing_of(model_dir, model_dir, **sections)
    assert result["models"] == ["tiny-bert", "tiny-bert (2)"]
    for row in result["rows"]:
        if row["difference"] is not None:
            assert row["difference"] == {"value": 0.0, "interval": [0.0, 0.0]}
    assert "no clear difference" in result["sentences"][0]


def test_what_is_finished_is_not_done_again(
    model_dir: Path, tasks: Any, probing_of: Probing, monkeypatch: pytest.MonkeyPatch
) -> None:
    sections = {
        "probe": {"methods": ["finetuned"], "seeds": 2},
        "training": {"max_steps": 3},
    }
    fits = []
    train = training.train

    def interrupted(config: Any, *arguments: Any) -> Any:
        fits.append(config.run.output_dir)
        if len(fits) == 2:
            raise Interrupted("stopped at step 1", 2)
        return train(config, *arguments)

    monkeypatch.setattr(training, "train", interrupted)
    with pytest.raises(Interrupted, match="the same command continues") as caught:
        probing_of(model_dir, model_dir, **sections)
    assert caught.value.exit_code == 130
    result = probing_of(model_dir, model_dir, **sections)
    # The first fit was kept; both models are the same here, and so are their fits.
    assert len(fits) == 3
    assert fits[2] == fits[1]
    monkeypatch.setattr(training, "train", lambda *_: pytest.fail("a fit was done again"))
    assert probing_of(model_dir, model_dir, **sections) == result


def test_no_fit_is_tracked_or_pushed(
    model_dir: Path, probing_of: Probing, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("a fit is nobody's business")

    monkeypatch.setattr("mlmtune.training.pushing.check_repository", fail)
    monkeypatch.setattr("mlmtune.sharing.trackers.Trackers.start", fail)
    sections = {
        "probe": {"methods": ["finetuned"], "seeds": 1},
        "tracking": {"with": ["tensorboard"]},
        "hub": {"hub_model_id": "tiny", "push": "evaluation"},
    }
    probing_of(model_dir, model_dir, **sections)


def test_a_corpus_that_holds_the_test_is_said(
    runs: Any, tasks: Any, corpus_dir: Path, tmp_path: Path, probing_of: Probing
) -> None:
    folder = tmp_path / "corpus"
    folder.mkdir()
    for file in corpus_dir.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    texts = [json.loads(line)["text"] for line in tasks.files["test"].read_text().splitlines()]
    (folder / "leak.txt").write_text(" ".join(texts))
    run = runs.train("adapted", corpus={"sources": [{"format": "text", "path": str(folder)}]})
    result = probing_of(run.path, probe={"methods": ["frozen"], "seeds": 1})
    [note] = result["notes"]
    assert note.startswith("adapted may have read part of the test: ")
    (folder / "leak.txt").unlink()
    for file in folder.iterdir():
        file.unlink()
    [note] = probing_of(run.path, probe={"methods": ["frozen"], "seeds": 1})["notes"]
    assert "could not be looked up" in note


@pytest.mark.parametrize(
    ("size", "num_validation", "steps", "every"),
    [(10, 24, 100, 10), ("all", 24, 100, 10), (10, 2400, 100, 33), (10, 960, 100, 20)],
)
def test_few_examples_get_steps_enough_and_evaluating_takes_no_longer(
    tasks: Any, size: Any, num_validation: int, steps: int, every: int
) -> None:
    config = load_config(
        tasks.config(training={"max_steps": None, "epochs": 2}), kind=ClassificationConfig
    )
    data = read_task_data(config.data, lambda _: None)
    chosen = np.arange(num_validation) % len(data.validation)
    data = replace(data, validation=data.validation.take(chosen))
    model = ProbedModel("a", "a", None)
    fit = probe_fits.config_of_fit(model, config, data, ProbeSetting("finetuned", size), 7)
    assert (fit.training.max_steps, fit.training.epochs) == (steps, None)
    assert fit.evaluation.every == every
    assert fit.run.seed == 7
    assert fit.data.max_train_examples == (None if size == "all" else size)


# ------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("models", "sections", "message"),
    [
        (
            ["base", "base"],
            {"data": {"test": None}},
            r"data.test: models are compared on a test",
        ),
        (["base"], {}, r"--model: give at least two models, the base first; or the directory of"),
    ],
)
def test_what_is_missing_is_said(
    model_dir: Path,
    probing_of: Probing,
    models: list[str],
    sections: dict[str, Any],
    message: str,
) -> None:
    with pytest.raises(ConfigError, match=message):
        probing_of(*[model_dir for _ in models], **sections)


def test_a_model_that_is_not_there_is_found_out_first(
    model_dir: Path, probing_of: Probing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe_fits.ProbeFits, "predict", lambda *_: pytest.fail("it has begun"))
    with pytest.raises(ConfigError, match=r"there is no folder \./none"):
        probing_of(model_dir, "./none")


def test_a_classifier_has_no_report(tasks: Any) -> None:
    run = tasks.finetune(training={"max_steps": 1})
    with pytest.raises(ConfigError, match=r"a classifier's run, .* mlmtune probe"):
        read_finished_run(run.path)


@pytest.mark.parametrize(("package", "extra"), [("sklearn", "probe"), ("seqeval", "entities")])
def test_a_missing_extra_is_named_before_anything_is_read(
    tasks: Any, probing_of: Probing, monkeypatch: pytest.MonkeyPatch, package: str, extra: str
) -> None:
    tasks.hold_sentences()
    tasks.files["train"].unlink()
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=rf"pip install 'mlmtune\[{extra}\]'"):
        probing_of(tasks.model_dir, tasks.model_dir)
    if package == "seqeval":
        with pytest.raises(ConfigError, match=rf"pip install 'mlmtune\[{extra}\]'"):
            tasks.finetune()
