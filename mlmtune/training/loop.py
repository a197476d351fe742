"""train(): a run from config to result."""

import math
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from tqdm import tqdm

from mlmtune.config_loading import recorded_text, recorded_yaml
from mlmtune.console import Console
from mlmtune.errors import (
    CheckpointError,
    ConfigError,
    DivergedError,
    Interrupted,
    ResourceError,
    StoppedAtOnce,
    explain,
    is_out_of_memory,
)  # fmt: skip
from mlmtune.locations import expand_home
from mlmtune.modeling.device import (
    build_accelerator,
    decided_by_main,
    free_cached_memory,
)  # fmt: skip
from mlmtune.modeling.dropout import KeyedDropout
from mlmtune.modeling.losses import LOSS
from mlmtune.printable import counted
from mlmtune.training.checkpoint import checkpoint_path, prune, save_checkpoint
from mlmtune.training.environment import describe_environment
from mlmtune.training.interrupts import STOP_SIGNALS, listening
from mlmtune.training.job import (
    Job,
    Options,
    begin,
    how_to_train_on,
    is_complete,
    open_hub,
    resume,
    start,
    start_trackers,
    with_recorded_choices,
)  # fmt: skip
from mlmtune.training.memory import fit_micro_batch, shrink_micro_batch
from mlmtune.training.optimization import learning_rate_at
from mlmtune.training.progress import Clock, Progress, StepReport
from mlmtune.training.results import export, summarize, write_card
from mlmtune.training.run_dir import RunDir, open_run_dir
from mlmtune.training.stream import Batch
from mlmtune.training.task import Evaluation, Settings, SettingsT, Task
from mlmtune.training.window import Window

STEPS_BEFORE_ESTIMATE = 5
"""After so many the pace is known; the first steps pay for memory that is asked for once."""

MAX_OVERFLOWS_IN_A_ROW = 25
"""fp16 halves its loss scale at each overflow; after so many in a row there is no scale left."""


def train(
    config: SettingsT,
    options: Options,
    build: Callable[[SettingsT, Accelerator, Console], Task],
) -> dict[str, Any] | None:
    """Run a config to its end, or to where it is told to stop.

    Args:
        config: as loaded.
        options: how to go about it.
        build: makes of the config what is trained.

    Returns:
        all_results.json's content; None if the run was complete already.

    Raises:
        MlmtuneError: see `mlmtune.errors`; status.json holds the reason too.
    """
    with ExitStack() as stack:
        asked = config.training.micro_batch_size
        config = with_recorded_choices(config, options)
        accelerator = build_accelerator(config.training.precision)
        stack.push(partial(_leave, accelerator))
        progress = Progress(
            is_main=accelerator.is_main_process,
            is_quiet=options.is_quiet,
            shows_lines=not options.is_silent,
        )
        stack.callback(progress.stop)
        kept = config.training.micro_batch_size
        if isinstance(asked, int) and asked != kept:
            progress.say(f"micro batches of {kept} as in this run so far, not of {asked}")
        run = _open_run(config, options, accelerator, stack)
        if options.resume == "auto" and decided_by_main(
            accelerator, lambda: is_complete(run, config, options, progress.say)
        ):
            progress.result(f"{run.path} is already complete; see {run.model}")
            for line in how_to_train_on(run, config, options):
                progress.result(line)
            return None
        if accelerator.is_main_process:
            run.write_status("preparing")
        stack.enter_context(_recording_failure(run, accelerator))
        push = open_hub(config.hub, accelerator, run, progress)
        task = build(config, accelerator, progress)
        stop = stack.enter_context(listening())
        job = start(task, accelerator, run, progress, stop, push)
        checkpoint = resume(job, options)
        _see_the_same(job)
        if job.config.training.micro_batch_size == "auto":
            fit_micro_batch(job)
        _announce(job)
        before = _evaluate_before(job)
        begin(job, options, checkpoint)
        _write_records(job, options)
        stack.callback(job.trackers.finish)
        start_trackers(job)
        if before is not None:
            _record_evaluation(job, before)
        _train_to_the_end(job)
        results = export(job)
        job.trackers.log_results(results, job.state.step)
        if job.push is not None:
            job.push.wait(lambda: bool(job.stop))
        summarize(job, results)
        return results


# ------------------------------------------------------------------------------ before the steps


def _open_run(
    config: Settings, options: Options, accelerator: Accelerator, stack: ExitStack
) -> RunDir:
    path = expand_home(config.run.output_dir)
    model = expand_home(config.model.name_or_path).resolve()
    if options.overwrite and model.is_relative_to(path.resolve()):
        raise ConfigError(
            f"--overwrite would delete model.name_or_path {config.model.name_or_path}, which lies "
            "in run.output_dir; set run.output_dir to another place"
        )
    if options.resume not in ("never", "auto") and not expand_home(options.resume).is_dir():
        raise CheckpointError(
            f"--resume {options.resume}: there is no such folder; give a checkpoint's, or auto"
        )
    may_be_in_use = options.resume != "never" or options.overwrite
    return decided_by_main(
        accelerator, lambda: stack.enter_context(open_run_dir(path, may_be_in_use=may_be_in_use))
    )


@contextmanager
def _recording_failure(run: RunDir, accelerator: Accelerator) -> Iterator[None]:
    """Leave the reason of a failure in status.json: launchers turn every exit code into 1."""
    try:
        yield
    except BaseException as error:
        if accelerator.is_main_process:
            message, exit_code = explain(error)
            stopped = isinstance(error, Interrupted | StoppedAtOnce)
            status = run.read_status()
            where = {name: status[name] for name in ("step", "max_steps") if name in status}
            # What comes after the result, such as waiting for a push, takes nothing back from it.
            with suppress(ResourceError):  # a full disk must not hide what happened first
                if status.get("state") != "finished":
                    state = "interrupted" if stopped else "failed"
                    run.write_status(state, exit_code=exit_code, message=message, **where)
        raise


def _leave(accelerator: Accelerator, kind: type[BaseException] | None, *_: object) -> None:
    """Take the process group down; gloo hangs on it now and then unless the model went first."""
    accelerator.free_memory()
    # NCCL would wait here for processes that are still in the step in which this one failed.
    if accelerator.device.type == "cpu" or kind is None or issubclass(kind, Interrupted):
        accelerator.end_training()


def _see_the_same(job: Job) -> None:
    """Processes that read other text, or resumed from another step, would train on nonsense.

    Raises:
        CheckpointError: they do; the machines do not share the corpus or the output directory.
    """
    mine = (*job.task.data_seen, job.state.step)
    seen = gather_object([mine])
    if len(set(seen)) > 1:
        raise CheckpointError(
            "the processes see different text or checkpoints (data, its size, step: "
            f"{', '.join(map(str, sorted(set(seen))))}); run.output_dir and the text must be the "
            "same files on every machine"
        )


def _write_records(job: Job, options: Options) -> None:
    if not job.accelerator.is_main_process:
        return
    if options.config_text is not None:
        job.run.write_text("config.yaml", recorded_text(options.config_text))
    _write_resolved_config(job)
    job.run.write_json("environment.json", describe_environment(job.accelerator.num_processes))
    job.task.write_records(job.run)
    job.run.write_status("running", step=job.state.step, max_steps=job.task.plan.max_steps)


def _write_resolved_config(job: Job) -> None:
    if job.accelerator.is_main_process:
        job.run.write_text("config.resolved.yaml", recorded_yaml(job.config))


def _announce(job: Job) -> None:
    task, plan, say = job.task, job.task.plan, job.progress.say
    training = job.config.training
    for line in task.announce(job.state, job.run):
        say(line)
    say(
        f"{task.loaded.num_parameters / 1e6:.1f} M parameters on {job.accelerator.device}, "
        f"{training.precision}, {task.loaded.attn_implementation} attention"
        f"{', compiled' if training.compile else ''}; {task.sizes()}"
    )
    say(
        f"{counted(plan.max_steps, 'step')} of {counted(plan.global_batch_size, 'sequence')} "
        f"({plan.num_processes} x {plan.num_accumulation} x {plan.micro_batch_size}: processes x "
        f"accumulation x micro batch), {plan.num_epochs:.2f} epochs"
    )
    for line in task.caveats():
        say(f"warning: {line}")


# ----------------------------------------------------------------------------------- the steps


def _train_to_the_end(job: Job) -> None:
    state, plan = job.state, job.task.plan
    job.progress.start(state.step, plan.max_steps)
    clock = Clock(state.step, state.num_tokens, state.elapsed_seconds)
    estimated_at = state.step + STEPS_BEFORE_ESTIMATE
    if _evaluation_is_pending(job) and _evaluate(job):
        _save(job)
    last = state.step >= plan.max_steps or _is_stopped_early(job) or _is_out_of_time(job)
    while not last:
        batches = job.task.stream.micro_batches(state.step)
        agreed = agree(job, batches)
        if agreed.signal_number is not None:
            _save_and_stop(job, agreed.signal_number)

        task = job.task
        taken = take_step(job, batches, agreed.num_targets)
        if job.task is not task:  # smaller micro-batches from here on
            _write_resolved_config(job)
        state.elapsed_seconds = clock.elapsed_seconds
        job.progress.step()

        last = state.step == plan.max_steps or agreed.is_out_of_time
        if state.step == estimated_at and not last:
            _say_how_long(job, clock)
        if last or plan.is_due(state.step, job.config.training.log_every):
            _log(job, taken, clock)
        with clock.aside():
            improved = pushes = False
            if last or plan.is_due(state.step, job.config.evaluation.every):
                improved = _evaluate(job)
                last = last or _is_stopped_early(job)
                becomes_result = improved or job.config.checkpoint.export == "last"
                pushes = job.pushes_on_the_way and becomes_result and not last
            if last or improved or pushes or plan.is_due(state.step, job.config.checkpoint.every):
                state.elapsed_seconds = clock.elapsed_seconds
                checkpoint = _save(job)
                if pushes:
                    _push(job, checkpoint)
    job.progress.stop()
    if state.step < plan.max_steps and (why := _why_it_ended_early(job)):
        job.progress.say(why)


def _why_it_ended_early(job: Job) -> str | None:
    """Why a run took fewer steps than planned; None where that was said when it was measured."""
    state, training = job.state, job.config.training
    where = f"ended after step {state.step:,} of {job.task.plan.max_steps:,}"
    if job.task.reason_to_stop(state) is not None:
        return None
    if _is_tired(job):
        return (
            f"{where}: {counted(state.num_evaluations_without_improvement, 'evaluation')} in a row "
            "without a better result (training.early_stopping_patience)"
        )
    rate = learning_rate_at(state.step, job.task.plan.max_steps, job.config.optimizer)
    return (
        f"{where}: training.max_minutes: {training.max_minutes:g} are over, with the learning rate "
        f"still at {rate:.2e}; set training.max_steps to {state.step:,} for a schedule that comes "
        "to its end in this time"
    )


def _say_how_long(job: Job, clock: Clock) -> None:
    """Say once how long the whole run will take, by the pace of its first steps."""
    state, plan, every = job.state, job.task.plan, job.config.evaluation.every
    steps = range(state.step + 1, plan.max_steps + 1)
    num_evaluations = sum(step == plan.max_steps or plan.is_due(step, every) for step in steps)
    seconds = clock.seconds_per_step(state.step) * len(steps)
    evaluated = "without evaluations"
    if job.seconds_per_evaluation is not None:
        seconds += num_evaluations * job.seconds_per_evaluation
        evaluated = "evaluations included"
    minutes = job.config.training.max_minutes
    if minutes is not None:
        seconds = min(seconds, 60 * minutes - clock.elapsed_seconds)
    finish = datetime.now() + timedelta(seconds=max(seconds, 0))
    job.progress.say(
        f"about {tqdm.format_interval(clock.elapsed_seconds + seconds)} for the whole run, "
        f"{evaluated}; done around {finish:%Y-%m-%d %H:%M}"
    )


@dataclass(frozen=True)
class _Agreement:
    """What all processes know before a step.

    Attributes:
        num_targets: What each sum of the step is divided by; see `Task.num_targets`.
        signal_number: The signal to answer; None without one.
        is_out_of_time: Whether the step is the last one.
    """

    num_targets: Mapping[str, int]
    signal_number: int | None
    is_out_of_time: bool


def agree(job: Job, batches: Sequence[Batch]) -> _Agreement:
    """Share what one process alone knows: its targets, its signals, its clock.

    One small exchange per step, so that all stop after the same step and divide by the same number.
    """
    num_targets: Counter[str] = Counter()
    for batch in batches:
        num_targets.update(job.task.num_targets(batch))
    is_late = _is_out_of_time(job)
    signal_number = job.stop.signal_number
    if job.accelerator.num_processes == 1:
        return _Agreement(num_targets, signal_number, is_late)
    mine = torch.tensor(
        [is_late and job.accelerator.is_main_process,
         *(signal_number == number for number in STOP_SIGNALS), *num_targets.values()],
        dtype=torch.int64, device=job.accelerator.device,
    )  # fmt: skip
    late, *totals = job.accelerator.reduce(mine, reduction="sum").tolist()
    received, totals = totals[: len(STOP_SIGNALS)], totals[len(STOP_SIGNALS) :]
    # The same in all, so that they say the same: it may not have reached each of them yet.
    agreed = next((n for n, count in zip(STOP_SIGNALS, received, strict=True) if count), None)
    return _Agreement(dict(zip(num_targets, totals, strict=True)), agreed, bool(late))


@dataclass(frozen=True)
class _Taken:
    """What a step was taken with.

    Attributes:
        learning_rate: of the optimizer.
        gradient_norm: before clipping; not finite where fp16 overflowed.
    """

    learning_rate: float
    gradient_norm: float


def take_step(job: Job, batches: Sequence[Batch], num_targets: Mapping[str, int]) -> _Taken:
    """One optimizer step: every target of the global batch, such as a masked token, counts once.

    Each term of the loss of a micro-batch is a sum over its targets, divided by the number of the
    term's targets in the whole step over all processes. DDP averages gradients over processes, so
    their number is multiplied back in.

    Raises:
        DivergedError: loss or gradient is not finite; the weights are as before the step.
        ResourceError: memory does not suffice, even for smaller micro-batches.
    """
    accelerator, state, config = job.accelerator, job.state, job.config
    scales = {name: accelerator.num_processes / max(n, 1) for name, n in num_targets.items()}
    sums = _sums(job, _add_up_gradients(job, batches, scales))
    for name, value in sums.items():
        if not math.isfinite(value):
            raise DivergedError(_diverged(f"the {name} of step {state.step + 1} is {value}", job))

    learning_rate = learning_rate_at(state.step, job.task.plan.max_steps, config.optimizer)
    for group in job.optimizer.param_groups:
        group["lr"] = learning_rate
    norm = float(
        accelerator.clip_grad_norm_(job.model.parameters(), config.optimizer.max_grad_norm)
    )
    if not math.isfinite(norm) and accelerator.scaler is None:
        raise DivergedError(_diverged(f"the gradient of step {state.step + 1} is {norm}", job))
    job.optimizer.step()
    job.optimizer.zero_grad()
    _count_overflow(job)

    state.step += 1
    state.num_tokens += job.task.stream.num_tokens(state.step - 1)
    state.totals.add(sums, num_targets)
    state.window.add(sums, num_targets)
    return _Taken(learning_rate, norm)


def _add_up_gradients(
    job: Job, batches: Sequence[Batch], scales: Mapping[str, float]
) -> list[dict[str, torch.Tensor]]:
    """Forward and backward of a step's micro-batches; of smaller ones where memory runs out.

    Args:
        job: the run.
        batches: this process's micro-batches.
        scales: what each term is multiplied by before its gradient is taken.

    Returns:
        For each micro-batch its sums, detached, by their names in metrics.jsonl.
    """
    try:
        return [_add_gradients(job, batches, index, scales) for index in range(len(batches))]
    except Exception as error:
        if not is_out_of_memory(error):
            raise
    # Here, not above: the error holds on to the tensors that did not fit.
    shrink_micro_batch(job)
    job.optimizer.zero_grad()
    free_cached_memory(job.accelerator.device)
    return _add_up_gradients(job, job.task.stream.micro_batches(job.state.step), scales)


def _add_gradients(
    job: Job, batches: Sequence[Batch], index: int, scales: Mapping[str, float]
) -> dict[str, torch.Tensor]:
    accelerator, stream = job.accelerator, job.task.stream
    torch.manual_seed(stream.generator_seed(job.state.step, index))
    dropout = KeyedDropout(
        stream.dropout_keys(job.state.step, index), stream.shared_dropout_key(job.state.step)
    )
    exchanges = index == len(batches) - 1
    with nullcontext() if exchanges else accelerator.no_sync(job.model):
        with dropout if job.keys_dropout else nullcontext():
            losses = job.task.losses(job.model, batches[index].to(accelerator.device))
        accelerator.backward(losses.weighted(scales))
    sums = losses.terms | losses.tallies
    return {name: value.detach().float() for name, value in sums.items()}


def _sums(job: Job, parts: list[dict[str, torch.Tensor]]) -> dict[str, float]:
    """Add up the sums of all micro-batches of all processes, in double precision."""
    mine = torch.stack([torch.stack(list(part.values())) for part in parts])
    mine = mine.cpu().double().sum(dim=0)  # one copy per step, because each waits for the device
    if job.accelerator.num_processes > 1:
        mine = job.accelerator.reduce(mine.to(job.accelerator.device), reduction="sum")
    return dict(zip(parts[0], mine.tolist(), strict=True))


def _count_overflow(job: Job) -> None:
    """fp16: a step whose gradient overflowed is skipped by the scaler, within bounds."""
    if not job.accelerator.optimizer_step_was_skipped:
        job.state.num_overflows_in_a_row = 0
        return
    job.state.num_skipped_steps += 1
    job.state.num_overflows_in_a_row += 1
    if job.state.num_overflows_in_a_row > MAX_OVERFLOWS_IN_A_ROW:
        raise DivergedError(
            _diverged(f"fp16 overflowed in {job.state.num_overflows_in_a_row} steps in a row", job)
        )


def _diverged(what: str, job: Job) -> str:
    return (
        f"{what}; nothing of it was applied. Lower optimizer.learning_rate"
        + (", or set training.precision: bf16" if job.config.training.precision == "fp16" else "")
        + ", then go on with --resume auto --allow-changes"
    )


def _log(job: Job, taken: _Taken, clock: Clock) -> None:
    state, plan = job.state, job.task.plan
    means = state.window.means()
    report = StepReport(
        step=state.step,
        max_steps=plan.max_steps,
        epoch=plan.epoch_at(state.step),
        loss=means[LOSS],
        means=job.task.describe_means(means),
        learning_rate=taken.learning_rate,
        tokens_per_second=clock.tokens_per_second(state.num_tokens),
        seconds_left=clock.seconds_left(state.step, plan.max_steps),
    )
    if job.accelerator.is_main_process:
        job.record(
            {
                "step": report.step,
                "epoch": report.epoch,
                **means,
                "learning_rate": taken.learning_rate,
                **job.task.metrics(state.step - 1),
                "grad_norm": taken.gradient_norm if math.isfinite(taken.gradient_norm) else None,
                "num_tokens": state.num_tokens,
                job.task.num_targets_name: state.totals.counts[LOSS],
                "tokens_per_second": report.tokens_per_second,
            }
        )
        job.run.write_status("running", step=state.step, max_steps=plan.max_steps)
    job.progress.log(report)
    state.window = Window()


# --------------------------------------------------------------------- evaluating and saving


def _evaluate_before(job: Job) -> Evaluation | None:
    """Measure the base; None where that is done already, or a task does not."""
    state = job.state
    if state.evaluation_before is not None or not job.task.measures_before:
        return None
    if job.accelerator.is_main_process:
        state.examples_before = job.task.fill_examples(job.module)
    evaluation = _measure(job)
    state.evaluation_before = evaluation.to_json()
    job.progress.say(f"before training: {evaluation.describe()}")
    return evaluation


def _evaluate(job: Job) -> bool:
    """Measure, and remember whether it is the best so far (then a checkpoint is owed)."""
    state = job.state
    evaluation = _measure(job)
    state.evaluations[str(state.step)] = evaluation.to_json()
    worse = "; worse than before training" * job.task.is_worse_than_base(state, state.step)
    job.progress.say(f"after step {state.step}: {evaluation.describe()}{worse}")
    _record_evaluation(job, evaluation)
    reason = job.task.reason_to_stop(state)
    if reason is not None:
        job.progress.say(reason)
        return False
    if state.best_criterion is not None and evaluation.criterion >= state.best_criterion:
        state.num_evaluations_without_improvement += 1
        return False
    state.best_criterion, state.best_step = evaluation.criterion, state.step
    state.num_evaluations_without_improvement = 0
    return job.config.checkpoint.export == "best"


def _measure(job: Job) -> Evaluation:
    began = time.monotonic()
    evaluation = job.task.evaluate(job.accelerator, job.module, lambda: bool(job.stop))
    if evaluation is None:
        _save_and_stop(job, job.stop.signal_number or signal.SIGTERM)  # or another process's
    job.seconds_per_evaluation = time.monotonic() - began
    return evaluation


def _record_evaluation(job: Job, evaluation: Evaluation) -> None:
    if job.accelerator.is_main_process:
        job.record(
            {
                "step": job.state.step,
                "epoch": job.task.plan.epoch_at(job.state.step),
                **{f"eval_{name}": value for name, value in evaluation.to_json().items()},
            }
        )


def _evaluation_is_pending(job: Job) -> bool:
    """Whether the run was interrupted in an evaluation that was due after its last step."""
    state, plan = job.state, job.task.plan
    is_due = state.step == plan.max_steps or plan.is_due(state.step, job.config.evaluation.every)
    is_due = is_due or _is_out_of_time(job)
    return state.step > 0 and is_due and str(state.step) not in state.evaluations


def _is_out_of_time(job: Job) -> bool:
    minutes = job.config.training.max_minutes
    return minutes is not None and job.state.elapsed_seconds >= 60 * minutes


def _is_stopped_early(job: Job) -> bool:
    return _is_tired(job) or job.task.reason_to_stop(job.state) is not None


def _is_tired(job: Job) -> bool:
    patience = job.config.training.early_stopping_patience
    return patience is not None and job.state.num_evaluations_without_improvement >= patience


def _save(job: Job) -> Path:
    path = checkpoint_path(job.run.checkpoints, job.state.step)
    if job.saved_step == job.state.step:
        return path
    if job.accelerator.scaler is not None:
        job.state.scaler = job.accelerator.scaler.state_dict()
    if job.accelerator.is_main_process:
        loaded = job.task.loaded
        save_checkpoint(
            job.run.checkpoints, job.module, loaded.tokenizer, loaded.kept_weights,
            job.plain_optimizer, job.state,
        )  # fmt: skip
        best = job.state.best_step if job.config.checkpoint.export == "best" else None
        prune(job.run.checkpoints, job.config.checkpoint.keep, best)
    job.accelerator.wait_for_everyone()
    job.saved_step = job.state.step
    return path


def _push(job: Job, checkpoint: Path) -> None:
    """Push what would be the result, in the background."""
    if job.push is None:
        return
    step = job.state.step
    if job.push.is_busy:
        job.progress.say(f"an earlier push is under way still, so step {step} is not pushed")
        return
    try:
        write_card(job, job.push.copy(checkpoint), job.task.results(job.state, step))
    except OSError as error:
        job.progress.say(f"step {step} is not pushed: its copy cannot be written ({error})")
        return
    job.push.push(step)


def _save_and_stop(job: Job, signal_number: int) -> NoReturn:
    """Answer a signal. Raises always."""
    name = signal.Signals(signal_number).name
    if job.state.step == 0:
        raise Interrupted(
            f"stopped by {name} before the first step; nothing to save", signal_number
        )
    path = _save(job)
    raise Interrupted(
        f"stopped by {name} after step {job.state.step}; saved {path}; go on with the same "
        "command and --resume auto",
        signal_number,
    )
