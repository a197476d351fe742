"""The run's directory: who may write into it, and what it says of the run."""

import json
import math
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from mlmtune.errors import ConfigError, ResourceError, StoppedAtOnce
from mlmtune.files import write_json
from mlmtune.training import loop
from mlmtune.training.run_dir import RunDir, open_run_dir


def test_status_goes_from_running_to_finished(runs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    take_step = loop.take_step

    def spy(*arguments: Any) -> Any:
        seen.append(runs.at().json("status.json"))
        return take_step(*arguments)

    monkeypatch.setattr(loop, "take_step", spy)
    run = runs.train(training={"max_steps": 2})
    assert [status["state"] for status in seen] == ["running", "running"]
    assert [status["step"] for status in seen] == [0, 1]
    assert {status["pid"] for status in seen} == {os.getpid()}
    assert run.json("status.json")["state"] == "finished"


@pytest.mark.parametrize(
    ("error", "state", "exit_code"),
    [
        (ConfigError("a reason"), "failed", 2),
        (ResourceError("a reason"), "failed", 6),
        (RuntimeError("a reason"), "failed", 1),
        (StoppedAtOnce(signal.SIGINT), "interrupted", 130),
        (StoppedAtOnce(signal.SIGTERM), "interrupted", 143),
    ],
)
def test_status_keeps_the_reason(
    runs: Any, monkeypatch: pytest.MonkeyPatch, error: BaseException, state: str, exit_code: int
) -> None:
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(loop, "take_step", fail)
    with pytest.raises(type(error)):
        runs.train()
    status = runs.at().json("status.json")
    assert (status["state"], status["exit_code"]) == (state, exit_code)
    assert str(error) in status["message"]


def test_a_start_that_failed_can_be_repeated(runs: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        runs.train(model={"name_or_path": str(tmp_path / "no-model")})
    assert runs.at().json("status.json")["state"] == "failed"
    runs.train(training={"max_steps": 1})


@pytest.mark.parametrize("name", ["notes.txt", "plots/", "checkpoints/checkpoint-3/", "model/"])
def test_a_directory_with_something_in_it_is_refused(tmp_path: Path, name: str) -> None:
    target = tmp_path / "run" / name
    target.parent.mkdir(parents=True, exist_ok=True)
    target.mkdir() if name.endswith("/") else target.write_text("mine", encoding="utf-8")
    before = sorted((tmp_path / "run").rglob("*"))
    with (
        pytest.raises(ConfigError, match="not empty"),
        open_run_dir(tmp_path / "run", may_be_in_use=False),
    ):
        pytest.fail("opened")
    left = [path for path in sorted((tmp_path / "run").rglob("*")) if path.name != ".lock"]
    assert left == before


def test_the_lock_is_given_back(tmp_path: Path) -> None:
    for _ in range(2):
        with open_run_dir(tmp_path / "run", may_be_in_use=True) as run:
            assert run.checkpoints.is_dir()


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_json_of_no_number_is_refused(tmp_path: Path, number: float) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "x.json", {"perplexity": number})
    assert not list(tmp_path.glob("*.json"))
    run = RunDir(tmp_path)
    with pytest.raises(ValueError, match="JSON"):
        run.append_metrics({"step": 1, "loss": number})
    assert not run.metrics.exists() or run.metrics.read_text(encoding="utf-8") == ""


def test_metrics_of_later_steps_and_half_lines_are_dropped(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    run.drop_metrics_after(3)
    for step in (2, 4, 6):
        run.append_metrics({"step": step})
    with run.metrics.open("a", encoding="utf-8") as file:
        file.write('{"step": 3, "lo')
    assert run.drop_metrics_after(4) == ([{"step": 6}], 1)
    lines = run.metrics.read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["step"] for line in lines] == [2, 4]


def test_broken_json_reads_as_none(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    assert run.read_json("status.json") is None
    for content in ("{", "[1]"):
        (tmp_path / "status.json").write_text(content, encoding="utf-8")
        assert run.read_json("status.json") is None
