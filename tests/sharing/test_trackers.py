import json
import sqlite3
from typing import get_args

import numpy as np
import pytest
import yaml
from accelerate import PartialState
from accelerate.tracking import LOGGER_TYPE_TO_CLASS

from mlmtune.config import TrackerName, TrackingConfig
from mlmtune.console import Console
from mlmtune.evaluation.retrieval import Retrieval
from mlmtune.sharing import trackers
from mlmtune.sharing.trackers import TRACKERS, TrackedRun, Trackers, flattened
from mlmtune.shell import pip_install

SETTINGS = {
    "run": {"output_dir": "runs/a", "seed": 7},
    "corpus": {"sources": [{"path": "docs", "weight": 1.0}]},
    "optimizer": {"learning_rate": 5e-5},
    "evaluation": {"examples": [], "max_chunks": None},
    "training": {"compile": False},
}
RECORD = {"step": 3, "epoch": 0.5, "loss": 2.5, "learning_rate": 1e-4, "grad_norm": None}
EVALUATION = {"step": 3, "epoch": 0.5, "eval_loss": 2.0, "eval_perplexity_interval": [6.0, 9.0]}
RESULTS = {"train_loss": 2.25, "eval_per_label": {"good": {"f1": 0.5}}, "eval_is_new": True}


@pytest.fixture
def run(tmp_path):
    PartialState()  # a run has joined its processes; trackers log through Accelerate
    return TrackedRun("the project", "the run", tmp_path / "run", "0123456789abcdef", 0)


def track(console, run, *names, steps=(3,)):
    tracked = Trackers(console)
    tracked.start(TrackingConfig(**{"with": list(names)}), run, SETTINGS)
    for step in steps:
        tracked.log({**RECORD, "step": step})
        tracked.log({**EVALUATION, "step": step})
    tracked.log_results(RESULTS, steps[-1])
    tracked.finish()


def test_the_names_are_those_of_accelerate_and_of_the_config():
    assert set(TRACKERS) == set(get_args(TrackerName))
    assert set(TRACKERS) == {str(name) for name in LOGGER_TYPE_TO_CLASS}


def read_tensorboard(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = run.folder / "tensorboard" / run.name
    events = EventAccumulator(str(folder))
    events.Reload()
    scalars = {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }
    [hyperparameters] = folder.glob("*/hparams.yml")
    return scalars, yaml.safe_load(hyperparameters.read_text(encoding="utf-8"))


def test_tensorboard_has_every_value_and_every_metric(console, run):
    track(console, run, "tensorboard")
    scalars, settings = read_tensorboard(run)
    assert settings == {
        "run.output_dir": "runs/a", "run.seed": 7, "corpus.sources.0.path": "docs",
        "corpus.sources.0.weight": 1.0, "optimizer.learning_rate": 5e-5,
        "evaluation.max_chunks": None, "training.compile": False,
    }  # fmt: skip
    assert {tag: values for tag, values in scalars.items() if "learning" not in tag} == {
        "train/epoch": [(3, 0.5)],
        "eval/epoch": [(3, 0.5)],
        "train/loss": [(3, 2.5)],
        "eval/loss": [(3, 2.0)],
        "eval/perplexity_interval.0": [(3, 6.0)],
        "eval/perplexity_interval.1": [(3, 9.0)],
        "result/train_loss": [(3, 2.25)],
        "result/eval_per_label.good.f1": [(3, 0.5)],
        "result/eval_is_new": [(3, 1.0)],
    }
    assert console.lines == [
        f"tracked by tensorboard; to see it: tensorboard --logdir {run.folder / 'tensorboard'}"
    ]


def test_tensorboard_shows_the_steps_that_were_taken_again_once(console, run):
    track(console, run, "tensorboard", steps=(1, 2, 3))
    resumed = TrackedRun(run.project, run.name, run.folder, run.id, 2)
    again = Trackers(console)
    again.start(TrackingConfig(**{"with": ["tensorboard"]}), resumed, {})
    again.log({"step": 3, "loss": 1.5})
    again.finish()
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run.folder / "tensorboard" / run.name))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("train/loss")] == [(1, 2.5), (2, 2.5),
                                                                        (3, 1.5)]  # fmt: skip


OF_RETRIEVAL = {
    "recall_at_1": 0.5, "recall_at_10": 1.0, "mrr": 0.75, "ndcg_at_10": 0.8155,
    "anisotropy": 0.25, "num_documents": 4, "num_titles": 3,
}  # fmt: skip
"""What four queries give whose targets rank first, first, second and second."""


def track_retrieval(console, run, name):
    tracked = Trackers(console)
    tracked.start(TrackingConfig(**{"with": [name]}), run, SETTINGS)
    measured = Retrieval(np.asarray([1, 1, 2, 2]), 0.25, 3).to_json()
    tracked.log({"step": 3, **{f"eval_{name}": value for name, value in measured.items()}})
    tracked.finish()


def test_tensorboard_has_what_was_found(console, run):
    track_retrieval(console, run, "tensorboard")
    scalars, _ = read_tensorboard(run)
    for name, value in OF_RETRIEVAL.items():
        assert scalars[f"eval/retrieval_{name}"] == [(3, pytest.approx(value, abs=1e-4))]


def test_trackio_has_what_was_found(console, run, trackio_folder):
    track_retrieval(console, run, "trackio")
    assert len(console.lines) == 1
    [database] = trackio_folder.glob("*.db")
    with sqlite3.connect(database) as connection:
        [[step, metrics]] = connection.execute("select step, metrics from metrics").fetchall()
    found = {name: json.loads(metrics)[f"eval/retrieval_{name}"] for name in OF_RETRIEVAL}
    assert (step, found) == (3, pytest.approx(OF_RETRIEVAL, abs=1e-4))


@pytest.fixture
def trackio_folder(tmp_path, monkeypatch):
    """Where trackio keeps what it is told, instead of the user's own place."""
    import trackio
    from trackio import sqlite_storage, utils

    folder = tmp_path / "trackio"
    for module in (trackio, sqlite_storage, utils):
        for name in ("TRACKIO_DIR", "MEDIA_DIR"):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, folder)
    monkeypatch.setenv("TRACKIO_STORAGE_MODE", "sqlite")  # also where /tmp is on a network
    folder.mkdir()
    return folder


def test_trackio_has_every_value_and_every_metric(console, run, trackio_folder, capsys):
    track(console, run, "trackio")
    assert console.lines == ["tracked by trackio; to see it: trackio show --project 'the project'"]
    [database] = trackio_folder.glob("*.db")
    with sqlite3.connect(database) as connection:
        metrics = connection.execute("select step, metrics from metrics order by id").fetchall()
        [[config]] = connection.execute("select config from configs").fetchall()
    connection.close()
    config = json.loads(config)
    assert config["optimizer.learning_rate"] == 5e-5
    assert config["corpus.sources.0.path"] == "docs"
    steps, values = zip(*[(step, json.loads(found)) for step, found in metrics], strict=True)
    assert set(steps) == {3}
    merged = {name: value for found in values for name, value in found.items()}
    assert merged["train/loss"] == 2.5
    assert merged["eval/perplexity_interval.1"] == 9.0
    assert merged["result/eval_per_label.good.f1"] == 0.5
    assert capsys.readouterr().out == ""  # its greetings are not our result


def test_what_is_told_of_it_is_seen(run, monkeypatch, capsys):
    """Greetings that are kept back do not take it with them."""
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    track(Console(), run, "tensorboard", "trackio")
    assert capsys.readouterr().out.count("is not installed") == 2


def test_one_that_is_not_installed_is_told_with_what_to_install(console, run, monkeypatch):
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    track(console, run, "tensorboard", "wandb")
    assert console.lines == [
        f"tracking.with: tensorboard is not installed; {pip_install('mlmtune[tensorboard]')}; "
        "training goes on without it",
        f"tracking.with: wandb is not installed; {pip_install('wandb')}; "
        "training goes on without it",
    ]


class Broken:
    """A tracker that fails at one of its methods."""

    fails_at = ""
    error: BaseException = RuntimeError("no way")
    calls: list[str] = []  # noqa: RUF012

    def __init__(self, *_, **__):
        self._call("init")

    def _call(self, name):
        type(self).calls.append(name)
        if name == type(self).fails_at:
            raise type(self).error

    def start(self):
        self._call("start")

    def store_init_configuration(self, values):
        self._call("settings")

    def log(self, values, step):
        self._call("log")

    def finish(self):
        self._call("finish")


@pytest.fixture
def broken(monkeypatch):
    """Puts a broken tracker in wandb's place."""

    def put(fails_at, error=None):
        kind = type("Kind", (Broken,), {
            "fails_at": fails_at, "error": error or Broken.error, "calls": [],
        })  # fmt: skip
        monkeypatch.setitem(trackers.LOGGER_TYPE_TO_CLASS, "wandb", kind)
        monkeypatch.setattr(trackers, "find_spec", lambda name: object())
        return kind

    return put


@pytest.mark.parametrize("fails_at", ["init", "start", "settings"])
@pytest.mark.parametrize("error", [RuntimeError("no login"), SystemExit("no login"),
                                   ImportError("no login")])  # fmt: skip
def test_one_that_cannot_start_is_told_and_the_others_go_on(console, run, broken, fails_at, error):
    kind = broken(fails_at, error)
    track(console, run, "wandb", "tensorboard")
    assert console.lines[0] == (
        f"tracking.with: wandb cannot start ({type(error).__name__}: no login): wandb login, or "
        "set WANDB_MODE=offline; training goes on without it"
    )
    assert "log" not in kind.calls
    assert read_tensorboard(run)[0]["train/loss"] == [(3, 2.5)]


def test_one_that_fails_later_is_told_once(console, run, broken):
    kind = broken("log")
    track(console, run, "wandb", steps=(1, 2, 3))
    assert kind.calls == ["init", "start", "settings", "log"]
    assert console.lines[1:] == [
        "tracking.with: wandb has failed (RuntimeError: no way): it has what came before; "
        "training goes on without it"
    ]


def test_one_that_cannot_finish_is_no_end(console, run, broken):
    broken("finish")
    track(console, run, "wandb")
    assert "cannot finish" in console.lines[-1]


def test_a_signal_is_no_failure_of_a_tracker(console, run, broken):
    broken("start", KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        track(console, run, "wandb")


def test_it_is_told_no_secret(console, run, broken, monkeypatch):
    kind = broken("")
    told = []
    kind.store_init_configuration = lambda self, values: told.append(values)
    monkeypatch.setenv("MY_API_KEY", "canary-0451")
    settings = {"a": {"b": ["https://x/y?sig=1", "the canary-0451", "https://u:p@x/z"]}}
    Trackers(console).start(TrackingConfig(**{"with": ["wandb"]}), run, settings)
    assert told == [{"a.b.0": "https://x/y", "a.b.1": "the [redacted]", "a.b.2": "https://x/z"}]


def test_every_tracker_can_be_made_for_a_run(run):
    """What is passed fits Accelerate's classes; none of them is started."""
    for name, kind in TRACKERS.items():
        positional, named = kind.arguments(run)
        assert LOGGER_TYPE_TO_CLASS[name](*positional, **named).name == name


def test_flattening_keeps_every_leaf():
    assert dict(flattened({"a": {"b": [1, {"c": None}]}, "d": "x"})) == {
        "a.b.0": 1, "a.b.1.c": None, "d": "x",
    }  # fmt: skip
