"""Runs whose config adds words to the vocabulary."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoModelForMaskedLM, AutoTokenizer

from mlmtune.config_loading import load_config
from mlmtune.console import Console
from mlmtune.errors import CheckpointError, ConfigError, DataError, Interrupted
from mlmtune.training.preparation import prepare

WORDS = ["kubernetes", "kubectl", "namespaces"]


def test_a_run_trains_the_extended_model_and_exports_an_ordinary_one(
    runs: Any, domain: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    base = runs.train("base", **domain)
    assert "added words" not in capsys.readouterr().out
    run = runs.train("extended", **domain, vocabulary={"add": 3})
    assert "before is the base with the added words" in capsys.readouterr().out
    tokenizer = AutoTokenizer.from_pretrained(run.path / "model")
    model = AutoModelForMaskedLM.from_pretrained(run.path / "model")
    assert tokenizer.tokenize("kubernetes") == ["kubernetes"]
    assert model.config.vocab_size == model.get_input_embeddings().num_embeddings
    tokens = [each.json("train_results.json")["num_tokens"] for each in (base, run)]
    assert tokens[1] <= tokens[0]
    ids = tokenizer("kubernetes to the cluster", return_tensors="pt")
    assert torch.isfinite(model(**ids).logits).all()


def test_a_run_resumes_with_the_same_bits_and_refuses_other_words(
    runs: Any, domain: Any, stopping_after: Callable[..., Any]
) -> None:
    sections = {**domain, "vocabulary": {"add": 3, "init": "random"}}
    expected = runs.train("expected", **sections)
    with stopping_after(4), pytest.raises(Interrupted):
        runs.train("stopped", **sections)
    other = {**sections, "vocabulary": {"add": 2, "init": "random"}}
    for allow_changes in (False, True):
        with pytest.raises(CheckpointError, match=r"vocabulary\.add: 3 in the checkpoint, 2 now"):
            runs.train("stopped", **other, resume="auto", allow_changes=allow_changes)
    run = runs.train("stopped", **sections, resume="auto")
    assert run.model_bytes == expected.model_bytes


def test_an_adapted_model_is_not_given_its_words_twice(
    runs: Any, domain: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = tmp_path / "words.txt"
    words.write_text("\n".join(WORDS[:2]), encoding="utf-8")
    first = runs.train("first", **domain, vocabulary={"words": str(words)})
    words.write_text("\n".join(WORDS[:3]), encoding="utf-8")
    again = {**domain, "model": {"name_or_path": str(first.path / "model")}}
    capsys.readouterr()
    second = runs.train("second", **again, vocabulary={"words": str(words)})
    said = capsys.readouterr().out
    assert "vocabulary: 1 word added" in said
    assert "2 words not added, because each is in the vocabulary already" in said
    names = AutoTokenizer.from_pretrained(second.path / "model").get_vocab()
    assert {*WORDS[:3]} <= names.keys()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "No such file"),
        ("\n \n", "has no words"),
        ("kubernetes\nnode pool\n", "line 2: 'node pool' has white space"),
        ("cluster\nstorage\n", "none of the 2 words can be added"),
    ],
)
def test_a_faulty_list_of_words_is_one_line(
    runs: Any, domain: Any, tmp_path: Path, content: str | None, said: str
) -> None:
    words = tmp_path / "words.txt"
    if content is not None:
        words.write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match=said) as caught:
        runs.train(**domain, vocabulary={"words": str(words)})
    assert "\n" not in str(caught.value)


def test_more_words_than_the_text_has_are_refused_with_their_number(runs: Any, domain: Any) -> None:
    with pytest.raises(DataError, match=r"only [45] words .* set vocabulary.add to [45] or less"):
        runs.train(**domain, vocabulary={"add": 500})


def test_two_ways_to_choose_words_contradict_each_other(config_file: Any, domain: Any) -> None:
    path = config_file(**domain, vocabulary={"add": 3, "words": "words.txt"})
    assert yaml.safe_load(path.read_text(encoding="utf-8"))["vocabulary"]["add"] == 3
    with pytest.raises(ConfigError, match="add and words contradict each other"):
        load_config(path)


def test_a_machine_with_the_store_alone_trains_on_its_words(
    runs: Any, domain: Any, config_file: Any, tmp_path: Path
) -> None:
    sections = {**domain, "vocabulary": {"add": 3}}
    expected = runs.train("expected", **sections)
    store, hidden = tmp_path / "store", tmp_path / "hidden"
    config = load_config(config_file(**sections), [f"tokenization.store={store}"])
    prepare(config, Console(is_quiet=True), rebuilds=True, refresh=False)
    folder = Path(config.corpus.sources[0].path)
    folder.rename(hidden)
    sections["tokenization"] = {"store": str(store)}
    run = runs.train("elsewhere", **sections)
    assert run.model_bytes == expected.model_bytes
    tokenizers = [
        AutoTokenizer.from_pretrained(each.path / "model").backend_tokenizer.to_str()
        for each in (run, expected)
    ]
    assert tokenizers[0] == tokenizers[1]
    sections["vocabulary"] = {"add": 2}
    with pytest.raises(ConfigError, match="has the words of another config or model, and"):
        runs.train("other", **sections)
    (store / "vocabulary.json").unlink()
    with pytest.raises(ConfigError, match="has no added words, and"):
        runs.train("other", **sections)
