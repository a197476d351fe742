import json

import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mlmtune.sharing.trackers import flattened

TRACKED = {"tracking": {"with": ["tensorboard"], "run_name": "tracked"}}


def events(run):
    folder = run.path / "tensorboard" / "tracked"
    found = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    found.Reload()
    return {
        tag: {event.step: event.value for event in found.Scalars(tag)}
        for tag in found.Tags()["scalars"]
    }


def metrics(run):
    lines = (run.path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_every_config_value_and_every_metric_of_a_run_arrives(runs):
    run = runs.train(**TRACKED)
    tracked = events(run)
    for record in metrics(run):
        for name, value in flattened(record):
            if name == "step" or value is None:
                continue
            kind = "eval/" if name.startswith("eval_") else "train/"
            arrived = tracked[kind + name.removeprefix("eval_")][record["step"]]
            assert arrived == pytest.approx(value, rel=1e-6)
    for name, value in flattened(run.json("all_results.json")):
        assert tracked[f"result/{name}"][6] == pytest.approx(float(value), rel=1e-6)
    [file] = run.path.glob("tensorboard/tracked/*/hparams.yml")
    config = yaml.safe_load((run.path / "config.resolved.yaml").read_text(encoding="utf-8"))
    assert yaml.safe_load(file.read_text(encoding="utf-8")) == dict(flattened(config))


def test_a_resumed_run_goes_on_in_the_same_place(runs, stopping_after):
    with stopping_after(3), pytest.raises(Exception, match="SIGTERM"):
        runs.train(**TRACKED)
    before = runs.at().json("tracking.json")
    run = runs.train(**TRACKED, resume="auto")
    assert run.json("tracking.json") == before
    whole = runs.train("whole", **TRACKED)
    assert events(run)["train/loss"] == events(whole)["train/loss"]
    assert list(events(run)["train/loss"]) == [1, 2, 3, 4, 5, 6]


def test_a_run_that_starts_anew_is_another_one(runs):
    before = runs.train(**TRACKED).json("tracking.json")
    run = runs.train(**TRACKED, overwrite=True, training={"max_steps": 2})
    assert run.json("tracking.json") != before
    assert list(events(run)["train/loss"]) == [1, 2]


def test_tracking_changes_nothing_of_the_run(runs):
    assert runs.train(**TRACKED).model_bytes == runs.train("untracked").model_bytes


def test_a_classifiers_run_is_tracked_too(tasks):
    run = tasks.finetune(**TRACKED)
    tracked = events(run)
    results = run.json("all_results.json")
    assert tracked["result/test_macro_f1"][8] == pytest.approx(results["test_macro_f1"])
    assert tracked["eval/macro_f1"]
    assert "result/test_confusion_matrix.0.1" in tracked
