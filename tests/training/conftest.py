"""What the training tests share: signals at chosen moments, and learning that goes wrong."""

import os
import signal
from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest

from mlmtune.training import loop
from mlmtune.training.checkpoint import TrainState
from mlmtune.training.plan import Plan


@pytest.fixture
def stopping_after() -> Callable[..., AbstractContextManager[None]]:
    """A context in which this process gets a signal as soon as some step is taken."""

    @contextmanager
    def stopping(step: int, number: int = signal.SIGTERM) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            take_step = loop.take_step

            def take_step_and_stop(
                learner: Any, task: Any, state: TrainState, *arguments: Any
            ) -> Any:
                result = take_step(learner, task, state, *arguments)
                if state.step == step:
                    os.kill(os.getpid(), number)
                return result

            patch.setattr(loop, "take_step", take_step_and_stop)
            yield

    return stopping


@pytest.fixture
def worse_after(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Makes a run learn up to some step, and unlearn from there."""

    def worsen(step: int) -> None:
        monkeypatch.setattr(Plan, "learning_rate_at", lambda _, at: 0.003 if at < step else 3.0)

    return worsen
