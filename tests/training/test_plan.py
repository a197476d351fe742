"""A run's arithmetic: how many steps, in which batches, and what is due when."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlmtune.config import OptimizerConfig, TrainingConfig
from mlmtune.errors import ConfigError
from mlmtune.training.plan import Phase, Plan


def plan(num_chunks: int = 100, num_processes: int = 1, **training: Any) -> Plan:
    config = TrainingConfig(**training)
    phase = Phase.of(config, OptimizerConfig(), num_chunks=num_chunks, num_tokens=num_chunks * 16)
    return Plan.of([phase], config, num_processes=num_processes)


@pytest.mark.parametrize(
    ("limits", "steps"),
    [
        ({}, 30),  # three epochs
        ({"epochs": 1.0}, 10),
        ({"epochs": 0.55}, 6),  # no token of what was asked for is left out
        ({"max_steps": 7}, 7),
        ({"max_tokens": 321}, 3),
        ({"epochs": 1.0, "max_steps": 7}, 7),
        ({"epochs": 0.2, "max_steps": 7}, 2),
        ({"epochs": 1.0, "max_steps": 7, "max_tokens": 160}, 1),
        ({"max_minutes": 0.001}, 30),  # it stops a run, but bends no schedule
    ],
)
def test_the_first_limit_ends_the_run(limits: dict[str, Any], steps: int) -> None:
    assert plan(global_batch_size=10, **limits).max_steps == steps


def test_a_warmup_longer_than_the_run_is_refused() -> None:
    config, sizes = TrainingConfig(max_steps=100), {"num_chunks": 10, "num_tokens": 160}
    assert Phase.of(config, OptimizerConfig(warmup_steps=100), **sizes).num_steps == 100
    for name, where in (("", "optimizer."), ("decay", "phase decay: ")):
        with pytest.raises(ConfigError, match=f"^{where}warmup_steps: 101 is more than the 100 st"):
            Phase.of(config, OptimizerConfig(warmup_steps=101), **sizes, name=name)


def test_a_run_has_at_least_one_step() -> None:
    assert plan(epochs=1e-9).max_steps == 1


@pytest.mark.parametrize(
    ("num_processes", "micro", "used", "accumulation"),
    [(1, None, 16, 1), (1, 4, 4, 4), (1, 3, 3, 6), (2, None, 8, 1), (2, 16, 8, 1), (3, None, 6, 1),
     (3, 4, 4, 2), (16, None, 1, 1)],
)  # fmt: skip
def test_batches(num_processes: int, micro: int | None, used: int, accumulation: int) -> None:
    made = plan(num_processes=num_processes, global_batch_size=16, micro_batch_size=micro)
    assert made.micro_batch_size == used
    assert made.num_accumulation(made.phases[0]) == accumulation


def test_fewer_sequences_than_processes_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"global_batch_size is 3, less than the 4 processes"):
        plan(num_processes=4, global_batch_size=3)


@given(num_chunks=st.integers(1, 300), batch=st.integers(1, 50), steps=st.integers(1, 200))
def test_epoch_falls_due_when_a_batch_ends_one(num_chunks: int, batch: int, steps: int) -> None:
    made = plan(num_chunks, max_steps=steps, global_batch_size=batch)
    due = [step for step in range(1, steps + 1) if made.is_due(step, "epoch")]
    # In integers: the step in which a chunk number reaches a multiple of the epoch's chunks.
    expected = [
        step for step in range(1, steps + 1)
        if step * batch // num_chunks > (step - 1) * batch // num_chunks or step == steps
    ]  # fmt: skip
    assert due == expected


def test_due_by_steps() -> None:
    made = plan(max_steps=10)
    assert [step for step in range(1, 11) if made.is_due(step, 4)] == [4, 8, 10]
    assert [step for step in range(1, 11) if made.is_due(step, None)] == [10]


PHASES = st.lists(
    st.builds(
        Phase, name=st.sampled_from(["a", "b", "c"]), num_chunks=st.integers(1, 60),
        num_tokens=st.integers(60, 9_000), global_batch_size=st.integers(1, 20),
        num_steps=st.integers(1, 30), optimizer=st.just(OptimizerConfig()),
        resets_optimizer=st.booleans(),
    ),
    min_size=1, max_size=3, unique_by=lambda phase: phase.name,
)  # fmt: skip


@given(phases=PHASES, data=st.data())
def test_every_step_belongs_to_one_phase(phases: list[Phase], data: Any) -> None:
    made = Plan(tuple(phases), micro_batch_size=4, num_processes=1)
    placed = [made.locate(step) for step in range(made.max_steps)]
    assert placed == [(n, at) for n, phase in enumerate(phases) for at in range(phase.num_steps)]
    assert [made.learning_rate_at(step) for step in range(made.max_steps)] == [
        phases[n].learning_rate_at(at) for n, at in placed
    ]
    ends = [step for step in range(1, made.max_steps + 1) if made.ends_phase(step)]
    assert ends == list(made.ends().values())
    assert [s for s in range(made.max_steps) if made.resets_optimizer_before(s)] == [
        begin for begin, phase in zip([0, *ends], phases, strict=False) if phase.resets_optimizer
    ]
    sequences = [phases[n].global_batch_size for n, _ in placed]
    step = data.draw(st.integers(0, made.max_steps))
    assert made.total(step, lambda phase: phase.global_batch_size) == sum(sequences[:step])
    lengths = [phases[n].num_tokens / phases[n].num_chunks for n, _ in placed]
    if step < made.max_steps:
        heaviest = made.heaviest_step(step)
        assert heaviest >= step
        assert lengths[heaviest] == max(lengths[step:])
    every = data.draw(st.sampled_from([None, 1, 3, 7, "epoch"]))
    due = {at for at in range(step + 1, made.max_steps + 1) if made.is_due(at, every)}
    assert made.due_after(step, every) == due
    assert set(ends) - set(range(step + 1)) <= due


def test_epochs() -> None:
    made = plan(num_chunks=40, max_steps=6, global_batch_size=10)
    assert made.epoch_at(1) == 0.25
    assert math.isclose(made.num_epochs, 1.5)
