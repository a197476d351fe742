"""Measures a run in progress, and decides whether the measurements end it."""

from mlmtune.config import TrainingConfig
from mlmtune.training.checkpoint import TrainState
from mlmtune.training.interrupts import StopRequest
from mlmtune.training.learner import Learner
from mlmtune.training.task import Task, ValidationResult


def evaluate_before(
    task: Task, learner: Learner, state: TrainState, stop: StopRequest
) -> ValidationResult | None:
    """Measure the base model, and keep the result in the state; None if a signal arrived."""
    if learner.accelerator.is_main_process:
        state.examples_before = task.fill_examples(learner.module)
    evaluation = task.evaluate(learner.accelerator, learner.module, lambda: bool(stop))
    if evaluation is not None:
        state.evaluation_before = evaluation.to_json()
    return evaluation


def evaluate(
    task: Task, learner: Learner, state: TrainState, stop: StopRequest
) -> ValidationResult | None:
    """Measure the current step, and keep the result in the state; None if a signal arrived."""
    evaluation = task.evaluate(learner.accelerator, learner.module, lambda: bool(stop))
    if evaluation is None:
        return None
    state.evaluations[str(state.step)] = evaluation.to_json()
    if task.reason_to_stop(state) is not None:
        return evaluation  # weights that end the run must not become its result
    # Of equal results the first stays the best, so that patience can run out on a plateau.
    if state.best_criterion is not None and evaluation.criterion >= state.best_criterion:
        state.num_evaluations_without_improvement += 1
    else:
        state.best_criterion, state.best_step = evaluation.criterion, state.step
        state.num_evaluations_without_improvement = 0
    return evaluation


def evaluation_is_pending(task: Task, state: TrainState) -> bool:
    """Whether the run was interrupted in an evaluation that was due after its last step."""
    is_due = task.plan.is_due(state.step, task.config.evaluation.every) or is_out_of_time(
        task.config.training, state
    )
    return state.step > 0 and is_due and str(state.step) not in state.evaluations


def is_out_of_time(config: TrainingConfig, state: TrainState) -> bool:
    return config.max_minutes is not None and state.elapsed_seconds >= 60 * config.max_minutes


def patience_is_over(config: TrainingConfig, state: TrainState) -> bool:
    """Whether `early_stopping_patience` evaluations in a row were not the best so far."""
    patience = config.early_stopping_patience
    return patience is not None and state.num_evaluations_without_improvement >= patience


def is_stopped_early(task: Task, state: TrainState) -> bool:
    """Whether the evaluations so far end the run."""
    return patience_is_over(task.config.training, state) or task.reason_to_stop(state) is not None


def step_to_export(task: Task, state: TrainState) -> int:
    """Return the step whose weights become the result.

    A phase that the run did not finish gives way to the last step.
    """
    wanted = task.config.checkpoint.export
    if wanted == "best" and state.best_step is not None:
        return state.best_step
    return min(task.plan.ends().get(wanted, state.step), state.step)
