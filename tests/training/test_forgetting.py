"""General text: measured, replayed, and a reason to stop."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlmtune.config_loading import load_config
from mlmtune.console import Console
from mlmtune.corpus.text import CorpusText
from mlmtune.errors import DataError
from mlmtune.modeling.device import build_accelerator
from mlmtune.training.masked_lm import build_masked_lm
from mlmtune.training.preparation import prepare


def write_texts(folder: Path, words: str, number: int) -> Path:
    folder.mkdir()
    draw = np.random.default_rng(number)
    for file in range(number):
        text = " ".join(draw.choice(words.split(), size=40))
        (folder / f"{file:02}.txt").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture
def general(tmp_path: Path) -> dict[str, Any]:
    """Text of other words than the domain's."""
    folder = write_texts(tmp_path / "general", "the key of a table is in the vault", 12)
    return {"format": "text", "path": str(folder), "name": "general"}


def parts_of(path: Path) -> Any:
    return build_masked_lm(load_config(path), build_accelerator("fp32"), Console(is_quiet=True))


def test_general_text_is_measured_before_on_the_way_and_after(
    runs: Any, general: dict[str, Any]
) -> None:
    run = runs.train(evaluation={"general": [general]})
    results = run.json("eval_results.json")
    measured = [r for r in run.metrics if "eval_general_loss" in r]
    assert [r["step"] for r in measured] == [0, 3, 6]
    assert results["general_loss_before"] == measured[0]["eval_general_loss"]
    assert results["forgetting"] == pytest.approx(
        results["general_loss"] - results["general_loss_before"]
    )
    assert results["general_perplexity"] == pytest.approx(math.exp(results["general_loss"]))
    assert run.json("corpus.json")["general"]["documents"] == 12
    # It only measures: the run is the same as without.
    assert runs.train("without").weights.keys() == run.weights.keys()
    assert runs.at("without").losses == run.losses


@pytest.mark.parametrize("refresh", [False, True])
def test_a_refresh_looks_for_the_general_text_again_too(
    runs: Any, general: dict[str, Any], monkeypatch: pytest.MonkeyPatch, refresh: bool
) -> None:
    listed, refreshes = CorpusText.listed, {}

    def note(text: CorpusText, *, refresh: bool) -> CorpusText:
        refreshes[text.key] = refresh
        return listed(text, refresh=refresh)

    monkeypatch.setattr(CorpusText, "listed", note)
    config = load_config(runs.config(evaluation={"general": [general]}))
    prepare(config, Console(is_quiet=True), rebuilds=True, refresh=refresh)
    assert refreshes == {"corpus.sources": refresh, "evaluation.general": refresh}


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_replayed_text_has_its_share_of_an_epoch(
    runs: Any, corpus_dir: Path, general: dict[str, Any], share: float
) -> None:
    domain = {"format": "text", "path": str(corpus_dir), "name": "domain"}
    sources = [domain, general | {"replay": share}]
    path = runs.config(corpus={"sources": sources}, training={"max_steps": 1})
    parts = parts_of(path)
    mixture = parts.sequences[0].unmasked._mixture
    assert mixture.num_drawn[1] / mixture.num_drawn.sum() == pytest.approx(share, abs=0.03)
    # The domain is there as a whole, and replayed text is not validated on.
    assert mixture.num_drawn[0] == mixture.num_chunks[0]
    validated = parts.setup.splits.validation.num_body_tokens_by_source
    assert validated[0] > 0 == validated[1]


def test_what_is_measured_is_not_replayed(
    runs: Any, corpus_dir: Path, general: dict[str, Any]
) -> None:
    domain = {"format": "text", "path": str(corpus_dir)}
    sources = [domain, general | {"replay": 0.3, "name": "replayed"}]
    measured = {"general": [general | {"max_documents": 4}]}
    path = runs.config(corpus={"sources": sources}, evaluation=measured)
    parts = parts_of(path)
    assert parts.setup.splits.num_in_general == 4
    hashes = parts.setup.splits.general.store.documents.content_hashes
    documents = [
        number for chunk in range(len(parts.setup.splits.train))
        for _, number in parts.setup.splits.train.documents_in(chunk)
    ]  # fmt: skip
    assert not np.isin(parts.setup.store.documents.content_hashes[documents], hashes).any()

    path = runs.config("all", corpus={"sources": sources}, evaluation={"general": [general]})
    with pytest.raises(DataError, match="nothing of replayed is left to replay"):
        parts_of(path)


def test_general_text_without_text_is_an_error(runs: Any, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "a.txt").write_text(" \n", encoding="utf-8")
    general = {"format": "text", "path": str(tmp_path / "empty")}
    with pytest.raises(
        DataError, match=r"evaluation\.general: no document is left to measure on; 1 file"
    ):
        parts_of(runs.config(evaluation={"general": [general]}))


def test_a_run_stops_when_it_forgets_too_much(
    runs: Any, tmp_path: Path, general: dict[str, Any]
) -> None:
    domain = write_texts(tmp_path / "domain", "deploy nodes pools servers", 30)
    sections: dict[str, Any] = {
        "corpus": {"sources": [{"format": "text", "path": str(domain)}]},
        "optimizer": {"learning_rate": 0.03, "warmup_steps": 0},
        "evaluation": {"general": [general], "every": 2},
    }
    free = runs.train("free", **sections)
    losses = {r["step"]: r["eval_general_loss"] for r in free.metrics if "eval_general_loss" in r}
    rises = {step: loss - losses[0] for step, loss in losses.items() if step}
    assert 0 < rises[4] < rises[6], rises

    bound = {**sections["evaluation"], "max_forgetting": (rises[2] + rises[4]) / 2}
    run = runs.train("bound", **sections | {"evaluation": bound})
    assert run.json("train_results.json")["global_step"] == 4
    # The weights that keep to the bound are the result.
    results = run.json("eval_results.json")
    assert (results["step"], results["forgetting"]) == (2, pytest.approx(rises[2]))
    assert runs.train("bound", **sections | {"evaluation": bound}, resume="auto") == run
