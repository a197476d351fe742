"""Reports on real runs of a tiny model, and what stands in their way."""

import itertools
import json
import math
import re
from pathlib import Path
from typing import Any, get_args
from xml.etree import ElementTree

import numpy as np
import pytest
from filelock import FileLock
from transformers import BertModel

from mlmtune.commands.report import report_on
from mlmtune.console import Console
from mlmtune.errors import CheckpointError, ConfigError, DataError
from mlmtune.report import making
from mlmtune.report.findings import Estimate, Measurement, Text
from mlmtune.report.making import notes_on_unknown_text
from mlmtune.report.runs import read_finished_run
from mlmtune.training.outcome import Label
from mlmtune.training.run_dir import RunDir

GENERAL_WORDS = ["the", "key", "of", "a", "table", "is", "in", "vault"]


class Reports:
    """Makes reports, and reads them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(self, *paths: Path, overrides: tuple[str, ...] = ()) -> dict[str, Any]:
        report_on(
            [read_finished_run(path) for path in paths],
            list(overrides),
            self._folder,
            Console(is_quiet=True),
        )
        return json.loads(self.read("json"))

    def read(self, ending: str) -> str:
        return (self._folder / f"report.{ending}").read_text(encoding="utf-8")


@pytest.fixture
def report(tmp_path: Path) -> Reports:
    return Reports(tmp_path / "report")


@pytest.fixture
def general(tmp_path: Path) -> dict[str, Any]:
    folder = tmp_path / "general"
    folder.mkdir()
    draw = np.random.default_rng(0)
    for number in range(12):
        text = " ".join(
            draw.choice(["the", "key", "of", "a", "table", "is", "in", "the", "vault"], size=40)
        )
        (folder / f"{number:02}.txt").write_text(text, encoding="utf-8")
    return {"format": "text", "path": str(folder), "name": "general"}


def of(text: dict[str, Any], model: str) -> dict[str, Any]:
    return next(m for m in text["measurements"] if m["model"] == model)


def test_it_measures_what_the_run_measured(
    runs: Any, report: Reports, general: dict[str, Any]
) -> None:
    examples = ["the [MASK] of a [MASK]"]
    run = runs.train(evaluation={"general": [general], "examples": examples})
    findings = report(run.path)
    results = run.json("eval_results.json")
    base, adapted = (model["name"] for model in findings["models"])
    domain, other = findings["texts"]
    assert of(domain, base)["loss"]["value"] == pytest.approx(results["loss_before"], rel=1e-6)
    assert of(domain, adapted)["loss"]["value"] == pytest.approx(results["loss"], rel=1e-6)
    assert of(domain, adapted)["accuracy_top5"]["value"] == results["accuracy_top5"]
    change = of(other, adapted)["change"]["loss"]
    assert change["value"] == pytest.approx(results["forgetting"], abs=1e-6)
    assert not findings["general_is_missing"]

    # A loss is spread over words and bytes: the text's own, counted apart from the tokenizer.
    text = of(domain, adapted)
    loss = text["loss"]["value"]
    a_byte = math.log(text["perplexity_per_byte"]["value"])
    a_word = math.log(text["perplexity_per_word"]["value"])
    assert a_byte < loss < a_word + 1e-9
    assert domain["specificity"]
    assert (
        sum(part["measurements"][0]["num_masked_tokens"] for part in domain["specificity"])
        == (text["num_masked_tokens"])
    )
    assert [len(mask) for mask in findings["questions"][0]["opinions"]] == [2, 2]
    assert findings["verdicts"][0]["label"] in get_args(Label)


def test_the_changes_of_sources_add_up_to_the_whole(
    runs: Any, report: Reports, corpus_dir: Path, general: dict[str, Any]
) -> None:
    sources = [{"format": "text", "path": str(corpus_dir), "name": "one"}, general]
    run = runs.train(corpus={"sources": sources})
    text = report(run.path)["texts"][0]
    for number in (0, 1):
        parts = [part["measurements"][number] for part in text["sources"]]
        sums = sum(part["loss"]["value"] * part["num_predictions"] for part in parts)
        whole = text["measurements"][number]
        assert sums / whole["num_predictions"] == pytest.approx(whole["loss"]["value"])
    assert {part["name"] for part in text["sources"]} == {"one", "general"}


def test_the_page_needs_nothing_else_and_its_charts_are_whole(runs: Any, report: Reports) -> None:
    run = runs.train(evaluation={"examples": ["<script>alert(1)</script> [MASK] | a"]})
    findings = report(run.path)
    page, markdown = report.read("html"), report.read("md")
    assert "<script" not in page
    assert not re.search(r"""(src|href)\s*=\s*(?!"#)|url\(|@import""", page)
    anchors = re.findall(r'href="#(.*?)"', page)
    assert anchors == [a for a in re.findall(r'<h2 id="(.*?)"', page) if a != "contents"]
    assert re.findall(r"^- \[.*\]\(#(.*)\)$", markdown, re.MULTILINE) == anchors
    levels = [int(level) for level in re.findall(r"<h(\d)", page)]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert page.count("<table>") == page.count("<caption")
    charts = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(charts) >= 4
    for chart in charts:
        ElementTree.fromstring(chart)
    shown = f"{of(findings['texts'][0], findings['models'][1]['name'])['perplexity']['value']:.2f}"
    assert shown in page
    assert shown in markdown
    assert "Forgetting was not measured" in page
    assert "Forgetting was not measured" in markdown
    for table in re.findall(r"(?:^\|.*\n)+", markdown, re.MULTILINE):
        columns = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(columns) == 1, table


def test_general_text_may_be_named_afterwards(
    runs: Any, report: Reports, general: dict[str, Any]
) -> None:
    run = runs.train()
    assert report(run.path)["general_is_missing"]
    named = f"evaluation.general={json.dumps(general)}"
    assert len(report(run.path, overrides=(named,))["texts"]) == 2
    with pytest.raises(ConfigError, match=r"training\.epochs=1: .* only evaluation"):
        report(run.path, overrides=("training.epochs=1",))


def test_text_that_was_trained_on_is_no_general_text(
    runs: Any, report: Reports, corpus_dir: Path
) -> None:
    run = runs.train()
    named = f"evaluation.general=[{{format: text, path: {corpus_dir}, max_documents: 20}}]"
    with pytest.raises(DataError, match="of its documents were trained on"):
        report(run.path, overrides=(named,))


def test_several_runs_side_by_side(runs: Any, report: Reports, general: dict[str, Any]) -> None:
    first = runs.train("first", evaluation={"general": [general]})
    second = runs.train("second", optimizer={"learning_rate": 0.01})
    findings = report(first.path, second.path)
    assert [model["name"] for model in findings["models"]] == ["tiny-bert", "first", "second"]
    assert [verdict["run"] for verdict in findings["verdicts"]] == ["first", "second"]
    losses = {name: of(findings["texts"][0], name)["loss"]["value"] for name in ("first", "second")}
    best, other = findings["standings"]
    assert [best["run"], other["run"]] == sorted(losses, key=losses.__getitem__)
    assert other["behind"]["value"] == pytest.approx(losses[other["run"]] - losses[best["run"]])
    for page in (report.read("md"), report.read("html")):
        assert f"Of 2 runs, {best['run']} predicts the words of your text best" in page
    differences = {d["key"]: d["values"] for d in findings["differences"]}
    assert differences["optimizer.learning_rate"] == {"first": "0.001", "second": "0.01"}
    assert "run.output_dir" not in differences
    alone = report(second.path)
    assert of(findings["texts"][0], "second") == of(alone["texts"][0], "second")


def test_other_tokenizers_are_compared_by_words_and_bytes(
    runs: Any, report: Reports, byte_model_dir: Path
) -> None:
    first = runs.train("first")
    second = runs.train("second", model={"name_or_path": str(byte_model_dir)})
    findings = report(first.path, second.path)
    assert len({model["tokenizer"] for model in findings["models"]}) == 2
    assert any("different tokenizers" in note for note in findings["notes"])
    measured = findings["texts"][0]["measurements"]
    assert [m["model"] for m in measured] == ["tiny-bert", "tiny-bytes", "first", "second"]
    words = findings["texts"][0]["words"]
    every = words["samples"][0]
    losses = {m["model"]: m["losses"]["loss"]["value"] for m in every["measurements"]}
    assert list(losses) == ["tiny-bert", "tiny-bytes", "first", "second"]
    best, other = findings["standings"]
    assert [best["run"], other["run"]] == sorted(["first", "second"], key=losses.__getitem__)
    assert best["behind"] is None
    assert other["behind"]["value"] == pytest.approx(losses[other["run"]] - losses[best["run"]])
    assert other["measure"] == "word_loss"
    assert f"Of 2 runs, {best['run']} predicts the words of your text best" in report.read("md")
    for m in every["measurements"][2:]:
        base = {"first": "tiny-bert", "second": "tiny-bytes"}[m["model"]]
        change = losses[m["model"]] - losses[base]
        assert m["change"]["loss"]["value"] == pytest.approx(change)
    assert measured[3]["change"] is not None
    assert "not-comparable" in report.read("html")
    fewest, most = sorted({m["num_masked_tokens"] for m in measured})
    for kind in ("html", "md"):
        assert f"{fewest} to {most} masked tokens (" in report.read(kind)


def test_a_base_without_a_head_is_judged_by_what_remains(
    runs: Any, report: Reports, general: Any, model_dir: Path, tokenizer: Any, tmp_path: Path
) -> None:
    base = tmp_path / "headless"
    BertModel.from_pretrained(model_dir).save_pretrained(base)
    tokenizer.save_pretrained(base)
    run = runs.train(
        model={"name_or_path": str(base)}, optimizer={"learning_rate": 1e-5},
        evaluation={"general": [general]},
    )  # fmt: skip
    findings = report(run.path)
    before = of(findings["texts"][0], findings["models"][0]["name"])
    results = run.json("eval_results.json")
    assert before["loss"]["value"] == pytest.approx(results["loss_before"], rel=1e-6)
    assert findings["models"][0]["head_is_new"]
    [verdict] = findings["verdicts"]
    assert "has no masked-LM head" in verdict["reasons"][0]
    assert any("forgetting cannot be measured" in reason for reason in verdict["reasons"])

    # Hardly trained: its loss is better than that of a new head, but it predicts nothing.
    assert verdict["label"] != "improved"
    names = [model["name"] for model in findings["models"]]
    assert names == ["headless", "token frequencies alone", "run"]
    assert findings["models"][2]["compared_with"] == names[1]
    for text in findings["texts"]:
        after, frequencies = of(text, "run"), of(text, names[1])
        change = after["loss"]["value"] - frequencies["loss"]["value"]
        assert after["change"]["loss"]["value"] == pytest.approx(change)
        assert of(text, "headless")["change"] is None
    for page in (report.read("md"), report.read("html")):
        assert "new head" in page
        assert "forgetting cannot be measured there" in page


def test_a_run_with_pairs_is_measured_on_chunks(
    runs: Any, report: Reports, pair_sections: dict[str, Any]
) -> None:
    run = runs.train(**pair_sections)
    findings = report(run.path)
    measured = of(findings["texts"][0], findings["models"][1]["name"])
    assert measured["loss"]["value"] == pytest.approx(
        run.json("eval_results.json")["loss"], rel=1e-6
    )


def test_runs_that_cannot_be_reported_on(runs: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no run in it"):
        read_finished_run(tmp_path)
    run = runs.train()
    status = run.path / "status.json"
    finished = status.read_text(encoding="utf-8")
    status.write_text(
        '{"state": "running", "pid": 17, "step": 3, "max_steps": 6}', encoding="utf-8"
    )
    with pytest.raises(ConfigError, match=r"stopped at step 3 of 6\); resume .*--resume auto"):
        read_finished_run(run.path)
    with FileLock(run.path / ".lock"), pytest.raises(ConfigError, match="in progress"):
        read_finished_run(run.path)
    status.write_text(finished, encoding="utf-8")
    (run.path / "model" / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"model/config.json is missing; .*--resume auto"):
        read_finished_run(run.path)


def test_a_corpus_that_has_changed_is_refused(
    runs: Any, report: Reports, general: dict[str, Any]
) -> None:
    run = runs.train(corpus={"sources": [general], "validation_fraction": 0.5})
    file = next(Path(general["path"]).glob("*.txt"))
    text = file.read_text(encoding="utf-8")
    # Files may be touched and new ones may come: what was validated on is the same.
    file.write_text(text, encoding="utf-8")
    report(run.path)
    for path in Path(general["path"]).glob("*.txt"):
        path.write_text(path.read_text(encoding="utf-8") + " nodes", encoding="utf-8")
    with pytest.raises(DataError, match="the corpus has changed since training"):
        report(run.path)


def test_examples_show_only_whole_words(runs: Any, report: Reports, tmp_path: Path) -> None:
    folder = tmp_path / "pieces"
    folder.mkdir()
    known = [f"{word}{ending}" for word in GENERAL_WORDS for ending in ("s", "ing", "edly")]
    draw = np.random.default_rng(0)
    for number in range(30):
        text = " ".join(draw.choice(known, size=30))
        (folder / f"{number:02}.txt").write_text(text, encoding="utf-8")
    source = {"format": "text", "path": str(folder)}
    run = runs.train(corpus={"sources": [source]}, chunking={"chunk_length": 9})
    findings = report(run.path)
    examples = [*findings["gained"], *findings["lost"]]
    assert len(examples) >= 5
    for example in examples:
        shown = f"{example['before']}{example['word']}{example['after']}"
        assert set(shown.replace("[MASK]", " ").split()) <= set(known)
        assert "#" not in example["token"]


def test_an_example_without_a_mask_is_one_line(runs: Any, report: Reports) -> None:
    run = runs.train()
    with pytest.raises(ConfigError, match=r"there is no \[MASK\] in 'nothing'"):
        report(run.path, overrides=("evaluation.examples=[nothing]",))


def test_a_model_whose_tokenizer_is_not_its_bases_is_refused(runs: Any, report: Reports) -> None:
    run = runs.train()
    file = run.path / "model" / "tokenizer.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    words = content["model"]["vocab"]
    words["key"], words["vault"] = words["vault"], words["key"]
    file.write_text(json.dumps(content), encoding="utf-8")
    RunDir(run.path).write_manifest()
    with pytest.raises(ConfigError, match="its tokenizer is not that of tiny-bert"):
        report(run.path)


def with_another_tokenizer(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the model of a run another tokenizer, and let reports take it for its own."""
    file = run.path / "model" / "tokenizer.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    words = content["model"]["vocab"]
    # What was a word is now unused, so that it is cut into letters.
    words["[unused0]"], words["storage"] = words.pop("storage"), words.pop("[unused0]")
    words["##storage"] = words.pop("storage")
    file.write_text(json.dumps(content), encoding="utf-8")
    RunDir(run.path).write_manifest()
    monkeypatch.setattr(making, "_check_tokenizers", lambda models, extended: None)


def test_a_model_with_tokens_of_its_own_is_judged_by_whole_words(
    runs: Any, report: Reports, general: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = runs.train(evaluation={"general": [general]}, training={"max_steps": 30})
    with_another_tokenizer(run, monkeypatch)
    findings = report(run.path)
    for text in findings["texts"]:
        every, *parts = text["words"]["samples"]
        before, after = every["measurements"]
        difference = after["losses"]["loss"]["value"] - before["losses"]["loss"]["value"]
        assert after["change"]["loss"]["value"] == pytest.approx(difference)
        assert of(text, "run")["change"] is None
        assert "words cut alike" in {part["name"] for part in parts}
    domain, other = findings["texts"]
    before, after = domain["words"]["samples"][0]["measurements"]
    assert after["pieces_per_word"] > before["pieces_per_word"] >= 1.0
    assert other["words"]["samples"][0]["measurements"][1]["pieces_per_word"] == 1.0
    [verdict] = findings["verdicts"]
    losses = [f"{m['losses']['loss']['value']:.2f}" for m in (before, after)]
    assert f"{losses[0]} nats per word before, {losses[1]} after" in verdict["sentence"]
    bounds = [bound for loss in after["change"].values() for bound in loss["interval"]]
    expected = "worse" if min(bounds) > 0 else "no clear change"
    assert verdict["label"] == ("improved" if max(bounds) < 0 else expected)
    [on_general] = [reason for reason in verdict["reasons"] if "(general)" in reason]
    assert "nats per word" in on_general
    for page in (report.read("md"), report.read("html")):
        assert "other tokens" in page
        assert "words cut alike" in page
        assert page.count(losses[1]) >= 2
    assert findings["gained"] == findings["lost"] == []


def test_a_new_head_is_compared_with_frequencies_in_its_own_tokens(
    runs: Any, report: Reports, model_dir: Path, tokenizer: Any, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    base = tmp_path / "headless"
    BertModel.from_pretrained(model_dir).save_pretrained(base)
    tokenizer.save_pretrained(base)
    run = runs.train(model={"name_or_path": str(base)})
    with_another_tokenizer(run, monkeypatch)
    findings = report(run.path)
    compared = {model["name"]: model["compared_with"] for model in findings["models"]}
    own = "token frequencies alone in the tokens of run"
    assert compared == {
        "headless": None, "token frequencies alone": None, "run": own, own: None,
    }  # fmt: skip
    text = findings["texts"][0]
    change = of(text, "run")["loss"]["value"] - of(text, own)["loss"]["value"]
    assert of(text, "run")["change"]["loss"]["value"] == pytest.approx(change)
    names = [m["model"] for m in text["words"]["samples"][0]["measurements"]]
    assert names == [*compared]


def test_words_that_cannot_be_compared_are_said_to_be_so(
    runs: Any, report: Reports, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = runs.train(corpus={"split_by": "chunk"})
    with_another_tokenizer(run, monkeypatch)
    findings = report(run.path)
    assert findings["texts"][0]["words"] is None
    assert any("words of the domain text cannot be compared: with corpus.split_by: chunk" in note
               for note in findings["notes"])  # fmt: skip
    [verdict] = findings["verdicts"]
    assert verdict["label"] == "no clear change"
    assert "it is not known whether the model is better" in verdict["sentence"]
    assert "its words were not compared" in report.read("html")


def measured(model: str, unknown_share: float) -> Measurement:
    one = Estimate(1.0)
    return Measurement(
        model, 9, 9, one, one, one, one, one, one, None, unknown_share, unknown_share
    )  # fmt: skip


@pytest.mark.parametrize(
    ("shares", "expected"),
    [((0.0, 0.0), []), ((0.23, 0.23), ["It was neither predicted nor scored"]),
     ((0.23, 0.0), ["no perplexity here says which of these models is better"])],
)  # fmt: skip
def test_unknown_text_is_noted_and_models_that_know_other_shares_are_not_ranked(
    shares: tuple[float, float], expected: list[str]
) -> None:
    measurements = tuple(measured(f"m{n}", share) for n, share in enumerate(shares))
    text = Text("validation text", "domain", 5, 9, 1, "documents", measurements)
    notes = list(notes_on_unknown_text((text,)))
    assert len(notes) == len(expected)
    for note, part in zip(notes, expected, strict=True):
        assert "m0 23.0% of the tokens" in note
        assert part in note


def test_models_search_the_same_pages_beside_bm25(
    runs: Any, report: Reports, pages: dict[str, Any]
) -> None:
    run = runs.train(corpus=pages)
    findings = report(run.path)
    found = findings["retrieval"]
    base, adapted = (model["name"] for model in findings["models"])
    assert [m["model"] for m in found["measurements"]] == [base, adapted, "BM25"]
    assert found["num_titles"] == found["num_documents"] >= 20
    before, after, bm25 = found["measurements"]
    for name, change in after["change"].items():
        difference = after["measures"][name]["value"] - before["measures"][name]["value"]
        assert change["value"] == pytest.approx(difference)
        assert change["interval"][0] <= change["value"] <= change["interval"][1]
    assert before["change"] is bm25["change"] is bm25["anisotropy"] is None
    # The words of a title are in its body, and nowhere else together.
    assert bm25["measures"]["recall_at_1"]["value"] > before["measures"]["recall_at_1"]["value"]
    assert [r for r in findings["verdicts"][0]["reasons"] if "came first for their own query" in r]
    for ending in ("md", "html"):
        assert "Finding the right page" in report.read(ending)


def test_runs_are_ranked_by_what_chose_their_weights(
    runs: Any, report: Reports, pages: dict[str, Any]
) -> None:
    settings = {
        "corpus": pages, "evaluation": {"retrieval": True}, "checkpoint": {"best_by": "retrieval"},
    }  # fmt: skip
    first = runs.train("first", **settings)
    second = runs.train("second", optimizer={"learning_rate": 0.01}, **settings)
    findings = report(first.path, second.path)
    found = {m["model"]: m["measures"] for m in findings["retrieval"]["measurements"]}
    best, other = findings["standings"]
    difference = other["behind"]["value"]
    assert difference <= 0
    ndcg = [found[standing["run"]]["ndcg_at_10"]["value"] for standing in (best, other)]
    assert difference == pytest.approx(ndcg[1] - ndcg[0])
    assert f"{best['run']} finds the right page best" in report.read("md")


def test_a_report_says_why_retrieval_was_not_measured(runs: Any, report: Reports) -> None:
    findings = report(runs.train().path)
    assert findings["retrieval"] is None
    assert [note for note in findings["notes"] if "retrieval cannot be measured" in note]
    split_by_chunk = runs.train("by-chunk", corpus={"split_by": "chunk"})
    assert [note for note in report(split_by_chunk.path)["notes"] if "split_by: chunk" in note]
