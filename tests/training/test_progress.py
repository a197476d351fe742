"""The pace that a run shows."""

from dataclasses import replace

import pytest

from mlmtune.config import OptimizerConfig
from mlmtune.training import progress
from mlmtune.training.plan import Phase, Plan
from mlmtune.training.progress import Clock

PHASE = Phase("", 100, 1_600, global_batch_size=8, num_steps=130, optimizer=OptimizerConfig())
PLAN = Plan((PHASE,), micro_batch_size=8, num_processes=1)


@pytest.fixture
def now(monkeypatch):
    """A clock that stands still until it is moved."""
    time = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: time[0])
    return time


def test_throughput_is_of_the_steps_since_it_was_last_asked(now):
    clock = Clock(step=10, num_tokens=1000, elapsed_seconds=50.0)
    now[0] += 2
    assert clock.tokens_per_second(1600) == 300
    now[0] += 1
    assert clock.tokens_per_second(1700) == 100


def test_evaluating_and_saving_are_no_part_of_the_throughput(now):
    clock = Clock(step=0, num_tokens=0, elapsed_seconds=0.0)
    now[0] += 1
    with clock.aside():
        now[0] += 30
    now[0] += 1
    assert clock.tokens_per_second(400) == 200
    assert clock.seconds_of_steps_left(4, PLAN) == 0.5 * (130 - 4)
    assert clock.elapsed_seconds == 32


def test_earlier_sittings_count_in_time_but_not_in_pace(now):
    clock = Clock(step=100, num_tokens=0, elapsed_seconds=1000.0)
    now[0] += 20
    assert clock.elapsed_seconds == 1020
    assert clock.seconds_left(110, PLAN) == 40


def test_what_is_left_counts_by_tokens(now):
    longer = replace(PHASE, num_tokens=4 * PHASE.num_tokens)
    plan = replace(PLAN, phases=(PHASE, longer))
    clock = Clock(step=0, num_tokens=0, elapsed_seconds=0.0)
    now[0] += 130
    assert clock.seconds_left(130, plan) == 4 * 130
