"""Objectives with pairs, from a config to a result."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import assert_same_course_from
from transformers import AutoModelForMaskedLM, AutoModelForPreTraining, BertForPreTraining

from mlmtune.cli import app
from mlmtune.config_loading import load_config
from mlmtune.console import Console
from mlmtune.errors import ConfigError, DataError
from mlmtune.modeling.device import build_accelerator
from mlmtune.training.masked_lm import build_masked_lm

SMOOTH = {"adam_epsilon": 1e-3}
"""Adam's step follows the gradient, so that rounding of a gradient of 0 makes no step."""


def pairs_of(run: Any) -> dict[int, float]:
    """Accuracy of the validation pairs by step."""
    return {r["step"]: r["eval_pair_accuracy"] for r in run.metrics if "eval_loss" in r}


@pytest.mark.parametrize("objective", ["mlm+nsp", "mlm+sop"])
def test_a_run_logs_and_measures_its_pairs(
    runs: Any, pair_sections: dict[str, Any], objective: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = runs.train(**pair_sections | {"objective": objective})
    training = [record for record in run.metrics if "loss" in record]
    assert all(0 < record["pair_loss"] < 5 for record in training)
    # Shares of eight pairs each.
    assert all((8 * record["pair_accuracy"]).is_integer() for record in training)
    assert set(pairs_of(run)) == {0, 3, 6}
    results = run.json("eval_results.json")
    assert results["num_pairs"] > 5
    assert 0 < results["pair_label_share"] < 1
    assert (results["num_pairs"] * results["pair_label_share"]).is_integer()
    assert all((8 * record["pair_label_share"]).is_integer() for record in training)
    share = sum(record["pair_label_share"] for record in training) / len(training)
    assert abs(share - 0.5) < 0.35  # of 48 pairs
    assert results["pair_accuracy_before"] == pairs_of(run)[0]
    assert results["pair_accuracy"] == pairs_of(run)[results["step"]]
    shown = capsys.readouterr().out
    assert "pairs classified correctly:" in shown
    assert "training pairs:" in shown
    assert re.search(r"% of pairs correct \(\d+\.\d% do not belong together\)", shown)
    assert re.search(r"after, of \d+ \(\d+\.\d% do not belong together\)", shown)


def test_next_sentences_are_learned(runs: Any, pair_sections: dict[str, Any]) -> None:
    """Each document has words of its own, so its sentences differ from another's."""
    run = runs.train(
        **pair_sections,
        training={"max_steps": 500, "global_batch_size": 16, "log_every": 50},
        optimizer={"learning_rate": 0.01, "weight_decay": 0.0},
        evaluation={"every": 500},
        checkpoint={"every": 500, "export": "last"},
    )
    accuracies = [record["pair_accuracy"] for record in run.metrics if "loss" in record]
    assert abs(accuracies[0] - 0.5) < 0.1  # of 800 pairs each
    assert accuracies[-1] > 0.7


def test_perplexity_is_that_of_chunks_so_that_objectives_compare(
    runs: Any, pair_sections: dict[str, Any]
) -> None:
    first = {"max_steps": 1}
    with_pairs = runs.train("pairs", **pair_sections, training=first)
    without = runs.train("plain", **pair_sections | {"objective": "mlm"}, training=first)
    assert with_pairs.evaluations[0] == pytest.approx(without.evaluations[0], rel=1e-6)
    assert "num_pairs" not in without.json("eval_results.json")
    assert not any("pair_loss" in record for record in without.metrics)


def test_the_loss_is_that_of_the_models_own_class(runs: Any, pair_sections: dict[str, Any]) -> None:
    """MLM over masked tokens plus next sentence over pairs, as BertForPreTraining adds them."""
    sections = pair_sections | {"training": {"max_steps": 1}}
    run = runs.train(**sections)
    first = next(record for record in run.metrics if "loss" in record)
    config = load_config(runs.config(**sections))
    parts = build_masked_lm(config, build_accelerator("fp32"), Console(is_quiet=True))
    (batch,) = parts.stream.micro_batches(0)
    model = BertForPreTraining.from_pretrained(config.model.name_or_path)
    expected = model(
        **batch.model_inputs(), labels=batch.labels, next_sentence_label=batch.pair_labels
    ).loss
    assert first["loss"] + first["pair_loss"] == pytest.approx(expected.item(), rel=1e-5)
    expected.backward()
    norm = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]).norm()
    assert first["grad_norm"] == pytest.approx(norm.item(), rel=1e-4)


@pytest.mark.parametrize("micro", [4, 3, 1])
def test_micro_batches_take_the_same_steps(
    runs: Any, pair_sections: dict[str, Any], micro: int
) -> None:
    sections = pair_sections | {"optimizer": SMOOTH}
    whole = runs.train("whole", **sections, training={"max_steps": 2, "micro_batch_size": 8})
    split = runs.train("split", **sections, training={"max_steps": 2, "micro_batch_size": micro})
    for record, expected in zip(split.metrics, whole.metrics, strict=True):
        for key in expected.keys() - {"fill"}:  # batches of fewer sequences have less padding
            assert record[key] == pytest.approx(expected[key], rel=1e-4), key


def test_a_resumed_run_ends_with_the_same_bits(runs: Any, pair_sections: dict[str, Any]) -> None:
    sections = pair_sections | {"model": {**pair_sections["model"], "dropout": 0.1}}
    expected = runs.train("expected", **sections)
    resumed = runs.train("resumed", **sections, resume=str(expected.checkpoint(4)))
    assert_same_course_from(4, resumed, expected)


def test_the_result_has_both_heads_and_is_measured_again(
    runs: Any, pair_sections: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    run = runs.train(**pair_sections, checkpoint={"export": "last"})
    for kind in (AutoModelForPreTraining, AutoModelForMaskedLM):
        _, report = kind.from_pretrained(run.path / "model", output_loading_info=True)
        assert not report["missing_keys"]
    base = BertForPreTraining.from_pretrained(pair_sections["model"]["name_or_path"])
    before = base.state_dict()["cls.seq_relationship.weight"]
    assert not torch.equal(run.weights["cls.seq_relationship.weight"], before)

    capsys.readouterr()
    config = runs.config(**pair_sections)
    app(args=["eval", "--model", str(run.path / "model"), "--config", str(config), "--json"],
        standalone_mode=False)  # fmt: skip
    results = run.json("eval_results.json")
    [measured] = json.loads(capsys.readouterr().out)
    assert measured["pair_accuracy"] == results["pair_accuracy"]
    assert measured["loss"] == pytest.approx(results["loss"], rel=1e-6)


def test_a_model_without_a_head_for_pairs_is_refused_before_its_text_is_read(
    runs: Any, pair_sections: dict[str, Any], tmp_path: Path, tokenizer: Any
) -> None:
    from transformers import DistilBertConfig, DistilBertForMaskedLM

    folder = tmp_path / "distilbert"
    config = DistilBertConfig(vocab_size=len(tokenizer), dim=16, n_layers=1, n_heads=2,
                              hidden_dim=16, max_position_embeddings=64)  # fmt: skip
    DistilBertForMaskedLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    with pytest.raises(
        ConfigError, match=r"objective: mlm\+nsp needs a head for pairs.*albert.*bert"
    ):
        runs.train(**pair_sections | {"model": {"name_or_path": str(folder)}})


@pytest.mark.parametrize("side", ["training", "validation"])
def test_a_side_of_one_document_has_no_other(
    runs: Any, pair_sections: dict[str, Any], tmp_path: Path, side: str
) -> None:
    text = {}
    for name, count in (("one", 1), ("many", 8)):
        text[name] = [{"format": "text", "path": str(tmp_path / name)}]
        (tmp_path / name).mkdir()
        for number in range(count):
            path = tmp_path / name / f"{number}.txt"
            path.write_text(f"The {name} {number} is new. The pool is old. " * 20, encoding="utf-8")
    train, validation = ("one", "many") if side == "training" else ("many", "one")
    corpus = {"sources": text[train], "validation_sources": text[validation]}
    sections = pair_sections | {"corpus": corpus}
    message = f"another document, and all pairs of the {side} text are of one; add documents"
    with pytest.raises(DataError, match=message):
        runs.train(**sections)
    if side == "training":
        assert runs.train("order", **sections | {"objective": "mlm+sop"}).evaluations


def test_validation_pairs_of_one_label_are_refused(
    runs: Any, pair_sections: dict[str, Any]
) -> None:
    with pytest.raises(DataError, match=r"the 2 validation pairs .* happen to have the same label"):
        runs.train(**pair_sections, evaluation={"max_chunks": 2})


def test_text_without_two_sentences_is_refused(
    runs: Any, pair_sections: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "lines.txt"
    path.write_text("".join(f"The node is number {n}.\n" for n in range(30)), encoding="utf-8")
    sections = pair_sections | {"corpus": {"sources": [{"format": "lines", "path": str(path)}]}}
    with pytest.raises(DataError, match=r"no document of the training text has two sentences"):
        runs.train(**sections)


@pytest.mark.parametrize(
    "chunking", [{"mode": "per_document"}, {"special_tokens": "document"}, {"last_chunk": "drop"}]
)
def test_keys_that_pairs_would_ignore_are_refused(
    runs: Any, pair_sections: dict[str, Any], chunking: dict[str, str]
) -> None:
    sections = pair_sections | {"chunking": {"chunk_length": 32, **chunking}}
    with pytest.raises(ConfigError, match=r"remove all keys of chunking except chunk_length"):
        load_config(runs.config(**sections))
