"""`train`: a run from its config to its result."""

import math
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from accelerate import Accelerator

from mlmtune.config_loading import recorded_text, recorded_yaml
from mlmtune.console import Console
from mlmtune.errors import Interrupted
from mlmtune.modeling.device import build_accelerator
from mlmtune.modeling.losses import LOSS
from mlmtune.sharing.trackers import Trackers
from mlmtune.training.checkpoint import TrainState
from mlmtune.training.checkpoint_folders import checkpoint_path
from mlmtune.training.checkpointer import Checkpointer
from mlmtune.training.environment import describe_environment
from mlmtune.training.evaluating import (
    evaluate,
    evaluate_before,
    evaluation_is_pending,
    is_out_of_time,
    is_stopped_early,
    step_to_export,
)  # fmt: skip
from mlmtune.training.interrupts import StopRequest, listening
from mlmtune.training.learner import Learner, prepare_learner
from mlmtune.training.memory import fit_micro_batch
from mlmtune.training.progress import (
    Clock,
    Progress,
    announce,
    describe_duration,
    why_it_ended_early,
)  # fmt: skip
from mlmtune.training.pushing import BackgroundPush, open_hub
from mlmtune.training.results import export, show_summary
from mlmtune.training.resuming import (
    EarlierRun,
    begin,
    is_complete,
    keep_for_export,
    read_earlier_run,
    resume,
    with_recorded_choices,
)  # fmt: skip
from mlmtune.training.run_dir import RESOLVED_CONFIG, RunDir
from mlmtune.training.run_options import RunOptions
from mlmtune.training.safeguards import check_all_see_the_same, leave, open_run, recording_failure
from mlmtune.training.step import StepTaken, agree, take_step
from mlmtune.training.task import ConfigT, Settings, Task, ValidationResult
from mlmtune.training.tracking import start_trackers
from mlmtune.training.window import Window

STEPS_BEFORE_ESTIMATE = 5
"""The first steps are slower, because they also allocate memory that later ones use again."""


@dataclass
class Job:
    """A run in progress: what its steps read and change.

    Attributes:
        task: The task; it is replaced if its micro-batches become smaller.
        push: Pushes the model during training; None if nothing does.
        seconds_per_evaluation: The time of the last one; None before the first of this sitting.
    """

    task: Task
    learner: Learner
    state: TrainState
    run: RunDir
    checkpointer: Checkpointer
    trackers: Trackers
    push: BackgroundPush | None
    stop: StopRequest
    progress: Progress
    seconds_per_evaluation: float | None = None

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes."""
        return bool(self.learner.accelerator.is_main_process)

    def record(self, metrics: dict[str, Any]) -> None:
        """Add a line to metrics.jsonl and send it to the trackers, in the main process."""
        if self.is_main:
            self.run.append_metrics(metrics)
            self.trackers.log(metrics)


def train(
    config: ConfigT,
    options: RunOptions,
    build: Callable[[ConfigT, Accelerator, Console], Task],
) -> dict[str, Any] | None:
    """Run a config to its end, or until a signal stops it.

    The task is built by `build`, from the config with the choices of an earlier run.

    Returns:
        The content of all_results.json; None if the run was complete already.

    Raises:
        MlmtuneError: See `mlmtune.errors`. status.json also holds the reason.
    """
    with ExitStack() as stack:
        earlier = read_earlier_run(options, config)
        asked, config = config, with_recorded_choices(config, earlier)
        accelerator = build_accelerator(config.training.precision)
        stack.push(partial(leave, accelerator))  # first in, so that it is the last to be called
        progress = Progress(
            is_main=accelerator.is_main_process,
            is_quiet=options.is_quiet,
            shows_lines=not options.is_silent,
        )
        say = progress.say
        stack.callback(progress.stop)
        _announce_kept_micro_batch(asked, config, say)
        run = open_run(config, options, accelerator, stack)
        if is_complete(earlier, run, config, accelerator, progress):
            return None
        if accelerator.is_main_process:
            run.write_status("preparing")
        stack.enter_context(recording_failure(run, accelerator))
        push = open_hub(config.hub, accelerator, run, say)
        task = build(config, accelerator, progress)
        # Until here a signal ends the process at once, because there is nothing to save.
        stop = stack.enter_context(listening())
        learner = prepare_learner(task, accelerator)
        checkpoint, state = resume(earlier, run, learner, task, say)
        check_all_see_the_same(task, state)
        task = fit_micro_batch(learner, task, state.step, say)
        announce(task, state, run, accelerator, say)
        own = checkpoint_path(run.checkpoints, state.step)  # not a copy with another name
        is_own = checkpoint is not None and checkpoint.resolve() == own.resolve()
        saved_step = state.step if is_own else None
        checkpointer = Checkpointer(run.checkpoints, task, learner, saved_step)
        trackers = Trackers(progress)
        stack.callback(trackers.finish)
        job = Job(task, learner, state, run, checkpointer, trackers, push, stop, progress)
        before = evaluate_base(job)
        _begin(job, options, earlier, checkpoint, before)
        _train_to_the_end(job)
        results = export(job.task, learner, state, run, say)
        trackers.log_results(results, state.step)
        if push is not None:
            push.wait(lambda: bool(stop))
        if job.is_main:
            show_summary(job.task, state, run, results, progress)
        return results


# ------------------------------------------------------------------------------ before the steps


def _announce_kept_micro_batch(
    asked: Settings, config: Settings, say: Callable[[str], None]
) -> None:
    """Say that the config's micro-batches stay smaller, as the earlier run has made them."""
    size, kept = asked.training.micro_batch_size, config.training.micro_batch_size
    if isinstance(size, int) and size != kept:
        say(f"micro batches of {kept} as in this run so far, not of {size}")


def _begin(
    job: Job,
    options: RunOptions,
    earlier: EarlierRun | None,
    checkpoint: Path | None,
    before: ValidationResult | None,
) -> None:
    """Take the output directory over, and write down what is trained on what.

    `before` is None if an earlier sitting has recorded the measurement of the base model.
    """
    run, state, config, say = job.run, job.state, job.task.config, job.progress.say
    job.learner.accelerator.wait_for_everyone()  # all have read what is deleted now
    tracking = None
    if job.is_main:
        tracking = begin(earlier, run, state, replaces=options.overwrite, say=say)
    if checkpoint is not None:
        keep_for_export(job.task, run, state, checkpoint, job.is_main, say)
    if not job.is_main:
        return
    if options.config_text is not None:
        run.write_text("config.yaml", recorded_text(options.config_text))
    run.write_text(RESOLVED_CONFIG, recorded_yaml(config))
    run.write_json("environment.json", describe_environment(job.task.plan.num_processes))
    job.task.write_records(run)
    run.write_status("running", step=state.step, max_steps=job.task.plan.max_steps)
    start_trackers(job.trackers, config, run, tracking, state.step)
    if before is not None:
        _record_evaluation(job, before)


# ----------------------------------------------------------------------------------- the steps


def _train_to_the_end(job: Job) -> None:
    state, plan, accelerator = job.state, job.task.plan, job.learner.accelerator
    config = job.task.config
    job.progress.start(state.step, plan.max_steps)
    clock = Clock(state.step, state.num_tokens, state.elapsed_seconds)
    estimated_at = state.step + STEPS_BEFORE_ESTIMATE
    # A signal in an evaluation has saved the step without its result, which is measured now.
    if evaluation_is_pending(job.task, state):
        _evaluate(job)
        job.checkpointer.save(state, again=True)
    last = (
        state.step >= plan.max_steps
        or is_stopped_early(job.task, state)
        or is_out_of_time(config.training, state)
    )
    while not last:
        step = agree(
            accelerator,
            job.task,
            state.step,
            signal_number=job.stop.signal_number,
            is_out_of_time=is_out_of_time(config.training, state),
        )
        if step.signal_number is not None:
            _save_and_stop(job.checkpointer, state, step.signal_number)

        taken = take_step(job.learner, job.task, state, step, job.progress.say)
        if taken.task is not job.task:  # smaller micro-batches from here on
            job.task = taken.task
            if job.is_main:
                job.run.write_text(RESOLVED_CONFIG, recorded_yaml(job.task.config))
        state.elapsed_seconds = clock.elapsed_seconds
        job.progress.step()

        last = state.step == plan.max_steps or step.is_out_of_time
        if state.step == estimated_at and not last:
            job.progress.say(
                describe_duration(job.task, state.step, clock, job.seconds_per_evaluation)
            )
        if last or plan.is_due(state.step, config.training.log_every):
            _log(job, taken, clock)
            if job.is_main:
                job.run.write_status("running", step=state.step, max_steps=plan.max_steps)
        with clock.aside():
            improved = pushes = False
            if last or plan.is_due(state.step, config.evaluation.every):
                improved = _evaluate(job)
                last = last or is_stopped_early(job.task, state)
                # The same in all processes, because all of them save and only the first pushes.
                becomes_result = step_to_export(job.task, state) == state.step
                pushes = config.hub.push == "evaluation" and becomes_result and not last
            if last or improved or pushes or plan.is_due(state.step, config.checkpoint.every):
                state.elapsed_seconds = clock.elapsed_seconds
                checkpoint = job.checkpointer.save(state)
                if pushes and job.push is not None:
                    job.push.push(checkpoint, job.task, state)
    job.progress.stop()
    if state.step < plan.max_steps and (why := why_it_ended_early(job.task, state)):
        job.progress.say(why)


def _log(job: Job, taken: StepTaken, clock: Clock) -> None:
    """Record and show the steps since the last log line."""
    task, state = job.task, job.state
    means = state.window.means()
    metrics = {
        "step": state.step,
        **task.plan.place(state.step),
        **means,
        "learning_rate": taken.learning_rate,
        **task.metrics(state.step - 1),
        "grad_norm": taken.gradient_norm if math.isfinite(taken.gradient_norm) else None,
        "num_tokens": state.num_tokens,
        task.num_targets_name: state.totals.counts[LOSS],
        "tokens_per_second": clock.tokens_per_second(state.num_tokens),
    }
    job.record(metrics)
    seconds_left = clock.seconds_left(state.step, task.plan)
    job.progress.log(metrics, task.describe_means(means), task.plan.max_steps, seconds_left)
    state.window = Window()


def evaluate_base(job: Job) -> ValidationResult | None:
    """Measure the base model; None if that is done already, or cannot be done."""
    if job.state.evaluation_before is not None or not job.task.measures_before:
        return None
    evaluation = _measure(job, evaluate_before)
    job.progress.say(f"before training: {evaluation.describe()}")
    return evaluation


def _evaluate(job: Job) -> bool:
    """Measure the current step, and return whether it is the best so far and must be saved."""
    state = job.state
    evaluation = _measure(job, evaluate)
    names = " and ".join(job.task.worse_than_base(state, state.step))
    worse = f"; worse than before training: {names}" if names else ""
    job.progress.say(f"after step {state.step}: {evaluation.describe()}{worse}")
    _record_evaluation(job, evaluation)
    reason = job.task.reason_to_stop(state)
    if reason is not None:
        job.progress.say(reason)
    return state.best_step == state.step and job.task.config.checkpoint.export == "best"


def _measure(job: Job, measure: Callable[..., ValidationResult | None]) -> ValidationResult:
    """Call a function of `evaluating`; a signal that arrives meanwhile ends the run."""
    began = time.monotonic()
    evaluation = measure(job.task, job.learner, job.state, job.stop)
    if evaluation is None:
        # If another process received the signal, this one does not know which it was.
        number = job.stop.signal_number or signal.SIGTERM
        _save_and_stop(job.checkpointer, job.state, number)
    job.seconds_per_evaluation = time.monotonic() - began
    return evaluation


def _record_evaluation(job: Job, evaluation: ValidationResult) -> None:
    job.record(
        {
            "step": job.state.step,
            **job.task.plan.place(job.state.step),
            **{f"eval_{name}": value for name, value in evaluation.to_json().items()},
        }
    )


def _save_and_stop(checkpointer: Checkpointer, state: TrainState, signal_number: int) -> NoReturn:
    """Save the state and raise `Interrupted`."""
    name = signal.Signals(signal_number).name
    if state.step == 0:
        raise Interrupted(
            f"stopped by {name} before the first step; nothing to save", signal_number
        )
    path = checkpointer.save(state)
    raise Interrupted(
        f"stopped by {name} after step {state.step}; saved {path}; resume with the same command "
        "and --resume auto",
        signal_number,
    )
