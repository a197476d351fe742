"""What a person sees while a run goes on: a bar on a terminal, plain lines elsewhere."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

from mlmtune.console import Console


class Clock:
    """Time spent on a run over all its sittings, and the pace of this one.

    Args:
        step: the step that this sitting starts from.
        num_tokens: tokens seen before it.
        elapsed_seconds: time that earlier sittings took.
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
        """Throughput since this was last asked."""
        now = time.monotonic()
        rate = (num_tokens - self._asked_tokens) / max(now - self._asked_at, 1e-9)
        self._asked_at, self._asked_tokens = now, num_tokens
        return rate

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Leave the time of what is no step (evaluating, saving) out of the throughput."""
        began = time.monotonic()
        yield
        seconds = time.monotonic() - began
        self._asked_at += seconds
        self._seconds_aside += seconds

    def seconds_per_step(self, step: int) -> float:
        """What a step took in this sitting, without what was done aside."""
        seconds = time.monotonic() - self._started - self._seconds_aside
        return seconds / max(step - self._first_step, 1)

    def seconds_left(self, step: int, max_steps: int) -> float:
        """What the remaining steps will take at this sitting's pace."""
        taken = max(step - self._first_step, 1)
        return (max_steps - step) * (time.monotonic() - self._started) / taken


@dataclass(frozen=True)
class StepReport:
    """One line of metrics, in the units of metrics.jsonl.

    Attributes:
        means: The terms of the loss in words; see `Task.describe_means`.
    """

    step: int
    max_steps: int
    epoch: float
    loss: float
    means: str
    learning_rate: float
    tokens_per_second: float
    seconds_left: float

    def describe(self) -> str:
        """The line for a log file."""
        return (
            f"step {self.step}/{self.max_steps}  epoch {self.epoch:.2f}  {self.means}  "
            f"learning rate {self.learning_rate:.2e}  "
            f"{self.tokens_per_second:,.0f} tokens/s  "
            f"{tqdm.format_interval(self.seconds_left)} left"
        )


class Progress(Console):
    """A console with the bar of a run's steps."""

    _bar: "tqdm[Any] | None" = None

    def start(self, step: int, max_steps: int) -> None:
        """Begin the bar, where standard error is a terminal."""
        bar = self.bar(total=max_steps, initial=step, unit="step")
        bar.leave = self._shows_lines  # alone it goes away, and the caller says how it ended
        self._bar = None if bar.disable else bar

    def step(self) -> None:
        """One optimizer step was taken."""
        if self._bar is not None:
            self._bar.update()

    def log(self, report: StepReport) -> None:
        """Show the metrics of the last steps."""
        if self._bar is not None:
            self._bar.set_postfix_str(
                f"loss {report.loss:.3f}, {report.tokens_per_second:,.0f} tokens/s"
            )
        else:
            self.say(report.describe())

    def stop(self) -> None:
        """End the bar, leaving it on the screen."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
