"""finetune: from labelled examples to a classifier that others can load."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import Run
from transformers import pipeline

from mlmtune.config import ClassificationConfig
from mlmtune.config_loading import load_config
from mlmtune.errors import CheckpointError, ConfigError, DataError


def test_a_task_is_learned_and_loads_as_any_classifier(
    tasks: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tasks.finetune(training={"max_steps": 60}, evaluation={"every": 10})
    shown = capsys.readouterr().out
    assert "80 train, 24 validation, 30 test examples of 2 labels" in shown
    assert "test:       accuracy 100.0%, macro-F1 100.0 [100.0, 100.0] on 30 examples" in shown
    assert re.search(r"\nbetter than always answering '.*': accuracy 100.0% against \d", shown)
    assert "succeeded" not in shown

    results = run.json("test_results.json")
    assert results["accuracy"] == 1.0
    assert results["macro_f1_interval"] == [1.0, 1.0]
    assert results["per_label"]["good"] == {
        "precision": 1.0, "recall": 1.0, "f1": 1.0, "num_examples": 15,
    }  # fmt: skip
    assert results["confusion_matrix"] == [[15, 0], [0, 15]]
    lines = (run.path / "test_predictions.jsonl").read_text().splitlines()
    first = json.loads(lines[0])
    assert (len(lines), first["example"], first["label"]) == (30, "test.jsonl#1", "bad")
    assert run.json("data.json")["train"]["by_label"] == {"bad": 40, "good": 40}

    classify = pipeline("text-classification", str(run.path / "model"))
    said = classify(["the cluster has failed", "deploy succeeded"])
    assert [one["label"] for one in said] == ["bad", "good"]
    text = json.loads(tasks.files["test"].read_text().splitlines()[0])["text"]
    assert classify(text)[0]["score"] == pytest.approx(first["score"], abs=1e-5)


def cut_after(step: int, run: Run) -> None:
    """Leave what a run that was killed after a checkpoint leaves."""
    shutil.rmtree(run.path / "model")
    for later in run.checkpoint_steps:
        if later > step:
            shutil.rmtree(run.checkpoint(later))
    (run.path / "status.json").write_text(json.dumps({"state": "running"}))


@pytest.mark.parametrize("task", ["classification", "entities"])
def test_a_resumed_run_ends_as_one_that_was_not_stopped(tasks: Any, task: str) -> None:
    if task == "entities":
        tasks.hold_sentences()
    sections = {
        "model": {"dropout": 0.1}, "training": {"max_steps": 8}, "checkpoint": {"every": 4},
    }  # fmt: skip
    whole = tasks.finetune("whole", **sections)
    cut_after(4, tasks.finetune("cut", **sections))
    resumed = tasks.finetune("cut", resume="auto", **sections)
    assert resumed.model_bytes == whole.model_bytes
    assert resumed.json("test_results.json") == whole.json("test_results.json")


def test_accumulation_gives_the_same_weights(tasks: Any) -> None:
    smooth = {"adam_epsilon": 1e-3}
    whole = tasks.finetune("whole", optimizer=smooth, training={"micro_batch_size": 16})
    parts = tasks.finetune("parts", optimizer=smooth, training={"micro_batch_size": 3})
    for name, expected in whole.weights.items():
        torch.testing.assert_close(parts.weights[name], expected, rtol=1e-4, atol=1e-5)


def test_the_best_epoch_is_the_result_and_the_test_is_measured_on_it(tasks: Any) -> None:
    run = tasks.finetune(
        training={"max_steps": 40}, evaluation={"every": 5}, checkpoint={"export": "best"}
    )
    measured = {r["step"]: r["eval_macro_f1"] for r in run.metrics if "eval_macro_f1" in r}
    results = run.json("eval_results.json")
    assert results["macro_f1"] == max(measured.values())
    assert measured[results["step"]] == results["macro_f1"]


def test_balanced_weights_give_each_class_the_same_say(tasks: Any) -> None:
    records = [json.loads(line) for line in tasks.files["train"].read_text().splitlines()]
    few = [r for r in records if r["label"] == "bad"] + [
        r for r in records if r["label"] == "good"
    ][:10]
    tasks.files["train"].write_text("".join(json.dumps(record) + "\n" for record in few))
    runs = [
        tasks.finetune(name, data={"class_weights": name}, training={"max_steps": 1})
        for name in ("none", "balanced")
    ]
    assert runs[0].losses != runs[1].losses


def test_fewer_training_examples_keep_the_shares(tasks: Any) -> None:
    run = tasks.finetune(data={"max_train_examples": 10}, training={"max_steps": 1})
    assert run.json("data.json")["train"]["by_label"] == {"bad": 5, "good": 5}


def test_a_pair_is_told_by_its_token_types(tasks: Any) -> None:
    for path in tasks.files.values():
        records = [json.loads(line) for line in path.read_text().splitlines()]
        lines = [json.dumps({"a": r["text"], "b": "the end", "label": r["label"]}) for r in records]
        path.write_text("\n".join(lines))
    run = tasks.finetune(data={"text_field": ["a", "b"]}, training={"max_steps": 40})
    assert run.json("test_results.json")["accuracy"] > 0.9


def test_changed_examples_are_not_resumed_on(tasks: Any) -> None:
    sections = {"training": {"max_steps": 8}, "checkpoint": {"every": 4}}
    cut_after(4, tasks.finetune(**sections))
    with tasks.files["train"].open("a") as file:
        file.write(json.dumps({"text": "one more", "label": "bad"}) + "\n")
    with pytest.raises(CheckpointError, match=r"data.fingerprint"):
        tasks.finetune(**sections, resume="auto")


def test_a_config_of_the_other_kind_is_one_line(
    tasks: Any, config_file: Callable[..., Path]
) -> None:
    with pytest.raises(ConfigError, match=r"mlmtune finetune"):
        load_config(tasks.config())
    with pytest.raises(ConfigError, match=r"mlmtune train"):
        load_config(config_file(), kind=ClassificationConfig)


def test_what_cannot_be_read_ends_the_run_before_it_begins(tasks: Any) -> None:
    tasks.files["test"].write_text(tasks.files["train"].read_text())
    with pytest.raises(DataError, match=r"data.test: 80 of its 80 texts are in data.train"):
        tasks.finetune()
    status = json.loads((Path(tasks.folder) / "run" / "status.json").read_text())
    assert status["state"] == "failed"
