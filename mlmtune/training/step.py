"""A training step: gradients over micro-batches and processes, and what the optimizer does.

Sums are divided once, by the number of targets in the whole step. So every target, such as a
masked token, counts once, however the batch is cut into micro-batches and over processes.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch
from accelerate import Accelerator

from mlmtune.errors import DivergedError, is_out_of_memory
from mlmtune.modeling.device import free_cached_memory
from mlmtune.modeling.dropout import KeyedDropout
from mlmtune.training.checkpoint import TrainState
from mlmtune.training.interrupts import STOP_SIGNALS
from mlmtune.training.learner import Learner
from mlmtune.training.memory import shrink_micro_batch
from mlmtune.training.stream import Batch
from mlmtune.training.task import Task

MAX_OVERFLOWS_IN_A_ROW = 25
"""fp16 halves its loss scale at each overflow; after so many in a row there is no scale left."""


@dataclass(frozen=True)
class AgreedStep:
    """The next step of a run, as all processes have agreed on it.

    Attributes:
        number: The step, counted from 0.
        batches: This process's micro-batches.
        num_targets: The number that each sum of the step is divided by, over all processes.
        signal_number: The signal that ends the run before this step; None without one.
        is_out_of_time: Whether the run ends after this step.
    """

    number: int
    batches: Sequence[Batch]
    num_targets: Mapping[str, int]
    signal_number: int | None
    is_out_of_time: bool


def agree(
    accelerator: Accelerator,
    task: Task,
    step: int,
    *,
    signal_number: int | None = None,
    is_out_of_time: bool = False,
) -> AgreedStep:
    """Make the batches of a step, and exchange what one process alone knows before it is taken.

    All processes must divide by the same number of targets, and stop after the same step. So they
    exchange their targets, their signals and the main process's clock.

    Args:
        accelerator: The processes.
        task: The batches, and the targets in them.
        step: The step, counted from 0.
        signal_number: The signal that this process has received, if any.
        is_out_of_time: Whether this process's time is over; only the main process's counts.
    """
    batches = task.stream.micro_batches(step)
    counts: Counter[str] = Counter()
    for batch in batches:
        counts.update(task.num_targets(batch))
    num_targets = dict(counts)
    if accelerator.num_processes == 1:
        return AgreedStep(step, batches, num_targets, signal_number, is_out_of_time)
    mine = torch.tensor(
        [is_out_of_time and accelerator.is_main_process,
         *(signal_number == number for number in STOP_SIGNALS), *num_targets.values()],
        dtype=torch.int64, device=accelerator.device,
    )  # fmt: skip
    late, *totals = accelerator.reduce(mine, reduction="sum").tolist()
    received, totals = totals[: len(STOP_SIGNALS)], totals[len(STOP_SIGNALS) :]
    # The first of several, so that all report the same; it may not have reached each of them yet.
    signals = (n for n, count in zip(STOP_SIGNALS, received, strict=True) if count)
    num_targets = dict(zip(num_targets, totals, strict=True))
    return AgreedStep(step, batches, num_targets, next(signals, None), bool(late))


@dataclass(frozen=True)
class StepTaken:
    """The outcome of a step.

    Attributes:
        learning_rate: The learning rate of the step.
        gradient_norm: The norm before clipping; not finite if fp16 overflowed.
        task: The task for the next step. Its micro-batches are smaller if memory ran out.
    """

    learning_rate: float
    gradient_norm: float
    task: Task


def take_step(
    learner: Learner, task: Task, state: TrainState, step: AgreedStep, say: Callable[[str], None]
) -> StepTaken:
    """Take one optimizer step, and count it in the state.

    Args:
        learner: The model and its optimizer.
        task: The loss.
        state: The state before the step.
        step: The step that follows the state.
        say: Reports that micro-batches have become smaller.

    Raises:
        DivergedError: Loss or gradient is not finite; the weights are as before the step.
        ResourceError: Memory does not suffice, even for smaller micro-batches.
    """
    accelerator, config = learner.accelerator, task.config
    task, parts = _add_up_gradients(learner, task, step, say)
    # Before anything waits for a device, so that the device need not wait for this.
    clipped = accelerator.clip_grad_norm_(
        learner.model.parameters(), config.optimizer.max_grad_norm
    )
    task.stream.prepare(step.number + 1)  # while the device computes
    sums = _add_up_sums(accelerator, parts)
    # Before the optimizer, because a weight that is not finite cannot be taken back.
    for name, value in sums.items():
        if not math.isfinite(value):
            raise _diverged(f"the {name} of step {step.number + 1} is {value}", task)

    learning_rate = task.plan.learning_rate_at(step.number)
    for group in learner.optimizer.param_groups:
        group["lr"] = learning_rate
    norm = float(clipped)
    # A scaler skips a step whose gradient overflows; without one, it would be applied.
    if not math.isfinite(norm) and accelerator.scaler is None:
        raise _diverged(f"the gradient of step {step.number + 1} is {norm}", task)
    if task.plan.resets_optimizer_before(step.number):
        learner.plain_optimizer.state.clear()
    learner.update_weights()
    learner.clear_gradients()
    _count_overflow(accelerator, state, task)

    state.step += 1
    state.num_tokens += task.stream.num_tokens(step.number)
    state.totals.add(sums, step.num_targets)
    state.window.add(sums, step.num_targets)
    return StepTaken(learning_rate, norm, task)


def _add_up_gradients(
    learner: Learner, task: Task, step: AgreedStep, say: Callable[[str], None]
) -> tuple[Task, list[dict[str, torch.Tensor]]]:
    """Compute a step's micro-batches forward and backward; smaller ones if memory runs out.

    Returns:
        The task whose micro-batches fit, and the detached sums of each micro-batch, by their names
        in metrics.jsonl.
    """
    try:
        return task, [
            _add_gradients(learner, task, step, index) for index in range(len(step.batches))
        ]
    except Exception as error:
        if not is_out_of_memory(error):
            raise
    # Here, not above: the error holds on to the tensors that did not fit.
    task = shrink_micro_batch(task, learner.accelerator.num_processes, step.number, say)
    learner.clear_gradients()
    free_cached_memory()
    smaller = replace(step, batches=task.stream.micro_batches(step.number))
    return _add_up_gradients(learner, task, smaller, say)


def _add_gradients(
    learner: Learner, task: Task, step: AgreedStep, index: int
) -> dict[str, torch.Tensor]:
    """Compute one of a step's micro-batches forward and backward, and return its sums."""
    accelerator, stream = learner.accelerator, task.stream
    # The device's own draws follow from the step, so that no generator's state is saved.
    torch.manual_seed(stream.generator_seed(step.number, index))
    batch = step.batches[index]
    dropout = KeyedDropout(
        stream.dropout_keys(step.number, index),
        stream.shared_dropout_key(step.number),
        batch.places,
    )
    # DDP averages gradients over processes, so that their number is multiplied back in. A step may
    # have no target of a term; the sum of that term is 0.
    scales = {name: accelerator.num_processes / max(n, 1) for name, n in step.num_targets.items()}
    # Processes exchange gradients once per step, in the backward pass of the last micro-batch.
    exchanges = index == len(step.batches) - 1
    with nullcontext() if exchanges else accelerator.no_sync(learner.model):
        with dropout if learner.keys_dropout else nullcontext():
            losses = task.losses(learner.model, batch.to(accelerator.device))
        accelerator.backward(losses.weighted(scales))
    sums = losses.terms | losses.tallies
    return {name: value.detach().float() for name, value in sums.items()}


def _add_up_sums(
    accelerator: Accelerator, parts: Sequence[Mapping[str, torch.Tensor]]
) -> dict[str, float]:
    """Add up the sums of all micro-batches of all processes, by their names."""
    # In double precision, so that the total hardly depends on how the step was divided.
    mine = torch.stack([torch.stack(list(part.values())) for part in parts])
    mine = mine.cpu().double().sum(dim=0)  # one copy per step, because each waits for the device
    if accelerator.num_processes > 1:
        mine = accelerator.reduce(mine.to(accelerator.device), reduction="sum")
    return dict(zip(parts[0], mine.tolist(), strict=True))


def _count_overflow(accelerator: Accelerator, state: TrainState, task: Task) -> None:
    """Count a step that fp16's scaler has skipped because its gradient overflowed.

    Raises:
        DivergedError: Too many steps in a row were skipped.
    """
    if not accelerator.optimizer_step_was_skipped:
        state.num_overflows_in_a_row = 0
        return
    state.num_skipped_steps += 1
    state.num_overflows_in_a_row += 1
    if state.num_overflows_in_a_row > MAX_OVERFLOWS_IN_A_ROW:
        raise _diverged(f"fp16 overflowed in {state.num_overflows_in_a_row} steps in a row", task)


def _diverged(what: str, task: Task) -> DivergedError:
    return DivergedError(
        f"{what}; this step was not applied. Lower optimizer.learning_rate"
        + (", or set training.precision: bf16" if task.config.training.precision == "fp16" else "")
        + ", then resume with --resume auto --allow-changes"
    )
