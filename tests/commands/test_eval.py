from dataclasses import replace

from mlmtune.commands.eval import Row, describe
from mlmtune.evaluation.perplexity import Evaluation

EVALUATION = Evaluation(2.0, 7.39, (7.0, 7.8), 0.5, 0.7, 12_345, 10, 1, 12_345, 0.0, 0.0)
ROW = Row("text", "one", "fine", EVALUATION, 60.0, 2.5)


def row_of(model, unknown_share, tokenizer="fine"):
    found = replace(
        EVALUATION, unknown_token_share=unknown_share, unknown_byte_share=1.5 * unknown_share
    )
    return replace(ROW, model=model, tokenizer=tokenizer, evaluation=found)


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
