"""`mlmtune merge` on real runs of a tiny model, and what stands in its way."""

import errno
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForMaskedLM, AutoTokenizer, BertModel

from mlmtune.commands import merge as merge_command
from mlmtune.commands.merge import merge_runs
from mlmtune.commands.merge_grid import plan_merge
from mlmtune.commands.push import push_run
from mlmtune.config_loading import load_config
from mlmtune.errors import CheckpointError, ConfigError, ResourceError, explain
from mlmtune.merging.interpolation import Interpolation
from mlmtune.report.runs import read_finished_run
from mlmtune.training.run_dir import (
    RESOLVED_CONFIG,
    RunDir,
    open_run_dir,
    reading_finished_run,
)

Merging = Callable[..., dict[str, Any]]


@pytest.fixture
def merge(console: Any) -> Merging:
    """Merges runs, and returns the content of merge.json."""

    def run(
        *paths: Path,
        others: tuple[Path, ...] = (),
        alphas: str | None = None,
        alpha: float | None = None,
        out: Path | None = None,
        overrides: tuple[str, ...] = (),
    ) -> dict[str, Any]:
        runs = [read_finished_run(path) for path in paths]
        compared = [read_finished_run(path) for path in others]
        plan = plan_merge(list(paths), list(others), alphas, alpha, out)
        merge_runs(runs, compared, list(overrides), plan, console)
        return json.loads((plan.target / "merge.json").read_text(encoding="utf-8"))

    return run


@pytest.fixture
def general(tmp_path: Path) -> dict[str, Any]:
    folder = tmp_path / "general"
    write_text(folder, 12, seed=0)
    return {"format": "text", "path": str(folder), "name": "general"}


def write_text(folder: Path, num_documents: int, seed: int) -> None:
    folder.mkdir()
    draw = np.random.default_rng(seed)
    words = ["the", "key", "of", "a", "table", "is", "in", "the", "vault"]
    for number in range(num_documents):
        (folder / f"{number:02}.txt").write_text(" ".join(draw.choice(words, size=40)))


def losses(findings: dict[str, Any], text: str = "domain") -> dict[float, float]:
    return {point["alpha"]: point[text]["loss"]["value"] for point in findings["points"]}


def test_the_curve_goes_from_the_base_to_the_run_and_its_choice_loads(
    runs: Any, merge: Merging, general: dict[str, Any], console: Any
) -> None:
    run = runs.train(evaluation={"general": [general]})
    findings = merge(run.path)
    results = run.json("eval_results.json")
    domain, of_general = losses(findings), losses(findings, "general")
    assert list(domain) == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert domain[0.0] == pytest.approx(results["loss_before"], rel=1e-6)
    assert domain[1.0] == pytest.approx(results["loss"], rel=1e-6)
    forgetting = of_general[1.0] - of_general[0.0]
    assert forgetting == pytest.approx(results["forgetting"], abs=1e-6)
    last = findings["points"][-1]
    assert last["general"]["change"]["loss"]["value"] == pytest.approx(forgetting)
    best = min(domain, key=lambda alpha: domain[alpha])
    for point in findings["points"]:
        if point["alpha"] == best:
            assert point["behind_best"] is None
        else:
            behind = point["domain"]["loss"]["value"] - domain[best]
            assert point["behind_best"]["value"] == pytest.approx(behind)

    folder, alpha = run.path / "merged", findings["choice"]["alpha"]
    model = AutoModelForMaskedLM.from_pretrained(folder)
    AutoTokenizer.from_pretrained(folder)
    own = AutoModelForMaskedLM.from_pretrained(run.path / "model").state_dict()
    base = AutoModelForMaskedLM.from_pretrained(
        load_config(run.path / RESOLVED_CONFIG).model.name_or_path
    ).state_dict()
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, (1 - alpha) * base[name] + alpha * own[name])
    names = {path.name for path in (run.path / "model").iterdir()}
    assert {path.name for path in folder.iterdir()} - names == {"merge.json", "merge.html"}
    assert not [line for line in console.lines if "no model card" in line]
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert f"{1 - alpha:g} x base + {alpha:g} x adapted" in card
    assert findings["choice"]["rule"] in card
    for measured in ("domain", "general"):
        chosen = next(p for p in findings["points"] if p["alpha"] == alpha)
        assert f"{chosen[measured]['perplexity']['value']:,.2f}" in card
    page = (folder / "merge.html").read_text(encoding="utf-8")
    assert not re.search(r"""<script|(src|href)\s*=|url\(|@import""", page)
    charts = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(charts) == 1
    assert "loss on general text: change, nats per token" in charts[0]
    for chart in charts:
        ElementTree.fromstring(chart)
    assert not list(run.path.glob(".*writing*"))
    # It is the run's own, so a run that replaces it deletes it, and its model is as before.
    read_finished_run(run.path)
    runs.train(overwrite=True)
    assert not folder.exists()


def test_a_merged_model_is_pushed_with_its_card_and_without_paths(
    here: Any, runs: Any, merge: Merging, tmp_path: Path, console: Any
) -> None:
    run, out = runs.train(), tmp_path / "half"
    merge(run.path, alpha=0.5)
    merge(run.path, alpha=0.5, out=out)
    folder = run.path / "merged"
    push_run(folder, "both", is_private=True, console=console)
    push_run(out, "half", is_private=True, console=console)
    repository = here.repos["someone/both"]
    assert repository.private
    assert set(repository.files) == {file.name for file in (run.path / "model").iterdir()}
    assert repository.files["model.safetensors"] == (out / "model.safetensors").read_bytes()
    card = repository.files["README.md"].decode()
    assert str(tmp_path) not in card
    assert 'model = "someone/both"\n' in card
    curve = [line for line in card.splitlines() if re.match(r"\| (0|0.5 \(written\)|1) \| ", line)]
    assert len(curve) == 3
    with pytest.raises(ConfigError, match=r"merged: holds a merged model, and not a run; merge.ht"):
        read_finished_run(folder)
    (out / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"half: config.json has 2 bytes .* mlmtune merge"):
        push_run(out, "half", is_private=True, console=console)
    (out / "merge.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"half: merge.json is broken; delete the folder"):
        push_run(out, "half", is_private=True, console=console)


def test_a_given_alpha_is_written_without_a_choice(
    runs: Any, merge: Merging, tmp_path: Path
) -> None:
    run, out = runs.train(), tmp_path / "new" / "half"
    findings = merge(run.path, alpha=0.5, out=out)
    assert list(losses(findings)) == [0.0, 0.5, 1.0]
    assert findings["choice"]["alpha"] == 0.5
    assert all(point["general"] is None for point in findings["points"])
    assert not torch.equal(
        load_file(out / "model.safetensors")["cls.predictions.bias"],
        run.weights["cls.predictions.bias"],
    )


def test_general_text_may_be_named_afterwards(
    runs: Any, merge: Merging, general: dict[str, Any]
) -> None:
    named = f"evaluation.general={json.dumps(general)}"
    findings = merge(runs.train().path, alphas="0.5", overrides=(named,))
    assert list(losses(findings, "general")) == [0.0, 0.5, 1.0]


def test_several_runs_are_averaged(runs: Any, merge: Merging, tmp_path: Path) -> None:
    first = runs.train("first")
    second = runs.train("second", optimizer={"learning_rate": 0.01})
    findings = merge(first.path, second.path, alpha=1.0, out=tmp_path / "soup")
    assert findings["runs"] == [str(first.path), str(second.path)]
    one, other = first.weights, second.weights
    for name, tensor in load_file(tmp_path / "soup" / "model.safetensors").items():
        torch.testing.assert_close(tensor, (one[name] + other[name]) / 2)


def test_another_run_is_measured_beside_the_merged_models(
    runs: Any, merge: Merging, general: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    evaluation = {"general": [general]}
    run = runs.train("run", evaluation=evaluation)
    other = runs.train("other", evaluation=evaluation, optimizer={"learning_rate": 0.01})
    findings = merge(run.path, others=(other.path,), alpha=0.5)
    [beside] = findings["others"]
    assert beside["name"] == "other"
    assert beside["domain"]["loss"]["value"] == pytest.approx(
        other.json("eval_results.json")["loss"]
    )
    written = next(point for point in findings["points"] if point["alpha"] == 0.5)
    for text in ("domain", "general"):
        expected = beside[text]["loss"]["value"] - written[text]["loss"]["value"]
        assert beside[f"against_{text}"]["value"] == pytest.approx(expected)
        low, high = beside[f"against_{text}"]["interval"]
        assert low <= expected <= high
    assert "\nother, minus the model that is written: " in capsys.readouterr().out
    [chart] = re.findall(r"<svg.*?</svg>", (run.path / "merged" / "merge.html").read_text("utf-8"))
    labels = re.findall(r'<text (?:class="end" )?x="[\d.]+" y="[\d.]+">(.*?)</text>', chart)
    assert labels == ["0", "0.5 (written)", "1", "other"]


def test_a_base_without_a_head_has_the_runs(
    runs: Any, merge: Merging, model_dir: Path, tokenizer: Any, tmp_path: Path, console: Any
) -> None:
    base = tmp_path / "headless"
    BertModel.from_pretrained(model_dir).save_pretrained(base)
    tokenizer.save_pretrained(base)
    pages = tmp_path / "pages"
    write_text(pages, 50, seed=1)
    sources = [{"format": "text", "path": str(pages)}]
    run = runs.train(
        model={"name_or_path": str(base)}, corpus={"sources": sources, "validation_fraction": 0.5}
    )
    findings = merge(run.path, alphas="0.5")
    assert findings["has_new_head"]
    # What such a base can forget is how to embed text.
    assert "whose retrieval is not clearly worse" in findings["choice"]["rule"]
    scores = {}
    for point in findings["points"]:
        scores[point["alpha"]] = point["retrieval"]["measures"]["ndcg_at_10"]["value"]
    best = max(scores, key=lambda alpha: scores[alpha])
    for point in findings["points"][1:]:
        change = point["retrieval"]["change"]["ndcg_at_10"]["value"]
        assert change == pytest.approx(scores[point["alpha"]] - scores[0.0])
        if point["alpha"] != best:
            behind = point["behind_best_retrieval"]["value"]
            assert behind == pytest.approx(scores[point["alpha"]] - scores[best])
    page = (run.path / "merged" / "merge.html").read_text(encoding="utf-8")
    assert "change of nDCG at 10, points" in page
    card = (run.path / "merged" / "README.md").read_text(encoding="utf-8")
    assert "| validation documents found (nDCG at 10) |" in card
    [line] = [line for line in console.lines if "which are taken from the runs" in line]
    assert f"{base} lacks" in line
    merged = load_file(run.path / "merged" / "model.safetensors")
    assert findings["new_weights"]
    for name in findings["new_weights"]:
        assert torch.equal(merged[name], run.weights[name])


# ------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("alphas", "alpha", "message"),
    [
        ("0,1.5", None, "--alphas: 1.5 is not a number from 0"),
        ("0,half", None, "--alphas: half is not a number"),
        ("", None, "--alphas: an empty value is not a number"),
        (None, float("nan"), "--alpha: nan is not a number"),
        (None, -0.1, r"--alpha: -0.1 is not a number"),
        ("0.5", 0.5, "--alphas and --alpha contradict each other"),
    ],
)
def test_alphas_are_shares(
    tmp_path: Path, alphas: str | None, alpha: float | None, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        plan_merge([tmp_path], [], alphas, alpha, None)


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "merged").mkdir()
    with pytest.raises(ConfigError, match=r"merged exists already; delete it, or .* --out"):
        plan_merge([tmp_path], [], None, None, None)


def test_a_damaged_weight_file_is_named(runs: Any, merge: Merging) -> None:
    run = runs.train()
    file = run.path / "model" / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model.safetensors does not match its checksum"):
        merge(run.path)


def test_no_run_replaces_what_is_merged_and_what_a_run_uses_is_not_merged(
    runs: Any, merge: Merging, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = runs.train()
    begin = merge_command.measure_curve
    refused = []

    def measure(*arguments: Any) -> Any:
        for options in ({"resume": "auto"}, {"overwrite": True}):
            with pytest.raises(ConfigError) as caught:
                runs.train(**options)
            refused.append(str(caught.value))
        with pytest.raises(ConfigError, match=r"\(a run that begins, or mlmtune merge\)"):
            merge(run.path, out=run.path / "another")
        return begin(*arguments)

    monkeypatch.setattr(merge_command, "measure_curve", measure)
    merge(run.path, alphas="0.5")
    assert len(refused) == 2
    for line in refused:
        assert re.search(r"run: another process .*mlmtune merge.* is using it; wait for it", line)
    with open_run_dir(run.path, may_be_in_use=True) as held:
        held.write_status("running")
        with pytest.raises(ConfigError, match=r"another run \(process \d+\) is writing here"):
            merge(run.path, out=run.path / "another")
    run.path.joinpath("status.json").write_text('{"state": "running"}')
    with (
        pytest.raises(ConfigError, match="the run in it was begun again"),
        reading_finished_run(run.path),
    ):
        pass


def test_a_run_is_given_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="run is given twice"):
        plan_merge([tmp_path / "run"], [tmp_path / "a" / ".." / "run"], None, None, None)


def test_runs_of_different_bases_are_refused(
    runs: Any, merge: Merging, byte_model_dir: Path, tmp_path: Path
) -> None:
    first = runs.train("first")
    second = runs.train("second", model={"name_or_path": str(byte_model_dir)})
    with pytest.raises(ConfigError, match=r"second: its base is .*; give runs of one base"):
        merge(first.path, second.path, out=tmp_path / "soup")


def copied(model_dir: Path, folder: Path) -> Path:
    AutoModelForMaskedLM.from_pretrained(model_dir).save_pretrained(folder)
    AutoTokenizer.from_pretrained(model_dir).save_pretrained(folder)
    return folder


def test_a_base_that_is_gone_or_has_changed_is_refused(
    runs: Any, merge: Merging, model_dir: Path, byte_model_dir: Path, tmp_path: Path
) -> None:
    base = copied(model_dir, tmp_path / "base")
    run = runs.train(model={"name_or_path": str(base)})
    model = AutoModelForMaskedLM.from_pretrained(base)
    with torch.no_grad():
        model.cls.predictions.bias.add_(torch.arange(len(model.cls.predictions.bias)))
    model.save_pretrained(base)
    with pytest.raises(ConfigError, match=r"base has changed since .* \(perplexity .* restore"):
        merge(run.path)
    assert not (run.path / "merged").exists()
    content = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(content | {"model_type": "roberta"}))
    with pytest.raises(ConfigError, match=r"its architecture is bert, and that of .* is roberta"):
        merge(run.path)
    for file in base.iterdir():
        file.unlink()
    for file in byte_model_dir.iterdir():
        (base / file.name).write_bytes(file.read_bytes())
    with pytest.raises(ConfigError, match="its tokenizer is not that of its base"):
        merge(run.path)
    base.rename(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match=r"there is no folder .*base"):
        merge(run.path)


def test_a_full_disk_leaves_nothing(
    runs: Any, merge: Merging, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = runs.train()

    def full(weights: Interpolation, folder: Path, alpha: float) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Interpolation, "write", full)
    with pytest.raises(ResourceError) as caught:
        merge(run.path)
    message, code = explain(caught.value)
    assert code == 6
    assert re.search(r"run/merged: cannot be written \(No space left .*--out", message)
    assert not [path for path in run.path.iterdir() if "merged" in path.name]


def test_a_run_that_is_not_finished_is_refused(runs: Any, merge: Merging) -> None:
    run = runs.train()
    RunDir(run.path).write_status("interrupted", step=3, max_steps=6)
    with pytest.raises(ConfigError, match="stopped at step 3 of 6"):
        merge(run.path)
