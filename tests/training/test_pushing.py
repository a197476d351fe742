import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from launching import TIMEOUT_SECONDS, environment
from local_hub import READ_ONLY_TOKEN, TOKEN

from mlmtune.commands.push import push_run
from mlmtune.errors import HubError, StoppedAtOnce
from mlmtune.sharing import hub_repository
from mlmtune.training import loop, pushing
from mlmtune.training.run_dir import RunDir


def files_of(run):
    return {path.name for path in (run.path / "model").iterdir()}


def test_a_token_that_may_not_write_is_told_before_training(here, runs, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", READ_ONLY_TOKEN)
    with pytest.raises(HubError, match=r"hub.hub_model_id: tiny: .*may not write there"):
        runs.train(hub={"hub_model_id": "tiny"})
    assert runs.at().checkpoint_steps == []


def test_a_hub_that_is_away_does_not_keep_a_run_from_starting(here, runs, capsys):
    here.fail("POST .*/create", 503, times=100)
    run = runs.train(hub={"hub_model_id": "tiny", "push": "evaluation"})
    assert "training goes on, and pushes at the end" in capsys.readouterr().out
    assert run.json("status.json")["state"] == "finished"
    with pytest.raises(HubError, match="nothing was pushed"):
        push(run.path)


def push(path, name="tiny", *, is_private=True, console=None):
    from mlmtune.console import Console

    push_run(path, name, is_private=is_private, console=console or Console())


@pytest.mark.parametrize("export", ["best", "last"])
def test_each_evaluation_is_pushed_while_training_goes_on(here, runs, export):
    sections = {"hub": {"hub_model_id": "tiny", "push": "evaluation"}, "model": {"dropout": 0.3},
                "checkpoint": {"every": None, "export": export, "keep": 9}}  # fmt: skip
    run = runs.train(evaluation={"every": 1}, **sections)
    commits = here.repos["someone/tiny"].commits
    pushed = [int(commit["summary"].removeprefix("step ")) for commit in commits]
    assert pushed
    assert pushed == sorted(set(pushed))
    assert max(pushed) < 6  # the end is pushed by the command
    files = here.repos["someone/tiny"].files
    assert set(files) == files_of(run)
    # The rates of the base, and not those that the run was trained with.
    assert json.loads(files["config.json"]) == run.json("model/config.json")
    assert run.json("model/config.json")["hidden_dropout_prob"] == 0.0
    assert not list(run.path.glob(".writing-*"))


def test_what_is_pushed_on_the_way_is_the_checkpoint_of_that_step(here, runs, monkeypatch):
    """Slow pushes: one at a time, and what comes meanwhile is left out, and told."""
    pushed = {}
    begun, may_end = threading.Event(), threading.Event()
    push_folder = pushing.push_folder

    def slowly(repository, folder, message, say):
        begun.set()
        assert may_end.wait(60)
        commit = push_folder(repository, folder, message, say)
        pushed[message] = here.repos["someone/tiny"].files["model.safetensors"]
        return commit

    monkeypatch.setattr(pushing, "push_folder", slowly)

    evaluate = loop.evaluate

    def release_and_evaluate(task, learner, state, stop):
        if state.step == 5:
            assert begun.is_set()
            may_end.set()
        return evaluate(task, learner, state, stop)

    monkeypatch.setattr(loop, "evaluate", release_and_evaluate)
    run = runs.train(
        evaluation={"every": 1}, hub={"hub_model_id": "tiny", "push": "evaluation"},
        checkpoint={"every": 1, "export": "last", "keep": 1},
    )  # fmt: skip
    other = runs.train("other", training={"max_steps": 6}, evaluation={"every": 1},
                       checkpoint={"every": 1, "keep": 9})  # fmt: skip
    for message, content in pushed.items():
        step = int(message.removeprefix("step "))
        assert content == (other.checkpoint(step) / "model.safetensors").read_bytes()
    assert "step 1" in pushed  # though its checkpoint was deleted meanwhile
    assert run.checkpoint_steps == [6]


def test_a_push_that_fails_on_the_way_is_told_and_the_run_goes_on(here, runs, capsys):
    here.fail("POST .*/commit/", 400, times=1)
    run = runs.train(
        evaluation={"every": 3}, hub={"hub_model_id": "tiny", "push": "evaluation"},
        checkpoint={"export": "last"},
    )  # fmt: skip
    said = capsys.readouterr().out
    assert "the push after step 3 failed" in said
    assert "training goes on" in said
    assert run.json("status.json")["state"] == "finished"
    push(run.path)
    assert here.repos["someone/tiny"].files["model.safetensors"] == run.model_bytes


def test_a_stopped_run_does_not_wait_for_its_push(hub, runs):
    hub.fail("PUT /blobs/", None, times=10_000)  # it would try again for minutes
    hub.fail("GET .*xet-write-token", 404, times=10_000)
    config = runs.config(
        hub={"hub_model_id": "tiny", "push": "evaluation"}, evaluation={"every": 1},
        training={"max_steps": 100_000}, checkpoint={"export": "last"},
    )  # fmt: skip
    child = subprocess.Popen(
        [sys.executable, "-m", "mlmtune", "train", "--config", str(config)],
        env=environment(HF_ENDPOINT=hub.endpoint, HF_HUB_OFFLINE="0", HF_TOKEN=TOKEN),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while not hub.count("PUT", "/blobs/") and time.monotonic() < deadline:
            time.sleep(0.1)
        os.kill(child.pid, signal.SIGINT)
        out, _ = child.communicate(timeout=30)
    finally:
        child.kill()
    assert child.returncode == 130, out
    assert "resume with the same command and --resume auto" in out
    assert hub.repos["someone/tiny"].files == {}


def test_files_that_cannot_be_linked_are_copied(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError("no links here")

    monkeypatch.setattr(pushing.os, "link", refuse)
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    for name in ("config.json", "state.json", "optimizer.safetensors"):
        (checkpoint / name).write_text(name, encoding="utf-8")
    push = pushing.BackgroundPush(
        hub_repository.HubRepository("a/b", True), RunDir(tmp_path), print
    )
    copied = push.copy(checkpoint)
    assert [file.name for file in Path(copied).iterdir()] == ["config.json"]


def test_a_refused_token_leaves_the_run_that_was_to_be_replaced(here, runs, monkeypatch):
    before = runs.train(training={"max_steps": 1}).model_bytes
    monkeypatch.setenv("HF_TOKEN", READ_ONLY_TOKEN)
    with pytest.raises(HubError, match="may not write"):
        runs.train(hub={"hub_model_id": "tiny"}, overwrite=True)
    assert runs.at().model_bytes == before


def test_what_stops_the_wait_for_a_push_takes_nothing_back_from_a_result(here, runs, monkeypatch):
    def stopped(*_):
        raise StoppedAtOnce(signal.SIGINT)

    monkeypatch.setattr(pushing.BackgroundPush, "wait", stopped)
    with pytest.raises(StoppedAtOnce):
        runs.train(
            training={"max_steps": 2}, evaluation={"every": 1},
            hub={"hub_model_id": "tiny", "push": "evaluation"},
        )  # fmt: skip
    assert runs.at().json("status.json")["state"] == "finished"
    push(runs.at().path)


def test_a_copy_that_cannot_be_written_is_no_end(here, runs, monkeypatch, capsys):
    def full(*_):
        raise OSError("no space left")

    monkeypatch.setattr(pushing.BackgroundPush, "copy", full)
    run = runs.train(
        evaluation={"every": 3}, hub={"hub_model_id": "tiny", "push": "evaluation"},
        checkpoint={"export": "last"},
    )  # fmt: skip
    assert "step 3 is not pushed: its copy cannot be written" in capsys.readouterr().out
    assert run.json("status.json")["state"] == "finished"
