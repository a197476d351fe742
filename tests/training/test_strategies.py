"""Masking strategies and moving rates through whole runs."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs import assert_same_course_from

from mlmtune.config import Config
from mlmtune.config_loading import load_config
from mlmtune.console import Console
from mlmtune.errors import CheckpointError, ConfigError
from mlmtune.modeling.device import build_accelerator
from mlmtune.training.masked_lm import build_masked_lm


def parts_of(path: Path) -> Any:
    return build_masked_lm(load_config(path), build_accelerator("fp32"), Console(is_quiet=True))


@pytest.fixture
def plurals(tmp_path: Path) -> dict[str, Any]:
    """Text whose words have two tokens and more."""
    folder = tmp_path / "plurals"
    folder.mkdir()
    words = ("nodes", "pools", "keys", "servers", "deployed", "the", "tables")
    for number in range(30):
        text = " ".join(words[(number * n + n) % 7] for n in range(20, 60))
        (folder / f"{number}.txt").write_text(f"{text} {number}", encoding="utf-8")
    return {"corpus": {"sources": [{"format": "text", "path": str(folder)}]}}


@pytest.mark.parametrize("strategy", ["whole_word", "span"])
def test_each_strategy_trains_and_resumes_exactly(
    runs: Any, plurals: dict[str, Any], strategy: str
) -> None:
    sections = {**plurals, "masking": {"strategy": strategy}, "model": {"dropout": 0.1}}
    expected = runs.train("expected", **sections)
    resumed = runs.train("other", **sections, resume=str(expected.checkpoint(4)))
    assert_same_course_from(4, resumed, expected)
    token = runs.train("token", **sections | {"masking": {"strategy": "token"}})
    assert token.losses != expected.losses


def test_validation_is_the_same_whatever_is_trained(runs: Any, plurals: dict[str, Any]) -> None:
    one = {**plurals, "training": {"max_steps": 1}}
    first = [
        runs.train(strategy, masking={"strategy": strategy, "mlm_probability": rate}, **one)
        for strategy, rate in (("token", 0.15), ("whole_word", 0.4), ("span", 0.3))
    ]
    assert len({run.evaluations[0] for run in first}) == 1
    other = runs.train("words", evaluation={"strategy": "whole_word"}, **one)
    assert other.evaluations[0] != first[0].evaluations[0]


def test_the_rate_moves_from_step_to_step(runs: Any) -> None:
    masking = {"mlm_probability": {"start": 0.6, "end": 0.1}}
    run = runs.train(masking=masking)
    rates = [record["mlm_probability"] for record in run.metrics if "loss" in record]
    assert rates == pytest.approx(np.linspace(0.6, 0.1, 6).tolist())
    masked = [record["num_masked_tokens"] for record in run.metrics if "loss" in record]
    assert masked[0] > 2 * (masked[-1] - masked[-2])  # they are counted since the start
    resolved = load_config(run.path / "config.resolved.yaml")
    assert resolved.masking.model_dump()["mlm_probability"] == masking["mlm_probability"]


def test_a_run_with_a_moving_rate_is_resumed_exactly(runs: Any) -> None:
    masking = {"mlm_probability": {"start": 0.5, "end": 0.1}}
    expected = runs.train("expected", masking=masking)
    resumed = runs.train("other", masking=masking, resume=str(expected.checkpoint(4)))
    assert_same_course_from(4, resumed, expected)


def test_a_moving_rate_moves_no_draw(runs: Any) -> None:
    """At a lower rate a step predicts some of the tokens that it does at a higher one."""
    step = 5
    batches = [
        parts_of(runs.config(masking={"mlm_probability": rate})).stream.micro_batches(step)[0]
        for rate in (0.6, {"start": 0.6, "end": 0.2})
    ]
    more, fewer = (set(batch.masked_positions.tolist()) for batch in batches)
    assert fewer < more


def test_another_strategy_is_another_run(runs: Any) -> None:
    runs.train()
    with pytest.raises(CheckpointError, match=r"masking\.strategy: token .*, whole_word now"):
        runs.train(masking={"strategy": "whole_word"}, resume="auto", training={"max_steps": 8})


def test_a_change_of_strategy_tokenizes_nothing_anew(
    runs: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    runs.train("first", training={"max_steps": 1})
    assert "reading and tokenizing" in capsys.readouterr().out
    for strategy in ("whole_word", "span"):
        runs.train(strategy, masking={"strategy": strategy}, training={"max_steps": 1})
    runs.train(
        "segmented", masking={"strategy": "whole_word"}, training={"max_steps": 1},
        tokenization={"word_segmenter": "rjieba"},
    )  # fmt: skip
    assert "reading and tokenizing" not in capsys.readouterr().out


def test_words_of_another_segmenter_are_another_run(runs: Any) -> None:
    masking = {"strategy": "whole_word"}
    segmented = {"word_segmenter": "rjieba"}
    run = runs.train(masking=masking, tokenization=segmented)
    with pytest.raises(CheckpointError, match=r"corpus\.marks"):
        runs.train("other", masking=masking, resume=str(run.checkpoint(4)))


CHINESE = "员工的人力资源数据很重要，请打开模型的下一行。"


@pytest.fixture
def chinese(byte_tokenizer: Any, tmp_path: Path) -> dict[str, Any]:
    """A RoBERTa whose tokens are bytes, and Chinese text."""
    import torch
    from transformers import RobertaConfig, RobertaForMaskedLM

    folder = tmp_path / "roberta"
    torch.manual_seed(0)
    config = RobertaConfig(
        vocab_size=len(byte_tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=68, pad_token_id=1,
    )  # fmt: skip
    RobertaForMaskedLM(config).save_pretrained(folder)
    byte_tokenizer.save_pretrained(folder)
    text = tmp_path / "chinese"
    text.mkdir()
    for number in range(12):
        (text / f"{number}.txt").write_text(CHINESE * (3 + number), encoding="utf-8")
    return {
        "model": {"name_or_path": str(folder)},
        "corpus": {"sources": [{"format": "text", "path": str(text), "name": "zh"}]},
        "chunking": {"chunk_length": 60},
    }


def test_words_that_are_clauses_stop_the_run(runs: Any, chinese: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"masking\.strategy: whole_word: the words of zh have .* "
                       r"tokens on average.*word_segmenter: rjieba"):  # fmt: skip
        runs.train(**chinese, masking={"strategy": "whole_word"})
    with pytest.raises(ConfigError, match=r"evaluation\.strategy: span: the words of zh"):
        runs.train(**chinese, evaluation={"strategy": "span"})


def test_a_segmenter_makes_words_of_them(runs: Any, chinese: dict[str, Any]) -> None:
    sections = {
        **chinese, "masking": {"strategy": "whole_word"},
        "tokenization": {"word_segmenter": "rjieba"},
    }  # fmt: skip
    runs.train(**sections)
    parts = parts_of(runs.config(**sections))
    (batch,) = parts.stream.micro_batches(0)
    words = [
        "员工",
        "的",
        "人力资源",
        "数据",
        "很",
        "重要",
        "，",
        "请",
        "打开",
        "模型",
        "下",
        "一行",
        "。",
    ]
    for ids, labels in zip(batch.input_ids, batch.labels, strict=True):
        originals = np.where(labels != -100, labels, ids)
        # Runs of predicted tokens are runs of whole words; but a chunk's border may cut one.
        is_inside = np.flatnonzero(labels != -100)
        for run in np.split(is_inside, np.flatnonzero(np.diff(is_inside) > 1) + 1):
            text = parts.loaded.tokenizer.decode(originals[run])
            if len(run) and run[0] > 1 and run[-1] < len(ids) - 2:
                while text:
                    word = next((w for w in words if text.startswith(w)), None)
                    assert word is not None, text
                    text = text[len(word) :]


def test_spans_need_their_strategy() -> None:
    sections = {
        "run": {"output_dir": "x"}, "model": {"name_or_path": "x"},
        "corpus": {"sources": [{"format": "text", "path": "x"}]},
    }  # fmt: skip
    for key, value in (("span_geometric_p", 0.3), ("span_max_words", 5)):
        with pytest.raises(ValueError, match=f"{key} has no meaning without strategy: span"):
            Config.model_validate({**sections, "masking": {key: value}})
        Config.model_validate({**sections, "masking": {"strategy": "span", key: value}})
