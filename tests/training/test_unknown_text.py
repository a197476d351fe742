"""Text that the tokenizer does not know: what is done with it, and what is said of it."""

from pathlib import Path
from typing import Any

import pytest

from mlmtune.errors import DataError

KHMER = "\u1797\u17b6\u179f\u17b6"


def write(folder: Path, sentence: str, num_files: int = 12) -> dict[str, Any]:
    folder.mkdir()
    for number in range(num_files):
        text = " ".join([sentence] * (number + 9))
        (folder / f"{number}.txt").write_text(text, encoding="utf-8")
    return {"sources": [{"format": "text", "path": str(folder)}], "validation_fraction": 0.3}


def test_training_stops_where_most_is_unknown(runs: Any, tmp_path: Path) -> None:
    corpus = write(tmp_path / "text", f"{KHMER} {KHMER} the")
    with pytest.raises(DataError, match="67% of the tokens of the training text") as caught:
        runs.train(corpus=corpus)
    assert caught.value.exit_code == 3
    assert "\u1797 (U+1797 KHMER LETTER PHO)" in str(caught.value)
    assert "tokenization.max_unknown_share=1" in str(caught.value)


def test_what_is_known_is_trained_on_where_one_insists(runs: Any, tmp_path: Path) -> None:
    corpus = write(tmp_path / "text", f"{KHMER} {KHMER} the storage")
    (tmp_path / "text" / "all.txt").write_text(f"{KHMER} " * 60, encoding="utf-8")
    run = runs.train(corpus=corpus, tokenization={"max_unknown_share": 1})
    assert all(record["loss"] > 0 for record in run.metrics if "loss" in record)
    results = run.json("eval_results.json")
    assert results["unknown_token_share"] == pytest.approx(0.5, abs=0.2)
    assert results["unknown_byte_share"] > results["unknown_token_share"]
    assert results["num_masked_tokens"] > 0
    share = f"{results['unknown_token_share']:.1%}"
    card = (run.path / "model" / "README.md").read_text(encoding="utf-8")
    assert f"{share} of the tokens of that text" in card
    assert set(run.json("corpus.json")["unknown_characters"]) == set(KHMER)


def test_validation_text_of_which_nothing_is_known_is_an_error(runs: Any, tmp_path: Path) -> None:
    corpus = write(tmp_path / "text", KHMER)
    with pytest.raises(DataError, match="the tokenizer does not know its characters"):
        runs.train(corpus=corpus, tokenization={"max_unknown_share": 1})
