"""A step takes what it uses: a learner, a task and a state, and no run's directory."""

from typing import Any

import pytest
import torch

from mlmtune.config_loading import load_config
from mlmtune.console import Console
from mlmtune.errors import DivergedError
from mlmtune.modeling.device import build_accelerator
from mlmtune.modeling.losses import LOSS
from mlmtune.training.checkpoint import TrainState
from mlmtune.training.learner import Learner, prepare_learner
from mlmtune.training.masked_lm import build_masked_lm
from mlmtune.training.step import StepTaken, agree, take_step
from mlmtune.training.task import Task
from mlmtune.training.window import Window

SECTIONS: dict[str, Any] = {
    "model": {"dropout": 0.1},
    "training": {"max_steps": 3, "micro_batch_size": 3, "log_every": 1},
}


def take(task: Task, learner: Learner, state: TrainState) -> StepTaken:
    step = agree(learner.accelerator, task, state.step)
    assert (step.signal_number, step.is_out_of_time) == (None, False)
    return take_step(learner, task, state, step, print)


def test_steps_taken_by_hand_are_those_of_a_run(runs: Any) -> None:
    run = runs.train(**SECTIONS)
    accelerator = build_accelerator("fp32")
    config = load_config(runs.config("by_hand", **SECTIONS))
    task = build_masked_lm(config, accelerator, Console(is_quiet=True))
    learner, state = prepare_learner(task, accelerator), TrainState()
    losses = []
    for _ in range(3):
        state.window = Window()
        assert take(task, learner, state).task is task
        losses.append(state.window.means()[LOSS])
    assert losses == run.losses
    trained = learner.module.state_dict()
    for name, weight in run.weights.items():
        if name in trained:  # the pooler is kept from the base
            assert torch.equal(trained[name], weight), name
    assert not runs.at("by_hand").path.exists()


def test_a_step_that_diverges_leaves_the_weights(runs: Any) -> None:
    accelerator = build_accelerator("fp32")
    config = load_config(runs.config(**SECTIONS))
    task = build_masked_lm(config, accelerator, Console(is_quiet=True))
    learner, state = prepare_learner(task, accelerator), TrainState()
    before = {name: weight.clone() for name, weight in learner.module.state_dict().items()}
    parameter = next(learner.module.parameters())
    with (
        parameter.register_hook(lambda gradient: gradient * torch.inf),
        pytest.raises(DivergedError, match="the gradient of step 1 is"),
    ):
        take(task, learner, state)
    assert state == TrainState()
    assert all(torch.equal(weight, before[n]) for n, weight in learner.module.state_dict().items())
