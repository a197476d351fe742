"""`mlmtune embed` on real runs of a tiny model, and what stands in its way."""

import errno
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from mlmtune.commands import embed as embed_command
from mlmtune.commands import embed_plan
from mlmtune.commands.embed import embed_model
from mlmtune.commands.embed_plan import plan_embed
from mlmtune.commands.push import push_run
from mlmtune.config_loading import load_config
from mlmtune.corpus.passage_pairs import PassagePairs
from mlmtune.errors import ConfigError, DataError, DivergedError, Interrupted, ResourceError
from mlmtune.training.setup import load_model_and_text

STEPS = 4


def left_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if "embed" in path.name}


def test_a_run_becomes_a_sentence_encoder(
    runs: Any,
    pages: dict[str, Any],
    console: Any,
    here: Any,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = runs.train(corpus=pages, training={"max_steps": 1})
    seen: list[str] = []
    of = PassagePairs.of.__func__  # type: ignore[attr-defined]

    def recorded(cls: Any, texts: Any, seed: int) -> PassagePairs:
        seen[:] = texts
        return of(cls, seen, seed)  # type: ignore[no-any-return]

    monkeypatch.setattr(PassagePairs, "of", classmethod(recorded))
    embed_model(plan_embed(run.path, STEPS, None), console)
    folder = run.path / "embed"
    record = json.loads((folder / "embed.json").read_text(encoding="utf-8"))
    names = [each["model"] for each in record["retrieval"]["measurements"]]
    assert names == ["model", "sentence encoder", "BM25"]
    assert record["retrieval"]["measurements"][1]["change"]["ndcg_at_10"]["value"] != 0
    out = capsys.readouterr().out
    assert re.search(r"^sentence encoder +\d", out, re.MULTILINE)
    assert "BM25" in out

    # Only training documents.
    setup = load_model_and_text(
        load_config(run.path / "config.resolved.yaml"), torch.device("cpu"), "fp32", console
    )
    trained_on = {*setup.splits.train.layout.documents.tolist()}
    texts = [document.text for document in setup.text.read().documents()]
    assert {*seen} == {texts[number] for number in trained_on}
    assert 0 < len(trained_on) < len(texts)

    # As a user would, with the code of the card.
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "library_name: sentence-transformers" in card
    assert "pipeline_tag: sentence-similarity" in card
    code, printed = re.findall(r"```(?:python)?\n(.*?)```", card, re.DOTALL)[:2]
    monkeypatch.chdir(folder)
    exec(compile(code, "card", "exec"), {})
    assert capsys.readouterr().out == printed
    encoder = SentenceTransformer(str(folder))
    assert encoder.max_seq_length == SentenceTransformer(str(run.path / "model")).max_seq_length
    written = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    assert (written["truncation"], written["padding"]) == (None, None)
    weights = encoder.state_dict()

    # Pushed without what it was made of.
    push_run(folder, "finder", is_private=True, console=console)
    pushed = here.repos["someone/finder"].files
    assert {"1_Pooling/config.json", "modules.json", "model.safetensors"} < set(pushed)
    assert "embed.json" not in pushed
    assert b'model = "someone/finder"\nencoder = SentenceTransformer(model)' in pushed["README.md"]

    # The same seed gives the same encoder.
    embed_model(plan_embed(run.path / "model", STEPS, run.path / "other"), console)
    again = SentenceTransformer(str(run.path / "other")).state_dict()
    assert all(torch.equal(weights[name], again[name]) for name in weights)

    # It is the run's own, so a run that replaces it deletes it.
    with pytest.raises(ConfigError, match=r"embed exists already; delete it, or .* --output"):
        plan_embed(run.path, STEPS, None)
    monkeypatch.chdir(run.path.parent)
    runs.train(overwrite=True, corpus=pages, training={"max_steps": 1})
    assert not folder.exists()


def test_nothing_half_written_stays(
    runs: Any, pages: dict[str, Any], console: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = runs.train(corpus=pages, training={"max_steps": 1})
    plan = plan_embed(run.path, 1, None)

    def no_room(self: Any, path: str, **options: Any) -> None:
        (Path(path) / "config.json").write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device", path)

    def stopped(self: Any, path: str, **options: Any) -> None:
        (Path(path) / "config.json").write_text("half")
        raise Interrupted("stopped", 2)

    for save, error, message in (
        (no_room, ResourceError, "No space left .* set --output to another folder"),
        (stopped, Interrupted, "stopped"),
    ):
        monkeypatch.setattr(SentenceTransformer, "save_pretrained", save)
        with pytest.raises(error, match=message):
            embed_model(plan, console)
        assert left_in(run.path) == set()
    monkeypatch.setattr(embed_command, "_rate", lambda step, num_steps: float("nan"))
    with pytest.raises(DivergedError, match="the loss of step 2 is not finite"):
        embed_model(plan_embed(run.path, 2, None), console)


def test_a_batch_that_does_not_fit_is_taken_in_parts(
    runs: Any, pages: dict[str, Any], console: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = runs.train(corpus=pages, training={"max_steps": 1})

    def too_large(*arguments: Any) -> None:
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setattr(embed_command.MultipleNegativesRankingLoss, "forward", too_large)
    embed_model(plan_embed(run.path, 1, None), console)
    assert "a whole batch does not fit into the memory" in "\n".join(console.lines)
    loss = json.loads((run.path / "embed" / "embed.json").read_text("utf-8"))["loss"]
    assert np.isfinite(loss)


def test_a_text_without_pairs_is_refused(runs: Any, console: Any) -> None:
    run = runs.train(training={"max_steps": 1})  # one short passage a document, and no title
    with pytest.raises(DataError, match=r"needs 8 training documents with pairs, and this .* 0;"):
        embed_model(plan_embed(run.path, 1, None), console)
    assert left_in(run.path) == set()


def test_the_extra_and_the_split_are_checked_first(
    runs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="there is no run in it"):
        plan_embed(tmp_path, 1, None)
    run = runs.train(corpus={"split_by": "chunk"}, training={"max_steps": 1})
    with pytest.raises(ConfigError, match="split_by: chunk, so that no documents are kept"):
        plan_embed(run.path, 1, None)
    monkeypatch.setattr(embed_plan, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs sentence-transformers; .*'mlmtune\[embed\]'"):
        plan_embed(tmp_path, 1, None)
