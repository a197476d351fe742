"""Shows the progress of a run: a bar on a terminal, plain lines elsewhere."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

from accelerate import Accelerator
from tqdm import tqdm

from mlmtune.console import Console
from mlmtune.modeling.losses import LOSS
from mlmtune.printable import counted
from mlmtune.training.checkpoint import TrainState
from mlmtune.training.evaluating import patience_is_over
from mlmtune.training.plan import Plan
from mlmtune.training.run_dir import RunDir
from mlmtune.training.task import Task


class Clock:
    """The time spent on a run over all its sittings, and the pace of this one.

    It starts from the step, the tokens and the time that earlier sittings have reached.
    """

    def __init__(self, step: int, num_tokens: int, elapsed_seconds: float) -> None:
        self._first_step = step
        self._earlier_seconds = elapsed_seconds
        self._started = self._asked_at = time.monotonic()
        self._asked_tokens = num_tokens
        self._seconds_aside = 0.0

    @property
    def elapsed_seconds(self) -> float:
        """Seconds of training, evaluation and saving, earlier sittings included."""
        return self._earlier_seconds + time.monotonic() - self._started

    def tokens_per_second(self, num_tokens: int) -> float:
        """Return the throughput since the last call."""
        now = time.monotonic()
        rate = (num_tokens - self._asked_tokens) / max(now - self._asked_at, 1e-9)
        self._asked_at, self._asked_tokens = now, num_tokens
        return rate

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Leave time that is not spent on steps (evaluating, saving) out of the throughput."""
        began = time.monotonic()
        yield
        seconds = time.monotonic() - began
        self._asked_at += seconds
        self._seconds_aside += seconds

    def seconds_of_steps_left(self, step: int, plan: Plan) -> float:
        """Return the same without evaluating and saving."""
        seconds = time.monotonic() - self._started - self._seconds_aside
        return seconds * _ratio(plan, self._first_step, step)

    def seconds_left(self, step: int, plan: Plan) -> float:
        """Return the seconds that the remaining steps will take at this sitting's pace.

        A step counts by its tokens, because phases have steps of different sizes.
        """
        seconds = time.monotonic() - self._started
        return seconds * _ratio(plan, self._first_step, step)


def _ratio(plan: Plan, first_step: int, step: int) -> float:
    """Return how many times as many tokens follow a step as came before it from `first_step`."""
    first, now, end = (
        plan.total(at, lambda phase: phase.tokens_per_step)
        for at in (first_step, step, plan.max_steps)
    )
    return (end - now) / (now - first) if now > first else 0.0


class Progress(Console):
    """A console with the bar of a run's steps."""

    _bar: "tqdm[Any] | None" = None

    def start(self, step: int, max_steps: int) -> None:
        """Show the bar, if standard error is a terminal."""
        bar = self.bar(total=max_steps, initial=step, unit="step")
        bar.leave = self._shows_lines  # a bar alone goes away, and the caller reports the end
        self._bar = None if bar.disable else bar

    def step(self) -> None:
        """Move the bar by one optimizer step."""
        if self._bar is not None:
            self._bar.update()

    def log(
        self, metrics: Mapping[str, Any], means: str, max_steps: int, seconds_left: float
    ) -> None:
        """Show the metrics of the last steps.

        Args:
            metrics: A line of metrics.jsonl.
            means: The terms of the loss in words; see `Task.describe_means`.
            max_steps: The steps of the whole run.
            seconds_left: The time that the remaining steps will take.
        """
        pace = f"{metrics['tokens_per_second']:,.0f} tokens/s"
        if self._bar is not None:
            self._bar.set_postfix_str(f"loss {metrics[LOSS]:.3f}, {pace}")
            return
        phase = f"{metrics['phase']}, " if "phase" in metrics else ""
        self.say(
            f"step {metrics['step']}/{max_steps}  {phase}epoch {metrics['epoch']:.2f}  {means}  "
            f"learning rate {metrics['learning_rate']:.2e}  {pace}  "
            f"{tqdm.format_interval(seconds_left)} left"
        )

    def stop(self) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def announce(
    task: Task,
    state: TrainState,
    run: RunDir,
    accelerator: Accelerator,
    say: Callable[[str], None],
) -> None:
    """Say what is trained, on what, and for how long."""
    plan, training = task.plan, task.config.training
    for line in task.announce(state, run):
        say(line)
    say(
        f"{task.loaded.num_parameters / 1e6:.1f} M parameters on {accelerator.device}, "
        f"{training.precision}, {task.loaded.attn_implementation} attention"
        f"{', compiled' if training.compile else ''}; {task.sizes()}"
    )
    say(plan.describe())
    for line in task.caveats():
        say(f"warning: {line}")


def why_it_ended_early(task: Task, state: TrainState) -> str | None:
    """Return why a run took fewer steps than planned; None if an evaluation has reported it."""
    max_steps, training = task.plan.max_steps, task.config.training
    ended = f"ended after step {state.step:,} of {max_steps:,}"
    if task.reason_to_stop(state) is not None:
        return None
    if patience_is_over(training, state):
        return (
            f"{ended}: {counted(state.num_evaluations_without_improvement, 'evaluation')} in a row "
            "without a better result (training.early_stopping_patience)"
        )
    rate = task.plan.learning_rate_at(state.step)
    return (
        f"{ended}: training.max_minutes: {training.max_minutes:g} are over, with the learning rate "
        f"still at {rate:.2e}; set training.max_steps to {state.step:,} for a schedule that ends "
        "in this time"
    )


def describe_duration(
    task: Task, step: int, clock: Clock, seconds_per_evaluation: float | None
) -> str:
    """Return a line on how long the whole run will take, by the pace of its first steps."""
    plan, every, minutes = task.plan, task.config.evaluation.every, task.config.training.max_minutes
    num_evaluations = len(plan.due_after(step, every))
    seconds = clock.seconds_of_steps_left(step, plan)
    evaluated = "without evaluations"
    if seconds_per_evaluation is not None:
        seconds += num_evaluations * seconds_per_evaluation
        evaluated = "evaluations included"
    if minutes is not None:
        seconds = min(seconds, 60 * minutes - clock.elapsed_seconds)
    finish = datetime.now() + timedelta(seconds=max(seconds, 0))
    return (
        f"about {tqdm.format_interval(clock.elapsed_seconds + seconds)} for the whole run, "
        f"{evaluated}; done around {finish:%Y-%m-%d %H:%M}"
    )
