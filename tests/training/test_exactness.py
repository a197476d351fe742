"""Stopped anywhere, under any settings: the same bits, the same masks, and nothing done twice."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from runs import Runs, assert_same_end
from transformers import BertForMaskedLM

from mlmtune.training.stream import TrainingStream

MAX_STEPS = 7
GLOBAL_BATCH_SIZE = 32
STEP_OF_EPOCH_END = 4


class Killed(BaseException):
    """Nothing in the package catches it, so that nothing is saved."""


@dataclass(frozen=True)
class Moment:
    """When a run is killed: in the backward pass of a micro-batch of a step, or after the last."""

    step: int
    micro_batch: int | None = None


MOMENTS = {
    "mid-epoch": Moment(3),
    "epoch end": Moment(STEP_OF_EPOCH_END),
    "mid-accumulation": Moment(6, micro_batch=2),
    "before the last step": Moment(MAX_STEPS - 1),
}

# Every pair of values of two columns occurs (but accumulation 1 has no middle).
CASES = [
    # moment, evaluation every, dropout, accumulation
    ("mid-epoch", 2, 0.0, 1),
    ("mid-epoch", None, 0.1, 3),
    ("epoch end", 2, 0.1, 3),
    ("epoch end", None, 0.0, 1),
    ("mid-accumulation", 2, 0.1, 3),
    ("mid-accumulation", None, 0.0, 3),
    ("before the last step", 2, 0.0, 3),
    ("before the last step", None, 0.1, 1),
]


@dataclass
class Seen:
    """What a run asked of the stream, and what its model was trained on."""

    steps: list[int] = field(default_factory=list)
    inputs: list[torch.Tensor] = field(default_factory=list)


@contextmanager
def watching() -> Iterator[Seen]:
    seen = Seen()
    micro_batches, forward = TrainingStream.micro_batches, BertForMaskedLM.forward

    def note_step(stream: TrainingStream, step: int) -> Any:
        seen.steps.append(step)
        return micro_batches(stream, step)

    def note_inputs(model: Any, *args: Any, **kwargs: Any) -> Any:
        if model.training:
            seen.inputs.append(kwargs["input_ids"].clone())
        return forward(model, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingStream, "micro_batches", note_step)
        patch.setattr(BertForMaskedLM, "forward", note_inputs)
        yield seen


@contextmanager
def killing(moment: Moment, accumulation: int) -> Iterator[None]:
    """Kill in a backward pass: of this step, or, where the step is to end, of the next."""
    in_step, in_micro_batch = moment.step, moment.micro_batch
    if in_micro_batch is None:
        in_step, in_micro_batch = moment.step + 1, 1
    calls_left = [(in_step - 1) * accumulation + in_micro_batch]
    backward = Accelerator.backward

    def count(accelerator: Accelerator, loss: torch.Tensor) -> None:
        calls_left[0] -= 1
        if calls_left[0] == 0:
            raise Killed
        backward(accelerator, loss)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Accelerator, "backward", count)
        yield


@pytest.mark.parametrize(("moment", "evaluate_every", "dropout", "accumulation"), CASES)
def test_killed_and_resumed(
    runs: Runs,
    moment: str,
    evaluate_every: int | None,
    dropout: float,
    accumulation: int,
) -> None:
    sections: dict[str, dict[str, Any]] = {
        "model": {"dropout": dropout},
        "training": {
            "max_steps": MAX_STEPS,
            "global_batch_size": GLOBAL_BATCH_SIZE,
            "micro_batch_size": {1: 32, 3: 12}[accumulation],
        },
        "evaluation": {"every": evaluate_every},
        "checkpoint": {"every": 2, "export": "last"},
    }
    with watching() as whole:
        expected = runs.train("expected", **sections)
    num_chunks = expected.json("corpus.json")["train"]["chunks"]
    assert -(-num_chunks // GLOBAL_BATCH_SIZE) == STEP_OF_EPOCH_END
    assert whole.steps == list(range(MAX_STEPS))
    assert len(whole.inputs) == MAX_STEPS * accumulation

    with killing(MOMENTS[moment], accumulation), pytest.raises(Killed):
        runs.train(**sections)
    saved = max(runs.at().checkpoint_steps)
    assert saved == {"mid-epoch": 2, "epoch end": 4, "mid-accumulation": 4}.get(moment, 6)

    with watching() as resumed:
        run = runs.train(**sections, resume="auto")
    assert resumed.steps == list(range(saved, MAX_STEPS))
    for inputs, others in zip(resumed.inputs, whole.inputs[saved * accumulation :], strict=True):
        assert torch.equal(inputs, others)
    assert_same_end(run, expected)
