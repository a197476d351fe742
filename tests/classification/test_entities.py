"""finetune with `task: entities`: from sentences with tags to a model that a pipeline loads."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import Run
from tasks import DROPPED
from transformers import pipeline
from vocabulary import WORDS

from mlmtune.classification.building import KINDS
from mlmtune.config import ClassificationConfig, TaskName
from mlmtune.config_loading import load_config
from mlmtune.errors import ConfigError

Finetune = Callable[..., Run]


@pytest.fixture
def finetune(tasks: Any) -> Finetune:
    tasks.hold_sentences()

    def run(name: str = "run", **sections: Any) -> Run:
        return tasks.finetune(name, **sections)

    return run


def test_entities_are_learned_and_a_pipeline_finds_them(
    finetune: Finetune, capsys: pytest.CaptureFixture[str]
) -> None:
    run = finetune(training={"max_steps": 60}, evaluation={"every": 20})
    shown = capsys.readouterr().out
    assert "80 train, 24 validation, 30 test sentences with 2 types of entities" in shown
    assert "the tokenizer makes no token of" in shown
    assert "test:       entity F1 " in shown

    results = run.json("test_results.json")
    low, high = results["micro_f1_interval"]
    assert results["micro_f1"] > 0.9
    assert low <= results["micro_f1"] <= high
    assert results["per_type"].keys() == {"ACTION", "THING"}
    assert results["num_sentences"] == 30
    assert results["errors"].keys() == {"boundary", "type", "missed", "spurious"}
    assert all(len(shown) <= 5 for shown in results["error_examples"].values())
    assert run.json("data.json")["train"]["by_type"] == {"ACTION": 80, "THING": 80}
    lines = [
        json.loads(line) for line in (run.path / "test_predictions.jsonl").read_text().splitlines()
    ]
    assert (len(lines), lines[0]["example"]) == (30, "test.conll#1")
    for line in lines:
        assert len(line["tokens"]) == len(line["prediction"]) == len(line["scores"])

    find = pipeline("token-classification", str(run.path / "model"), aggregation_strategy="first")
    for line in lines[:10]:
        text = " ".join(line["tokens"])
        if DROPPED in text:
            continue
        starts = [len(" ".join(line["tokens"][:n])) + (n > 0) for n in range(len(line["tokens"]))]
        expected = [
            (tag[2:], starts[n]) for n, tag in enumerate(line["prediction"]) if tag[0] == "B"
        ]
        assert [(found["entity_group"], found["start"]) for found in find(text)] == expected
    tags = {entry["index"]: entry["entity"] for entry in pipeline(
        "token-classification", str(run.path / "model"), aggregation_strategy="none"
    )("failed")}  # fmt: skip
    assert tags == {1: "B-ACTION"}
    card = (run.path / "model" / "README.md").read_text(encoding="utf-8")
    assert "pipeline_tag: token-classification" in card
    assert "F1 of ACTION" in card
    assert re.search(r"\| F1 \| \d+\.\d \[\d+\.\d, \d+\.\d\] \|", card)


def test_long_sentences_are_split_and_predicted_whole(
    finetune: Finetune, capsys: pytest.CaptureFixture[str]
) -> None:
    run = finetune(data={"max_length": 8}, training={"max_steps": 30})
    assert "have more tokens than data.max_length: 8; they are split" in capsys.readouterr().out
    results = run.json("test_results.json")
    whole = finetune("whole", training={"max_steps": 1}).json("test_results.json")
    assert results["num_words"] == whole["num_words"]
    assert results["micro_f1"] > 0.5


def test_the_division_of_a_batch_does_not_matter(finetune: Finetune) -> None:
    smooth = {"adam_epsilon": 1e-3}
    whole = finetune("whole", optimizer=smooth, training={"micro_batch_size": 16})
    parts = finetune("parts", optimizer=smooth, training={"micro_batch_size": 3})
    for name, expected in whole.weights.items():
        torch.testing.assert_close(parts.weights[name], expected, rtol=1e-4, atol=1e-5)
    sizes = [
        finetune(f"size{size}", evaluation={"batch_size": size}).json("eval_results.json")
        for size in (1, 32)
    ]
    assert sizes[0]["loss"] == pytest.approx(sizes[1]["loss"], rel=1e-5)


def test_the_same_config_gives_the_same_bits(finetune: Finetune) -> None:
    once, again = finetune("once"), finetune("again")
    assert once.model_bytes == again.model_bytes
    assert once.json("test_results.json") == again.json("test_results.json")


def test_byte_level_tokens_give_a_card_without_a_warning(
    finetune: Finetune, byte_model_dir: Path
) -> None:
    run = finetune(model={"name_or_path": str(byte_model_dir)}, training={"max_steps": 1})
    assert "aggregation_strategy" in (run.path / "model" / "README.md").read_text(encoding="utf-8")


def test_fewer_training_sentences(finetune: Finetune) -> None:
    run = finetune(data={"max_train_examples": 10}, training={"max_steps": 1})
    assert run.json("data.json")["train"]["sentences"] == 10


@pytest.mark.parametrize(
    ("task", "sections", "message"),
    [
        ("classification", {"data": {"format": "conll"}}, r"data.format: conll holds sentences"),
        (
            "classification",
            {"evaluation": {"metric": "micro_f1"}},
            r"evaluation.metric: micro_f1 is for task: entities",
        ),
        ("entities", {"data": {"format": "csv"}}, r"data.format: csv cannot hold a tag for each"),
        ("entities", {"data": {"text_field": ["a", "b"]}}, r"data.text_field: task: entities has"),
        ("entities", {"data": {"labels": ["a", "b"]}}, r"data.labels has no meaning for task: en"),
        ("entities", {"data": {"class_weights": "balanced"}}, r"data.class_weights has no meaning"),
        ("entities", {"evaluation": {"metric": "accuracy"}}, r"evaluation.metric: accuracy is for"),
    ],
)
def test_settings_of_the_other_task_are_refused(
    tasks: Any, task: str, sections: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(tasks.config(task=task, **sections), kind=ClassificationConfig)
    assert "\n" not in str(caught.value)


def test_a_classifier_of_texts_is_not_a_tagger(
    tasks: Any, finetune: Finetune, tmp_path: Path
) -> None:
    tagger = finetune("tagger", training={"max_steps": 1})
    examples = [{"text": word, "label": number % 2} for number, word in enumerate(WORDS)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, examples)))
    tasks.files = {"train": tmp_path / "a.jsonl"}
    tasks.kind = {"task": "classification", "data": {"format": "json"}}
    model = {"name_or_path": str(tagger.path / "model")}
    with pytest.raises(ConfigError, match=r"is a classifier of another kind \(BertForToken"):
        tasks.finetune("texts", model=model)


def test_every_task_of_the_config_can_be_built() -> None:
    from typing import get_args

    assert set(KINDS) == set(get_args(TaskName))
