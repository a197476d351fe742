import json
import time
from typing import ClassVar

import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mlmtune.sharing import trackers
from mlmtune.sharing.trackers import flattened, kind_of_metrics
from mlmtune.training import loop

TRACKED = {"tracking": {"with": ["tensorboard"], "run_name": "tracked"}}
A_SECOND = 1.1
"""TensorBoard orders the files of a run by the second they were begun in."""


def events(run):
    folder = run.path / "tensorboard" / "tracked"
    found = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    found.Reload()
    scalars = {tag: found.Scalars(tag) for tag in found.Tags()["scalars"]}
    for of_tag in scalars.values():
        assert len({event.step for event in of_tag}) == len(of_tag)
    return {tag: {e.step: e.value for e in of_tag} for tag, of_tag in scalars.items()}


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
            tag = f"{kind_of_metrics(record)}/{name.removeprefix('eval_')}"
            arrived = tracked[tag][record["step"]]
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
    time.sleep(A_SECOND)
    run = runs.train(**TRACKED, resume="auto")
    assert run.json("tracking.json") == before
    whole = runs.train("whole", **TRACKED)
    assert events(run)["train/loss"] == events(whole)["train/loss"]
    assert list(events(run)["train/loss"]) == [1, 2, 3, 4, 5, 6]


class Recorder:
    """A tracker that records every call, over all sittings of a run."""

    told: ClassVar[list[tuple[int, str]]] = []

    def __init__(self, *_, **__):
        pass

    start = store_init_configuration = finish = __init__

    def log(self, values, step):
        self.told.append((step, next(iter(values)).partition("/")[0]))


def test_a_step_is_told_once_also_where_a_run_is_killed_and_resumed(runs, monkeypatch):
    """Killed twice after step 4, of which there is a checkpoint, and once before there is one."""
    monkeypatch.setitem(trackers.LOGGER_TYPE_TO_CLASS, "aim", Recorder)
    monkeypatch.setattr(trackers, "find_spec", lambda _: True)
    monkeypatch.setattr(Recorder, "told", [])
    take_step, killed_at = loop.take_step, [2, 6, 5, 0]

    def take_step_or_die(learner, task, state, *arguments):
        if state.step + 1 == killed_at[0]:
            raise RuntimeError("killed")
        return take_step(learner, task, state, *arguments)

    monkeypatch.setattr(loop, "take_step", take_step_or_die)
    tracked = {"tracking": {"with": ["tensorboard", "aim"], "run_name": "tracked"}}
    for _ in range(3):
        with pytest.raises(RuntimeError, match="killed"):
            runs.train(**tracked, resume="auto")
        time.sleep(A_SECOND)
        if killed_at.pop(0) == 2:  # there is no checkpoint yet, so that it is another run
            Recorder.told.clear()
    run = runs.train(**tracked, resume="auto")
    expected = [*((r["step"], kind_of_metrics(r)) for r in metrics(run)), (6, "result")]
    assert sorted(Recorder.told) == sorted(expected)
    assert len(set(expected)) == len(expected)
    assert list(events(run)["train/loss"]) == [1, 2, 3, 4, 5, 6]
    assert list(events(run)["eval/loss"]) == [0, 3, 6]


def test_counts_of_metrics_are_since_the_start(runs):
    run = runs.train()
    lines = [record for record in metrics(run) if "loss" in record]
    for name in ("num_tokens", "num_masked_tokens"):
        counts = [line[name] for line in lines]
        assert counts == sorted(set(counts))
        assert counts[-1] == run.json("train_results.json")[name]


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
