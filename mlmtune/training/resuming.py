"""Resuming: the earlier run as its directory holds it, and how a sitting continues it."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import yaml
from accelerate import Accelerator

from mlmtune.config import PHASES
from mlmtune.config_loading import as_override, load_config, recorded_yaml
from mlmtune.errors import CheckpointError, ConfigError
from mlmtune.files import read_json
from mlmtune.locations import expand_home
from mlmtune.modeling.device import decided_by_main
from mlmtune.printable import counted
from mlmtune.sharing.masked_lm_card import describe_lineage
from mlmtune.shell import own_command
from mlmtune.training.checkpoint import (
    TrainState,
    copy_checkpoint,
    drop_checkpoints_after,
    find_checkpoint,
    find_fault,
    load_state,
    load_weights,
)  # fmt: skip
from mlmtune.training.checkpoint_folders import checkpoint_path
from mlmtune.training.evaluating import step_to_export
from mlmtune.training.identity import (
    check_identity,
    flat,
    identity_of,
    is_of_phases,
    phases_added,
)
from mlmtune.training.learner import Learner
from mlmtune.training.lineage import to_json
from mlmtune.training.progress import Progress
from mlmtune.training.run_dir import RESOLVED_CONFIG, RunDir
from mlmtune.training.run_options import RunOptions
from mlmtune.training.task import ConfigT, Settings, Task
from mlmtune.training.tracking import RECORD as TRACKING_RECORD
from mlmtune.training.tracking import note_tracked

MAY_CHANGE = re.compile(
    r"run\.output_dir|tokenization\.(cache_dir|parts|store)"
    r"|training\.(micro_batch_size|shard_optimizer)|tracking\..*|hub\..*|engine\..*|.*\.license"
)
"""The settings that may differ from those of a finished run: none of them changes the result."""


@dataclass(frozen=True)
class EarlierRun:
    """The run that is resumed, as its directory held it when this sitting began.

    Attributes:
        options: How the command line asks for the run to be resumed.
        checkpoints: The folder of its checkpoints.
        is_same: Whether `run.output_dir` is its directory.
        config: Its config with every `auto` decided, or the error of loading this.
        status: The content of its status.json; empty if there is none.
        tracking: The content of its tracking.json. None if there is none, or if the run continues
            in another directory, which trackers take for another run.
    """

    options: RunOptions
    checkpoints: Path
    is_same: bool
    config: Settings | ConfigError
    status: Mapping[str, Any]
    tracking: Mapping[str, Any] | None


def read_earlier_run(options: RunOptions, config: Settings) -> EarlierRun | None:
    """Read the record of the run that is resumed; None if none is."""
    if options.resume == "never":
        return None
    # Read before the directory is locked: the recorded precision decides the accelerator, through
    # which processes agree on the lock.
    own = RunDir(expand_home(config.run.output_dir)).checkpoints
    checkpoints = own if options.resume == "auto" else expand_home(options.resume).resolve().parent
    folder, is_same = checkpoints.parent, checkpoints.resolve() == own.resolve()
    recorded: Settings | ConfigError
    try:
        recorded = load_config(folder / RESOLVED_CONFIG, kind=type(config))
    except ConfigError as error:
        recorded = error
    return EarlierRun(
        options=options,
        checkpoints=checkpoints,
        is_same=is_same,
        config=recorded,
        status=read_json(folder / "status.json") or {},
        tracking=read_json(folder / TRACKING_RECORD) if is_same else None,
    )


# ------------------------------------------------------------------------------ what was decided


def with_recorded_choices(config: ConfigT, earlier: EarlierRun | None) -> ConfigT:
    """Return the config with each `auto` as the earlier run decided it.

    Another machine or version may decide otherwise, and a run keeps to one decision. A micro-batch
    that was made smaller because memory ran out stays so. If the recorded config does not load,
    the identity in the checkpoint shows whether other choices matter.
    """
    if earlier is None or isinstance(earlier.config, ConfigError):
        return config
    then, model, training = earlier.config, config.model, config.training
    if model.attn_implementation == "auto":
        recorded = then.model.attn_implementation
        model = model.model_copy(update={"attn_implementation": recorded})
    if training.precision == "auto":
        training = training.model_copy(update={"precision": then.training.precision})
    asked, size = training.micro_batch_size, then.training.micro_batch_size
    if isinstance(size, int) and (asked is None or asked == "auto" or size < asked):
        size = min(size, training.global_batch_size)
        training = training.model_copy(update={"micro_batch_size": size})
    return config.model_copy(update={"model": model, "training": training})


# ------------------------------------------------------------------------------- a finished run


def is_complete(
    earlier: EarlierRun | None,
    run: RunDir,
    config: Settings,
    accelerator: Accelerator,
    progress: Progress,
) -> bool:
    """Whether `--resume auto` finds a finished run of this config, which is then reported.

    The main process decides for all. A finished run with missing or damaged files is not complete:
    they are reported, and made again.

    Raises:
        CheckpointError: A run with other settings is finished, and so is its schedule.
        ConfigError: The recorded config does not load.
    """
    if earlier is None or not decided_by_main(
        accelerator, lambda: _is_finished(earlier, run, config, progress.say)
    ):
        return False
    progress.result(f"{run.path} is already complete; see {run.model}")
    for line in _how_to_train_on(earlier, run, config):
        progress.result(line)
    return True


def _is_finished(
    earlier: EarlierRun, run: RunDir, config: Settings, say: Callable[[str], None]
) -> bool:
    """Whether the run is finished, is one of this config, and none of its files is missing."""
    if earlier.options.resume != "auto" or earlier.status.get("state") != "finished":
        return False
    damage = run.find_damage()
    if damage is not None:
        say(f"{run.path} is finished, but {damage}; it is made again from the last checkpoint")
        return False
    if isinstance(earlier.config, ConfigError):
        raise earlier.config
    then = _by_key(earlier.config.model_dump())
    now = _by_key(yaml.safe_load(recorded_yaml(config)))
    added = phases_added(then.get(PHASES, []), now.get(PHASES, []))
    lines = [
        f"  {name}: {then.get(name)} then, {value} now"
        for name, value in now.items()
        # What is `auto` now, or not set, was decided then.
        if value not in (then.get(name), None, "auto")
        and not MAY_CHANGE.fullmatch(name)
        and not is_of_phases(name, added)
    ]
    if lines:
        raise CheckpointError(
            f"{run.path} is complete, and other settings cannot continue it; set "
            "run.output_dir to another folder, or replace it with --overwrite:\n"
            + "\n".join([*lines, *_how_to_train_on(earlier, run, config)])
        )
    if added:
        say(f"{run.path} is finished, and goes on with what was added: {', '.join(added)}")
    return not added


def _by_key(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a config by their dotted keys; those of a phase by its name."""
    sections = dict(settings)
    phases = sections.pop(PHASES, [])
    if phases:
        sections[PHASES] = [phase["name"] for phase in phases]
    return flat({**sections, **{f"{PHASES}.{phase['name']}": phase for phase in phases}})


def _how_to_train_on(earlier: EarlierRun, run: RunDir, config: Settings) -> Iterator[str]:
    """Yield the command that trains a finished run's model further, if the command is known.

    A finished run's schedule has ended, so more steps are another run. It has another seed,
    because the same one would show the same text with the same masks again.
    """
    if not earlier.options.command:
        return
    subcommand, path, *overrides = earlier.options.command
    others = (run.path.with_name(f"{run.path.name}-{number}") for number in count(2))
    changes = {
        "model.name_or_path": str(run.model),
        **({"model.revision": None} if config.model.revision is not None else {}),
        "run.output_dir": str(next(other for other in others if not other.exists())),
        "run.seed": config.run.seed + 1,
    }
    kept = [one for one in overrides if one.partition("=")[0].strip() not in changes]
    changed = [f"{key}={as_override(value)}" for key, value in changes.items()]
    again = own_command(subcommand, "--config", path, *kept, *changed)
    yield f"to train on from its model: {again}"


# ------------------------------------------------------------------------- an unfinished run


def resume(
    earlier: EarlierRun | None,
    run: RunDir,
    learner: Learner,
    task: Task,
    say: Callable[[str], None],
) -> tuple[Path | None, TrainState]:
    """Load the checkpoint of the earlier run, if there is one, into the learner.

    Nothing is written or deleted, because the run may not be able to begin; see `begin`.

    Returns:
        The checkpoint, None without one, and the state that the run continues from.

    Raises:
        CheckpointError: The checkpoint is damaged, or belongs to another run.
        ConfigError: The directory holds another run than the one that is resumed.
    """
    identity = identity_of(task, learner.accelerator.num_processes)
    if earlier is None:
        return None, _first_state(task, learner, identity, say)
    path = decided_by_main(learner.accelerator, lambda: _choose_checkpoint(earlier, run, say))
    if path is None:
        say(f"{run.path} holds no checkpoint yet; starting from the beginning")
        return None, _first_state(task, learner, identity, say)

    state = load_state(path)
    check_identity(
        state.identity, identity, path, keys_dropout=learner.keys_dropout,
        allow_changes=earlier.options.allow_changes, say=say,
    )  # fmt: skip
    state.identity = identity
    load_weights(path, learner.module)
    learner.load_moments(path)
    if learner.accelerator.scaler is not None and state.scaler is not None:
        learner.accelerator.scaler.load_state_dict(state.scaler)
    say(f"resumed from {path}, after step {state.step}")
    return path, state


def _first_state(
    task: Task, learner: Learner, identity: dict[str, Any], say: Callable[[str], None]
) -> TrainState:
    """Return the state of a run that begins, and load the moments that it begins with.

    Raises:
        CheckpointError: The checkpoint that has them is damaged, or of another model.
    """
    if not task.lineage:
        return TrainState(identity)
    path = expand_home(task.lineage[-1].checkpoint)
    fault = find_fault(path)
    if fault is not None:
        raise CheckpointError(f"{path}: {fault}; go on from another checkpoint")
    learner.load_moments(path)
    say(f"goes on from {describe_lineage(to_json(task.lineage))}, with the optimizer's moments")
    return TrainState(identity, lineage=to_json(task.lineage))


def _choose_checkpoint(earlier: EarlierRun, run: RunDir, say: Callable[[str], None]) -> Path | None:
    """Return the checkpoint to resume from; None if the run has none yet."""
    if earlier.options.resume == "auto":
        return find_checkpoint(earlier.checkpoints, say)
    path = expand_home(earlier.options.resume)
    fault = find_fault(path)
    if fault is not None:
        raise CheckpointError(f"--resume {path}: {fault}; give another checkpoint, or auto")
    if not earlier.is_same and run.is_in_use():
        raise ConfigError(
            f"{run.path} holds another run than {path}; set run.output_dir to a new folder"
        )
    return path


def begin(
    earlier: EarlierRun | None,
    run: RunDir,
    state: TrainState,
    *,
    replaces: bool,
    say: Callable[[str], None],
) -> Mapping[str, Any] | None:
    """Continue the record of the run that the directory holds, or replace it.

    Called by the main process once the parts are built and the base model is measured, so that
    whatever keeps a run from its first step leaves the record of an earlier one as it was.

    Args:
        earlier: The run that is resumed; None if none is.
        run: The directory of this run.
        state: The state that the run continues from; at step 0 it is not from a checkpoint.
        replaces: Whether the files of the run in the directory are deleted.
        say: Reports what is deleted when a run is resumed.

    Returns:
        The content of tracking.json, with the steps that are taken again. None for a run that
        begins, which trackers take for another run.

    Raises:
        ResourceError: The directory cannot be written.
    """
    is_resumed = state.step > 0
    run.begin(replaces=replaces)
    dropped, num_broken = run.drop_metrics_after(state.step if is_resumed else -1)
    tracking = None if earlier is None else earlier.tracking
    if tracking is not None:
        tracking = note_tracked(tracking, dropped)
        run.write_json(TRACKING_RECORD, tracking)
    if num_broken:
        say(f"{run.metrics}: dropped {counted(num_broken, 'broken line')}")
    if not is_resumed:
        return None
    for later in drop_checkpoints_after(run.checkpoints, state.step):
        say(f"{later} is deleted, because the run continues from step {state.step}")
    return tracking


def keep_for_export(
    task: Task,
    run: RunDir,
    state: TrainState,
    resumed_from: Path,
    is_main: bool,
    say: Callable[[str], None],
) -> None:
    """Make sure that an earlier checkpoint that may be exported is whole, and in this run's folder.

    That is the best one so far, or the end of the phase that `checkpoint.export` names. It is
    beside `resumed_from`, the checkpoint of `state`. The main process copies it to the directory of
    this run; if the best one is damaged, all processes forget it.

    Raises:
        CheckpointError: The end of the phase is damaged.
    """
    export, step = task.config.checkpoint.export, step_to_export(task, state)
    if export == "last" or (export == "best" and state.best_step is None):
        return
    # A checkpoint that the user has renamed is found by its path alone.
    beside = checkpoint_path(resumed_from.parent, step)
    source = resumed_from if step == state.step else beside
    fault = find_fault(source)
    if fault is not None and export != "best":
        raise CheckpointError(
            f"{source} is the end of the phase that checkpoint.export names, but {fault}; set "
            "checkpoint.export: last"
        )
    if fault is not None:
        say(f"{source} was the best, but {fault}; model/ will be the best from here on")
        state.best_step = state.best_criterion = None
    elif is_main:
        target = checkpoint_path(run.checkpoints, step)
        if source.resolve() != target.resolve():
            copy_checkpoint(source, target)
