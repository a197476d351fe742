"""`mlmtune push`, and the push at the end of a run."""

import signal

import pytest
from launching import mlmtune
from local_hub import TOKEN

from mlmtune.commands import push as push_command
from mlmtune.commands.push import push_run
from mlmtune.errors import CheckpointError, ConfigError, StoppedAtOnce
from mlmtune.locations import EMBED_RECORD, EXPORT_RECORD, MODEL_RECORDS
from mlmtune.sharing.hub_repository import HERE
from mlmtune.shell import own_command
from mlmtune.training.run_dir import write_model_record


def files_of(run):
    return {path.name for path in (run.path / "model").iterdir()}


def push(path, name="tiny", *, is_private=True, console=None):
    from mlmtune.console import Console

    push_run(path, name, is_private=is_private, console=console or Console())


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
    # The user's way back: the name of the repository instead of a folder.
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


def test_only_the_model_is_pushed_also_where_it_is_named_itself(here, runs):
    run = runs.train(training={"max_steps": 1})
    push(run.path / "model")
    assert set(here.repos["someone/tiny"].files) == {
        "README.md", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip


RECORDS = {
    EXPORT_RECORD: ({"name": "azure", "forms": {"ONNX fp32": "model.onnx"}}, "azure as ONNX fp32"),
    EMBED_RECORD: (
        {"name": "azure", "num_steps": 100}, "azure as a sentence encoder, 100 steps"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", RECORDS)
def test_what_was_made_of_a_model_is_pushed_without_its_record(here, tmp_path, name):
    folder, (record, title) = tmp_path / "made", RECORDS[name]
    (folder / "1_Pooling").mkdir(parents=True)
    (folder / "1_Pooling" / "config.json").write_text("{}", encoding="utf-8")
    write_model_record(folder, name, record | {"model": str(tmp_path / "secret-project")})
    (folder / "README.md").write_text(f"{HERE}\n", encoding="utf-8")  # people edit it
    push(folder)
    repo = here.repos["someone/tiny"]
    assert repo.private
    assert repo.commits[-1]["summary"] == title
    assert set(repo.files) == {"README.md", "1_Pooling/config.json"}
    assert repo.files["README.md"] == b'model = "someone/tiny"\n'
    (folder / "1_Pooling" / "config.json").write_text("{ }", encoding="utf-8")
    told = rf"made: 1_Pooling/config.json has 3 bytes instead of 2; .* run {MODEL_RECORDS[name]} "
    with pytest.raises(CheckpointError, match=told):
        push(folder)
    (folder / name).write_text("{}", encoding="utf-8")
    with pytest.raises(CheckpointError, match=f"{name} is broken; delete the folder"):
        push(folder)


def test_a_folder_is_pushed_without_the_models_inside_that_were_made_of_it(here, runs):
    """An export of a merged model lies in the folder of that model."""
    merged = runs.at().path
    (merged / "onnx").mkdir(parents=True)
    (merged / "config.json").write_text("{}", encoding="utf-8")
    (merged / "onnx" / "model.onnx").write_bytes(b"graph")
    write_model_record(merged, "merge.json", {"choice": {"alpha": 0.5}})
    write_model_record(merged / "onnx", EXPORT_RECORD, RECORDS[EXPORT_RECORD][0])
    push(merged)
    assert set(here.repos["someone/tiny"].files) == {"config.json"}


@pytest.mark.parametrize("what", ["nothing", "unfinished", "without a model"])
def test_what_is_no_finished_run_is_not_pushed(here, runs, what):
    path = runs.at().path
    if what == "unfinished":
        status = runs.train(training={"max_steps": 1}).path / "status.json"
        status.write_text('{"state": "running", "step": 1, "max_steps": 6}', encoding="utf-8")
    elif what == "without a model":
        (runs.train(training={"max_steps": 1}).path / "model" / "config.json").unlink()
    told = {"nothing": "no run in it", "unfinished": "is not finished",
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
    assert (
        'model = "someone/sorter"\nclassify = pipeline("text-classification", model=model)' in card
    )


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
