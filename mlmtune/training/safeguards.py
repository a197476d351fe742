"""Safeguards of a run: its directory's lock, the record of its failure, and its processes."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

from accelerate import Accelerator
from accelerate.utils import gather_object

from mlmtune.errors import (
    CheckpointError,
    ConfigError,
    Interrupted,
    ResourceError,
    StoppedAtOnce,
    explain,
)  # fmt: skip
from mlmtune.locations import expand_home
from mlmtune.modeling.device import decided_by_main
from mlmtune.training.checkpoint import TrainState
from mlmtune.training.run_dir import RunDir, open_run_dir
from mlmtune.training.run_options import RunOptions
from mlmtune.training.task import Settings, Task


def open_run(
    config: Settings, options: RunOptions, accelerator: Accelerator, stack: ExitStack
) -> RunDir:
    """Open the run's directory in all processes, and hold its lock until the stack is closed.

    Raises:
        ConfigError: The directory is in use, or replacing it would delete the base model.
        CheckpointError: The checkpoint to resume from does not exist.
        ResourceError: The directory cannot be made or written.
    """
    path = expand_home(config.run.output_dir)
    model = expand_home(config.model.name_or_path).resolve()
    if options.overwrite and model.is_relative_to(path.resolve()):
        raise ConfigError(
            f"--overwrite would delete model.name_or_path {config.model.name_or_path}, which lies "
            "in run.output_dir; set run.output_dir to another folder"
        )
    resume = options.resume
    if resume not in ("never", "auto") and not expand_home(resume).is_dir():
        raise CheckpointError(
            f"--resume {resume}: there is no such folder; give a checkpoint's, or auto"
        )
    # One process holds the lock for all, because a second one could not get it.
    may_be_in_use = resume != "never" or options.overwrite
    return decided_by_main(
        accelerator, lambda: stack.enter_context(open_run_dir(path, may_be_in_use=may_be_in_use))
    )


@contextmanager
def recording_failure(run: RunDir, accelerator: Accelerator) -> Iterator[None]:
    """Write the reason of a failure to status.json; launchers turn every exit code into 1."""
    try:
        yield
    except BaseException as error:
        if accelerator.is_main_process:
            message, exit_code = explain(error)
            stopped = isinstance(error, Interrupted | StoppedAtOnce)
            status = run.read_status()
            steps = {name: status[name] for name in ("step", "max_steps") if name in status}
            # A failure after the result, such as in waiting for a push, does not undo the result.
            if status.get("state") != "finished":
                with suppress(ResourceError):  # a full disk must not hide what happened first
                    state = "interrupted" if stopped else "failed"
                    run.write_status(state, exit_code=exit_code, message=message, **steps)
        raise


def leave(accelerator: Accelerator, kind: type[BaseException] | None, *_: object) -> None:
    """End the process group."""
    accelerator.free_memory()  # gloo sometimes hangs unless the model is freed first
    # NCCL would wait here for processes that are still in the step in which this one failed.
    if accelerator.device.type == "cpu" or kind is None or issubclass(kind, Interrupted):
        accelerator.end_training()


def check_all_see_the_same(task: Task, state: TrainState) -> None:
    """Refuse processes that read different text, or that resumed from different steps.

    Raises:
        CheckpointError: The machines do not share the corpus or the output directory.
    """
    seen = set(gather_object([(*task.data_seen, state.step)]))
    if len(seen) > 1:
        raise CheckpointError(
            "the processes see different text or checkpoints (data, its size, step: "
            f"{', '.join(map(str, sorted(seen)))}); run.output_dir and the text must be the "
            "same files on every machine"
        )
