"""fp16's loss scale: overflows are skipped, counted and bounded, and it comes back on resuming.

Accelerate scales on a GPU only. Its scaler is put into an accelerator of the CPU here; the model
computes in fp16 by autocast all the same.
"""

import json
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from runs import Runs, assert_same_end

from mlmtune.errors import DivergedError, Interrupted
from mlmtune.modeling.device import build_accelerator
from mlmtune.training import loop, step

INITIAL_SCALE = 1024.0


@pytest.fixture(autouse=True)
def scaler(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each run scales its loss."""

    def build(precision: str) -> Accelerator:
        AcceleratorState._reset_state(True)
        accelerator = build_accelerator("fp32")
        accelerator.state._mixed_precision = "fp16"
        accelerator.native_amp = True
        accelerator.scaler = torch.amp.GradScaler("cpu", INITIAL_SCALE, growth_interval=3)
        return accelerator

    monkeypatch.setattr(loop, "build_accelerator", build)
    yield
    AcceleratorState._reset_state(True)


@dataclass
class Course:
    """Which steps overflow, and what there was after each step."""

    overflowing: tuple[int, ...] = ()
    scales: list[float] = field(default_factory=list)
    tensors: list[dict[str, torch.Tensor]] = field(default_factory=list)

    def changed(self) -> list[bool]:
        """Whether each step but the first changed any weight or moment."""
        return [
            any(not torch.equal(tensor, after[name]) for name, tensor in before.items())
            for before, after in pairwise(self.tensors)
        ]


@pytest.fixture
def course(monkeypatch: pytest.MonkeyPatch) -> Course:
    taken, take_step = Course(), loop.take_step

    def take_step_and_note(learner: Any, task: Any, state: Any, *arguments: Any) -> Any:
        overflows = state.step + 1 in taken.overflowing
        factor = math.inf if overflows else 1.0
        parameter = next(learner.module.parameters())
        with parameter.register_hook(lambda gradient: gradient * factor):
            result = take_step(learner, task, state, *arguments)
        taken.scales.append(learner.accelerator.scaler.get_scale())
        tensors = {name: weight.clone() for name, weight in learner.module.state_dict().items()}
        for group in learner.plain_optimizer.param_groups:
            for name, weight in zip(group["param_names"], group["params"], strict=True):
                for key, moment in learner.plain_optimizer.state[weight].items():
                    tensors[f"{name}/{key}"] = moment.clone()
        taken.tensors.append(tensors)
        return result

    monkeypatch.setattr(loop, "take_step", take_step_and_note)
    return taken


def test_an_overflow_is_skipped_and_counted_and_halves_the_scale(
    runs: Runs, course: Course
) -> None:
    course.overflowing = (3,)
    run = runs.train()
    # After three good steps in a row it doubles.
    assert course.scales == [1024.0, 1024.0, 512.0, 512.0, 512.0, 1024.0]
    assert course.changed() == [True, False, True, True, True]
    assert run.json("train_results.json")["num_skipped_steps"] == 1
    norms = [record["grad_norm"] for record in run.metrics if "loss" in record]
    assert [norm is None for norm in norms] == [False, False, True, False, False, False]
    assert all(weight.isfinite().all() for weight in run.weights.values())


def test_without_an_overflow_none_is_counted(runs: Runs, course: Course) -> None:
    run = runs.train()
    assert course.scales == [1024.0, 1024.0, 2048.0, 2048.0, 2048.0, 4096.0]
    assert run.json("train_results.json")["num_skipped_steps"] == 0


def test_too_many_overflows_in_a_row_end_the_run(
    runs: Runs, course: Course, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step, "MAX_OVERFLOWS_IN_A_ROW", 2)
    course.overflowing = (1, 2, 4, 5, 7, 8, 9)  # a good step begins the count again
    with pytest.raises(DivergedError, match="fp16 overflowed in 3 steps in a row") as caught:
        runs.train(training={"max_steps": 12})
    assert caught.value.exit_code == 5
    run = runs.at()
    status = run.json("status.json")
    assert (status["state"], status["exit_code"]) == ("failed", 5)
    saved = json.loads((run.checkpoint(8) / "state.json").read_text(encoding="utf-8"))
    assert (saved["num_skipped_steps"], saved["num_overflows_in_a_row"]) == (6, 2)


def test_the_scale_comes_back_on_resuming(
    runs: Runs, course: Course, stopping_after: Callable[..., AbstractContextManager[None]]
) -> None:
    course.overflowing = (2, 3, 6)
    expected = runs.train("expected", training={"max_steps": 8})
    whole = course.scales.copy()
    course.scales.clear()
    with stopping_after(4), pytest.raises(Interrupted):
        runs.train(training={"max_steps": 8})
    run = runs.train(training={"max_steps": 8}, resume="auto")
    assert course.scales == whole
    assert len(set(whole)) > 2
    assert_same_end(run, expected)
    states = [
        json.loads((each.checkpoint(8) / "state.json").read_text(encoding="utf-8"))
        for each in (run, expected)
    ]
    for key in ("scaler", "num_skipped_steps", "num_overflows_in_a_row"):
        assert states[0][key] == states[1][key], key
    assert states[0]["num_skipped_steps"] == 3
