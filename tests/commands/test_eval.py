import csv
from dataclasses import replace
from pathlib import Path

import pytest

from mlmtune.commands.eval import DUMP_COLUMNS, Row, describe, text_names, write_dump
from mlmtune.errors import ResourceError
from mlmtune.evaluation.perplexity import Evaluation
from mlmtune.report.findings import Estimate

EVALUATION = Evaluation(2.0, 7.39, (7.0, 7.8), 0.5, 0.7, 12_345, 10, 1, 12_345, 0.0, 0.0)
ROW = Row("text", "one", "fine", EVALUATION, Estimate(60.0), Estimate(2.5))
DUMPED = [("one", "text", 0, "wiki", "a b", "[MASK] b", "a b")]


def row_of(model, unknown_share, tokenizer="fine"):
    evaluation = replace(
        EVALUATION, unknown_token_share=unknown_share, unknown_byte_share=1.5 * unknown_share
    )
    return replace(ROW, model=model, tokenizer=tokenizer, evaluation=evaluation)


def test_models_that_know_different_shares_of_a_text_are_not_ranked():
    lines = describe([row_of("one", 0.0), row_of("two", 0.23, tokenizer="coarse")])
    assert "unknown (bytes)" in lines[0]
    assert "0.0% (0.0%)" in lines[1]
    assert "23.0% (34.5%)" in lines[2]
    for line in lines[1:3]:
        assert "7.39*" in line
        assert "60.00\u2020" in line
        assert "2.50\u2020" in line
    assert "no perplexity here says which model is better" in lines[-1]
    assert not any("do compare" in line for line in lines)


def test_models_that_know_the_same_share_compare_by_words_and_bytes():
    lines = describe([row_of("one", 0.1), row_of("two", 0.1, tokenizer="coarse")])
    assert not any("\u2020" in line for line in lines)
    assert "per word and per byte do compare" in lines[-1]
    assert len(describe([row_of("one", 0.1), row_of("two", 0.1)])) == 3


def test_a_missing_perplexity_is_not_one_that_does_not_fit_a_float():
    unknown = replace(row_of("one", 1.0), per_word=None, per_byte=None)
    overflowing = replace(row_of("two", 1.0), per_word=Estimate(None), per_byte=Estimate(None))
    _, first, second = describe([unknown, overflowing])
    assert first.split().count("-") == 2
    assert "1e308" not in first
    assert second.count("over 1e308") == 2
    assert unknown.to_json()["perplexity_per_word"] is None
    assert overflowing.to_json()["perplexity_per_byte"] is None
    assert ROW.to_json()["perplexity_per_word"] == 60.0


def test_configs_of_one_name_are_texts_of_several_names():
    assert text_names([Path("a/run.yaml"), Path("b/model.yaml")]) == ["run", "model"]
    assert text_names([Path("a/run.yaml"), Path("b/run.yaml")]) == ["a/run.yaml", "b/run.yaml"]
    assert text_names([Path("run.yaml")] * 2) == ["run.yaml", "run.yaml (2)"]


def test_a_dump_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    dump = tmp_path / "dump.csv"
    write_dump(dump, DUMPED)
    with dump.open(encoding="utf-8", newline="") as file:
        assert list(csv.reader(file)) == [list(DUMP_COLUMNS), list(map(str, DUMPED[0]))]
    content = dump.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(ResourceError, match=r"--dump .*dump\.csv: cannot be written \(No space"):
        write_dump(dump, DUMPED * 2)
    assert dump.read_bytes() == content
    assert list(tmp_path.iterdir()) == [dump]
