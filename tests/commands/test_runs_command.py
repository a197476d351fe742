"""`mlmtune runs` on directories of runs in every state."""

import json
from pathlib import Path
from typing import Any

import pytest

from mlmtune.commands.runs import list_runs
from mlmtune.console import Console
from mlmtune.errors import ConfigError
from mlmtune.training.run_dir import open_run_dir


def listed(folder: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, Any]]:
    list_runs(folder, Console(), as_json=True)
    return {Path(run["run"]).name: run for run in json.loads(capsys.readouterr().out)}


def write(path: Path, **content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def test_a_finished_run_has_its_figures(
    runs: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = runs.train("a")
    write(run.path / "report.json", verdicts=[{"label": "improved"}])
    capsys.readouterr()
    found = listed(tmp_path, capsys)["a"]
    results = run.json("eval_results.json")
    assert found["state"] == "finished"
    assert found["step"] == found["max_steps"] == results["step"]
    assert found["perplexity"] == results["perplexity"]
    assert found["perplexity_before"] == results["perplexity_before"]
    assert found["verdict"] == "improved"
    assert found["num_bytes"] > (run.path / "model" / "model.safetensors").stat().st_size
    list_runs(tmp_path, Console(), as_json=False)
    header, line = capsys.readouterr().out.splitlines()
    assert header.split()[:3] == ["run", "state", "step"]
    assert f"{results['perplexity']:,.2f}" in line


def test_a_run_is_killed_if_nobody_holds_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "deep" / "killed" / "status.json", state="running", step=3, max_steps=10)
    write(tmp_path / "failed" / "status.json", state="failed")
    write(tmp_path / "tested" / "status.json", state="finished", step=2, max_steps=2)
    write(tmp_path / "tested" / "test_results.json", accuracy=0.75)
    write(tmp_path / "tested" / "checkpoints" / "inner" / "status.json", state="failed")
    with open_run_dir(tmp_path / "held", may_be_in_use=False) as run:
        run.write_status("running", step=1, max_steps=10)
        found = listed(tmp_path, capsys)
        list_runs(tmp_path, Console(), as_json=False)
    states = {name: run["state"] for name, run in found.items()}
    assert states == {
        "killed": "killed", "failed": "failed", "tested": "finished", "held": "running",
    }  # fmt: skip
    assert found["tested"]["accuracy"] == 0.75
    shown = capsys.readouterr().out
    assert "3 of 10" in shown
    assert "75.0%" in shown


def test_a_folder_without_runs_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there are no runs in it"):
        list_runs(tmp_path, Console(), as_json=False)
    with pytest.raises(ConfigError, match="there is no such folder"):
        list_runs(tmp_path / "none", Console(), as_json=False)
