"""A run under way: its task, and picking it up from a checkpoint."""

import re
import uuid
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import torch
import yaml
from accelerate import Accelerator

from mlmtune.config import HubConfig, Section
from mlmtune.config_loading import as_override, load_config, recorded_yaml
from mlmtune.console import Console
from mlmtune.errors import CheckpointError, ConfigError
from mlmtune.locations import expand_home
from mlmtune.modeling.device import decided_by_main
from mlmtune.modeling.dropout import KeyedDropout
from mlmtune.modeling.unreached_weights import freeze_unreached_weights
from mlmtune.printable import counted
from mlmtune.redaction import without_secrets
from mlmtune.sharing.trackers import TrackedRun, Trackers, kind_of
from mlmtune.shell import own_command
from mlmtune.training.checkpoint import (
    TrainState,
    checkpoint_path,
    copy_checkpoint,
    drop_checkpoints_after,
    find_checkpoint,
    find_fault,
    load_optimizer,
    load_state,
    load_weights,
)  # fmt: skip
from mlmtune.training.interrupts import StopRequest
from mlmtune.training.optimization import build_optimizer
from mlmtune.training.progress import Progress
from mlmtune.training.pushing import PushOnTheWay, check_repository
from mlmtune.training.run_dir import RunDir
from mlmtune.training.task import Settings, SettingsT, Task

MAY_CHANGE = re.compile(
    r"run\.output_dir|tokenization\.(cache_dir|store)|training\.micro_batch_size|tracking\..*|hub\..*"
    r"|.*\.license"
)
"""What a finished run may be asked for differently: none of it is about the result."""

SectionT = TypeVar("SectionT", bound=Section)


@dataclass(frozen=True)
class Options:
    """How this sitting goes about the run; nothing here is about the experiment.

    Attributes:
        resume: `never`, `auto` (the newest valid checkpoint, if there is one), or a checkpoint.
        overwrite: delete the run that the output directory holds.
        allow_changes: resume even though seed, data, model or batch size changed.
        is_quiet: print the result alone.
        is_silent: show the bar of steps and nothing else, for what runs many.
        config_text: the config file as the user wrote it, kept beside the result without the
            queries of its URLs.
        command: how the run was asked for: `train` or `finetune`, the config's path, and the
            overrides. Empty where it was asked for by other means.
    """

    resume: str = "never"
    overwrite: bool = False
    allow_changes: bool = False
    is_quiet: bool = False
    is_silent: bool = False
    config_text: str | None = None
    command: tuple[str, ...] = ()


@dataclass
class Job:
    """A run that is under way.

    Attributes:
        model: as the training step calls it (wrapped where there are several processes).
        module: the same model bare, for evaluation and saving.
        trackers: what metrics go to besides metrics.jsonl.
        push: what is pushed to the hub on the way; None where nothing is, and in other processes.
        saved_step: the step that the newest checkpoint holds.
        seconds_per_evaluation: what the last one took; None before the first of this sitting.
    """

    task: Task
    accelerator: Accelerator
    run: RunDir
    progress: Progress
    model: Any
    module: Any
    optimizer: Any
    state: TrainState
    stop: StopRequest
    trackers: Trackers
    push: PushOnTheWay | None
    saved_step: int | None = None
    seconds_per_evaluation: float | None = None

    @property
    def config(self) -> Settings:
        """The config with every `auto` decided."""
        return self.task.config

    @property
    def keys_dropout(self) -> bool:
        """Whether dropout is drawn by the keys of sequences, not by the device's generator."""
        # A compiled model has dropout of its own, and so has attention that is not eager.
        return (
            self.accelerator.device.type == "cpu"
            and not self.config.training.compile
            and self.task.loaded.attn_implementation == "eager"
        )

    @property
    def pushes_on_the_way(self) -> bool:
        """Whether the config says so, whatever the hub says; the same in all processes."""
        return self.config.hub.push == "evaluation"

    def record(self, metrics: dict[str, Any]) -> None:
        """Add a line to metrics.jsonl, and tell the trackers. Called by the main process."""
        self.run.append_metrics(metrics)
        self.trackers.log(metrics)

    @property
    def plain_optimizer(self) -> torch.optim.Optimizer:
        """The optimizer inside Accelerate's wrapper."""
        inner: torch.optim.Optimizer = self.optimizer.optimizer
        return inner


def start(
    task: Task,
    accelerator: Accelerator,
    run: RunDir,
    progress: Progress,
    stop: StopRequest,
    push: PushOnTheWay | None = None,
) -> Job:
    bare = task.loaded.model
    freeze_unreached_weights(bare)
    if task.config.training.compile:
        if task.other_than_compiling is not None:
            raise ConfigError(
                f"training.compile needs sequences of one length; {task.other_than_compiling}"
            )
        # A graph for each shape: whole and last batches, in training and evaluation.
        torch._dynamo.config.recompile_limit = 32
        bare.compile(dynamic=False)
    if task.config.training.gradient_checkpointing:
        _enable_checkpointing(bare, is_compiled=task.config.training.compile)
    optimizer = build_optimizer(bare, task.config.optimizer)
    with warnings.catch_warnings():
        # Its replacement would send the buffers around once all the same, and is not everywhere.
        warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
        model, prepared = accelerator.prepare(bare, optimizer)
    model.train()
    return Job(
        task=task,
        accelerator=accelerator,
        run=run,
        progress=progress,
        model=model,
        module=accelerator.unwrap_model(model),
        optimizer=prepared,
        state=TrainState(identity=_identity(task, accelerator)),
        stop=stop,
        trackers=Trackers(progress),
        push=push,
    )


def _enable_checkpointing(model: Any, *, is_compiled: bool) -> None:
    # transformers has renamed it and warns of the old name; the floor has only that one.
    name = "activation" if hasattr(model, "activation_checkpointing_enable") else "gradient"
    enable = getattr(model, f"{name}_checkpointing_enable")
    kwargs: dict[str, Any] = {"use_reentrant": False}
    if not is_compiled:
        kwargs["context_fn"] = KeyedDropout.checkpoint_contexts
    try:
        enable(**{f"{name}_checkpointing_kwargs": kwargs})
    except ValueError as error:
        raise ConfigError(
            f"training.gradient_checkpointing: {type(model).__name__} cannot do it; set it to false"
        ) from error


def _identity(task: Task, accelerator: Accelerator) -> dict[str, Any]:
    """What a resumed run must share with the one that wrote the checkpoint, by config key."""
    config = task.config
    sections: dict[str, Any] = {
        "run": {"seed": config.run.seed},
        "model": config.model.model_dump(
            include={"name_or_path", "revision", "attn_implementation", "dropout"}
        ),
        **task.identity(),
        "optimizer": config.optimizer.model_dump(),
        "training": {
            "global_batch_size": config.training.global_batch_size,
            "precision": config.training.precision,
            "compile": config.training.compile,
            "max_steps (or as many as its epochs or tokens take)": task.plan.max_steps,
        },
    }
    return {**flat(sections), "num_processes": accelerator.num_processes}


def resume(job: Job, options: Options) -> Path | None:
    """Load the checkpoint that the options ask for, if there is one, into the job.

    Nothing is written or deleted: the run may not be able to begin; see `begin`.

    Returns:
        The checkpoint; None where the run begins with its first step.
    """
    if options.resume == "never":
        return None
    path = decided_by_main(job.accelerator, lambda: _choose_checkpoint(job, options.resume))
    if path is None:
        job.progress.say(f"{job.run.path} holds no checkpoint yet; starting from the beginning")
        return None

    state = load_state(path)
    _compare_identities(state.identity, job.state.identity, path, job, options.allow_changes)
    state.identity = job.state.identity
    load_weights(path, job.module)
    load_optimizer(path, job.plain_optimizer)
    if job.accelerator.scaler is not None and state.scaler is not None:
        job.accelerator.scaler.load_state_dict(state.scaler)
    job.state = state
    if _is_of_this_run(path, job):
        job.saved_step = state.step
    job.progress.say(f"resumed from {path}, after step {state.step}")
    return path


def begin(job: Job, options: Options, resumed_from: Path | None) -> None:
    """Go on in the record of the run that the directory holds, or replace it.

    Called once the parts are built and the text is measured: whatever keeps a run from taking its
    first step leaves the record of an earlier one as it was.

    Raises:
        ResourceError: the directory cannot be written.
    """
    job.accelerator.wait_for_everyone()  # all have read what is deleted now
    if job.accelerator.is_main_process:
        job.run.begin(replaces=options.overwrite)
        kept_until = -1 if resumed_from is None else job.state.step
        dropped, num_broken = job.run.drop_metrics_after(kept_until)
        _note_tracked(job.run, dropped)
        if num_broken:
            job.progress.say(f"{job.run.metrics}: dropped {counted(num_broken, 'broken line')}")
        if resumed_from is not None:
            for later in drop_checkpoints_after(job.run.checkpoints, job.state.step):
                job.progress.say(f"{later} is deleted: the run goes on from step {job.state.step}")
    if resumed_from is not None:
        _keep_the_best(job, resumed_from)


def _note_tracked(run: RunDir, dropped: list[dict[str, Any]]) -> None:
    """Note what trackers were told of steps that are taken again.

    Args:
        run: its tracking.json is written.
        dropped: the metrics of these steps.
    """
    known = run.read_json("tracking.json")
    if known is None:
        return
    tracked = dict(known.get("tracked", {}))
    for record in dropped:
        kind = kind_of(record)
        tracked[kind] = max(record["step"], tracked.get(kind, 0))
    run.write_json("tracking.json", known | {"tracked": tracked})


def start_trackers(job: Job) -> None:
    """Start what `tracking` names, in the main process; a resumed run goes on where it was."""
    config = job.config.tracking
    if not job.accelerator.is_main_process or not config.with_:
        return
    known = job.run.read_json("tracking.json") if job.state.step else None
    known = {"id": uuid.uuid4().hex[:16], "tracked": {}} | (known or {})
    job.run.write_json("tracking.json", known)
    name = config.run_name or job.run.path.resolve().name
    run = TrackedRun(
        without_secrets(config.project), without_secrets(name), job.run.path, known["id"],
        job.state.step, known["tracked"],
    )  # fmt: skip
    job.trackers.start(config, run, job.config.model_dump())


def open_hub(
    config: HubConfig, accelerator: Accelerator, run: RunDir, console: Console
) -> PushOnTheWay | None:
    """Open the repository that the run is pushed to, so that a wrong token is told now.

    Returns:
        What pushes on the way; None where nothing is, and in processes other than the first.

    Raises:
        ConfigError: its name is none, or it is public and must not be.
        HubError: the hub refuses.
    """
    name = config.hub_model_id
    if name is None:
        return None
    repository = decided_by_main(
        accelerator, lambda: check_repository(name, is_private=config.private, console=console)
    )
    if repository is None or config.push == "end" or not accelerator.is_main_process:
        return None
    return PushOnTheWay(repository, run.path, console)


def _choose_checkpoint(job: Job, asked: str) -> Path | None:
    """The checkpoint to resume from; None where the run has none yet."""
    if asked == "auto":
        return find_checkpoint(job.run.checkpoints, job.progress.say)
    path = expand_home(asked)
    fault = find_fault(path)
    if fault is not None:
        raise CheckpointError(f"--resume {path}: {fault}; give another checkpoint, or auto")
    if not _is_of_this_run(path, job) and job.run.is_in_use():
        raise ConfigError(
            f"{job.run.path} holds another run than {path}; set run.output_dir to a new place"
        )
    return path


def _is_of_this_run(checkpoint: Path, job: Job) -> bool:
    return checkpoint.resolve().parent == job.run.checkpoints.resolve()


def with_recorded_choices(config: SettingsT, options: Options) -> SettingsT:
    """The config with what is left to mlmtune as the run that is resumed decided it.

    What a table says may be different on another machine or in another version; a run keeps to
    one. A micro batch that memory has made smaller stays so.
    """
    run = Path(config.run.output_dir)
    if options.resume != "auto":
        run = expand_home(options.resume).resolve().parent.parent
    path = expand_home(run) / "config.resolved.yaml"
    if options.resume == "never" or not path.is_file():
        return config
    try:
        then = load_config(path, kind=type(config))
    except ConfigError:  # damaged; whether other choices matter is seen from the checkpoint
        return config
    training = _with_recorded(config.training, then.training, "precision")
    asked, then_size = training.micro_batch_size, then.training.micro_batch_size
    if isinstance(then_size, int) and (asked is None or asked == "auto" or then_size < asked):
        then_size = min(then_size, training.global_batch_size)
        training = training.model_copy(update={"micro_batch_size": then_size})
    model = _with_recorded(config.model, then.model, "attn_implementation")
    return config.model_copy(update={"model": model, "training": training})


def _with_recorded(section: SectionT, then: SectionT, *names: str) -> SectionT:
    """A section with the recorded values in place of each `auto`."""
    values = {name: getattr(then, name) for name in names if getattr(section, name) == "auto"}
    return section.model_copy(update=values)


def is_complete(
    run: RunDir, config: Settings, options: Options, say: Callable[[str], None]
) -> bool:
    """Whether the directory holds a finished run of this config, nothing of which is missing.

    Args:
        run: the directory.
        config: as loaded.
        options: how the run was asked for.
        say: told what is missing or damaged, which the run then makes again.

    Raises:
        CheckpointError: it holds a finished run of another one; its schedule has come to its end.
    """
    if (run.read_json("status.json") or {}).get("state") != "finished":
        return False
    damage = run.find_damage()
    if damage is not None:
        say(f"{run.path} is finished, but {damage}; it is made again from the last checkpoint")
        return False
    then = flat(load_config(run.path / "config.resolved.yaml", kind=type(config)).model_dump())
    lines = [
        f"  {name}: {then.get(name)} then, {value} now"
        for name, value in flat(yaml.safe_load(recorded_yaml(config))).items()
        # What is left to mlmtune was decided then; where things lie may have changed since.
        if value not in (then.get(name), None, "auto") and not MAY_CHANGE.fullmatch(name)
    ]
    if lines:
        raise CheckpointError(
            f"{run.path} is complete, and other settings cannot go on with it; set "
            "run.output_dir to another place, or replace it by --overwrite:\n"
            + "\n".join([*lines, *how_to_train_on(run, config, options)])
        )
    return True


def how_to_train_on(run: RunDir, config: Settings, options: Options) -> Iterator[str]:
    """The command that trains a finished run's model further, as a run of its own.

    The schedule of a finished run has come to its end, so more steps are another run. It has
    another seed, because the same one would show the same text with the same masks again.

    Args:
        run: the directory of the finished run.
        config: as loaded.
        options: how the run was asked for; where they do not say, there is no command.
    """
    if not options.command:
        return
    command, path, *overrides = options.command
    changes = {
        "model.name_or_path": str(run.model),
        **({"model.revision": None} if config.model.revision is not None else {}),
        "run.output_dir": str(_next_to(run.path)),
        "run.seed": config.run.seed + 1,
    }
    kept = [one for one in overrides if one.partition("=")[0].strip() not in changes]
    changed = [f"{key}={as_override(value)}" for key, value in changes.items()]
    again = own_command(command, "--config", path, *kept, *changed)
    yield f"to train on from its model: {again}"


def _next_to(path: Path) -> Path:
    """The first of `PATH-2`, `PATH-3`, ... that is not there yet."""
    named = (path.with_name(f"{path.name}-{number}") for number in count(2))
    return next(candidate for candidate in named if not candidate.exists())


def flat(config: dict[str, Any]) -> dict[str, Any]:
    """The keys of all sections under their dotted names."""
    keys: dict[str, Any] = {}
    for section, values in config.items():
        if isinstance(values, dict):
            keys |= {f"{section}.{name}": value for name, value in values.items()}
        else:
            keys[section] = values
    return keys


def _keep_the_best(job: Job, resumed_from: Path) -> None:
    """See to it that the best checkpoint so far is whole, and where export() looks for it."""
    state, best = job.state, job.state.best_step
    if best is None or job.config.checkpoint.export != "best":
        return
    beside = checkpoint_path(resumed_from.parent, best)
    source = resumed_from if best == state.step else beside
    fault = find_fault(source)
    if fault is not None:
        job.progress.say(
            f"{source} was the best, but {fault}; model/ will be the best from here on"
        )
        state.best_step = state.best_criterion = None
    elif job.accelerator.is_main_process:
        target = checkpoint_path(job.run.checkpoints, best)
        if source.resolve() != target.resolve():
            copy_checkpoint(source, job.run.checkpoints)


def _compare_identities(
    then: dict[str, Any], now: dict[str, Any], path: Path, job: Job, allow_changes: bool
) -> None:
    changed = {k: (then.get(k), v) for k, v in now.items() if then.get(k) != v}
    num_processes = changed.pop("num_processes", None)
    if num_processes is not None:
        dropout = "and so does dropout" if job.keys_dropout else "dropout does not"
        job.progress.say(
            "processes: {} then, {} now; batches and masks stay the same, {}".format(
                *num_processes, dropout
            )
        )
    if not changed:
        return
    table = "\n".join(f"  {k}: {old} in the checkpoint, {new} now" for k, (old, new) in
                      changed.items())  # fmt: skip
    if allow_changes:
        job.progress.say(f"resuming although this changed:\n{table}")
        return
    raise CheckpointError(
        f"{path} belongs to another run; put these back, start again with --overwrite, or insist "
        f"with --allow-changes:\n{table}"
    )
