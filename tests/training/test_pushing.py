import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from huggingface_hub import constants
from launching import TIMEOUT_SECONDS, environment
from local_hub import READ_ONLY_TOKEN, TOKEN, serving

from mlmtune.commands import push as push_command
from mlmtune.commands.push import push_run
from mlmtune.errors import CheckpointError, ConfigError, HubError, StoppedAtOnce
from mlmtune.sharing import hub_repository
from mlmtune.shell import own_command
from mlmtune.training import loop, pushing
from mlmtune.training.run_dir import RunDir


@pytest.fixture
def hub():
    with serving() as local:
        yield local


@pytest.fixture
def here(hub, monkeypatch):
    """The hub is that of this process, which does not wait between attempts."""
    monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(hub_repository, "WAITS_SECONDS", (0.0, 0.0))
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    return hub


def mlmtune(*arguments, hub, **variables):
    """The command in a process of its own; the hub is the local one."""
    return subprocess.run(
        [sys.executable, "-m", "mlmtune", *map(str, arguments)],
        env=environment(HF_ENDPOINT=hub.endpoint, HF_HUB_OFFLINE="0", HF_TOKEN=TOKEN, **variables),
        capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False,
    )  # fmt: skip


def files_of(run):
    return {path.name for path in (run.path / "model").iterdir()}


def test_a_run_is_pushed_at_its_end_and_loads_from_there(hub, runs, tmp_path):
    config = runs.config(hub={"hub_model_id": "tiny"}, training={"max_steps": 2})
    cache = str(tmp_path / "hf")
    done = mlmtune("train", "--config", config, "--no-report", hub=hub, HF_HOME=cache)
    assert done.returncode == 0, done.stderr
    run, repo = runs.at(), hub.repos["someone/tiny"]
    assert repo.private
    assert repo.files["model.safetensors"] == run.model_bytes
    assert set(repo.files) == files_of(run)
    assert f"pushed to {hub.endpoint}/someone/tiny, commit {repo.sha[:8]}" in done.stdout
    # The user's way back: the name of the repository in the place of a folder.
    filled = mlmtune(
        "fill", "--model", "someone/tiny", "start the [MASK] now", hub=hub, HF_HOME=cache
    )
    assert filled.returncode == 0, filled.stderr
    there = mlmtune("fill", "--model", run.path / "model", "start the [MASK] now", hub=hub)
    assert filled.stdout.splitlines()[-5:] == there.stdout.splitlines()[-5:]


def test_a_push_that_fails_loses_nothing_and_says_how_to_retry(hub, runs):
    config = runs.config(hub={"hub_model_id": "lab/tiny"}, training={"max_steps": 2})
    hub.fail("POST .*/preupload/", 400, times=100, message="the disk of the hub is full")
    failed = mlmtune("train", "--config", config, "--no-report", hub=hub)
    run = runs.at()
    assert failed.returncode == 7
    *_, line = failed.stderr.strip().splitlines()
    assert "HTTP status 400" in line
    assert f"the model is whole in {run.path / 'model'}" in line
    retry = line.partition("To try again: ")[2]
    assert retry == own_command("push", run.path, "--repo", "lab/tiny")
    assert run.json("status.json")["state"] == "finished"
    hub.faults.clear()
    again = mlmtune(*retry.removeprefix(own_command()).split(), hub=hub)
    assert again.returncode == 0, again.stderr
    assert hub.repos["lab/tiny"].files["model.safetensors"] == run.model_bytes


def test_the_same_command_pushes_what_a_complete_run_has_not(hub, runs):
    """A scheduler starts it again with --resume auto."""
    runs.train(training={"max_steps": 2})
    config = runs.config(hub={"hub_model_id": "tiny"}, training={"max_steps": 2})
    done = mlmtune("train", "--config", config, "--resume", "auto", hub=hub)
    assert done.returncode == 0, done.stderr
    assert "is already complete" in done.stdout
    assert hub.repos["someone/tiny"].files["model.safetensors"] == runs.at().model_bytes


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
    sections = {"hub": {"hub_model_id": "tiny", "push": "evaluation"},
                "checkpoint": {"every": None, "export": export, "keep": 9}}  # fmt: skip
    run = runs.train(evaluation={"every": 1}, **sections)
    commits = here.repos["someone/tiny"].commits
    pushed = [int(commit["summary"].removeprefix("step ")) for commit in commits]
    assert pushed
    assert pushed == sorted(set(pushed))
    assert max(pushed) < 6  # the end is pushed by the command
    assert set(here.repos["someone/tiny"].files) == files_of(run)
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


def test_only_the_model_is_pushed_also_where_it_is_named_itself(here, runs):
    run = runs.train(training={"max_steps": 1})
    push(run.path / "model")
    assert set(here.repos["someone/tiny"].files) == {
        "README.md", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip


@pytest.mark.parametrize("what", ["nothing", "unfinished", "without a model"])
def test_what_is_no_finished_run_is_not_pushed(here, runs, stopping_after, what):
    path = runs.at().path
    if what == "unfinished":
        with stopping_after(2), pytest.raises(Exception, match="SIGTERM"):
            runs.train()
    elif what == "without a model":
        (runs.train(training={"max_steps": 1}).path / "model" / "config.json").unlink()
    told = {"nothing": "no run in it", "unfinished": "did not come to its end",
            "without a model": "model/config.json is missing"}  # fmt: skip
    with pytest.raises((ConfigError, CheckpointError), match=told[what]):
        push(path)
    assert here.requests == []


def test_what_decides_where_it_goes_is_shown_without_the_token(here, runs, monkeypatch, console):
    run = runs.train(training={"max_steps": 1})
    monkeypatch.setenv("HF_ENDPOINT", "https://me:secret@mirror")
    push(run.path, console=console)
    [notes] = [line for line in console.lines if line.startswith("the hub is")]
    assert "HF_ENDPOINT=https://mirror" in notes
    assert "HF_TOKEN is set" in notes
    assert TOKEN not in "".join(console.lines)


def test_a_finetuned_classifier_is_pushed_too(hub, tasks):
    config = tasks.config(hub={"hub_model_id": "sorter"})
    done = mlmtune("finetune", "--config", config, hub=hub)
    assert done.returncode == 0, done.stderr
    card = hub.repos["someone/sorter"].files["README.md"].decode()
    assert 'pipeline("text-classification", model="someone/sorter")' in card


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


def test_several_processes_push_once_and_exit_as_one_does(hub, runs):
    config = runs.config(
        hub={"hub_model_id": "tiny", "push": "evaluation"}, training={"max_steps": 4},
        evaluation={"every": 1}, checkpoint={"export": "last"},
        tracking={"with": ["tensorboard"]},
    )  # fmt: skip
    hub.fail("POST .*/commit/", 403, times=100)
    failed = mlmtune("train", "--config", config, "--nproc", 2, "--no-report", hub=hub)
    assert failed.returncode == 7, failed.stderr
    assert failed.stderr.count(f"To try again: {own_command('push')} ") == 1
    assert hub.count("POST", "/create") == 2  # before the first step, and at the end
    assert len(list(runs.at().path.glob("tensorboard/run/events*"))) == 1
    assert runs.at().json("status.json")["state"] == "finished"


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


def test_a_stop_during_the_last_push_says_how_to_push(here, runs, monkeypatch, console):
    run = runs.train(training={"max_steps": 1})

    def stopped(*_):
        raise StoppedAtOnce(signal.SIGINT)

    monkeypatch.setattr(push_command, "push_folder", stopped)
    with pytest.raises(StoppedAtOnce):
        push(run.path, console=console)
    assert console.lines[-1].endswith(
        f"to push it: {own_command('push', run.path, '--repo', 'tiny')}"
    )


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
