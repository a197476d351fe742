"""Training a run for a command: one that is pushed at the end, or one of many."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from mlmtune import exits
from mlmtune.commands.push import push_run
from mlmtune.config import HubConfig
from mlmtune.console import Console
from mlmtune.errors import Interrupted
from mlmtune.locations import expand_home
from mlmtune.training.loop import train
from mlmtune.training.run_options import RunOptions
from mlmtune.training.task import ConfigT, Task


def train_and_push(
    settings: ConfigT,
    options: RunOptions,
    build: Callable[[ConfigT, Accelerator, Console], Task],
    conclude: Callable[[Path, dict[str, Any] | None, Console], None] | None = None,
) -> None:
    """Train, let the command conclude, and push the result if the config names a repository.

    Args:
        settings: The run's config.
        options: The options of the command line.
        build: Builds what is trained; see `train`.
        conclude: Called in the first process with the run's directory and its results, which are
            None if the run was complete already.

    Raises:
        MlmtuneError: See `train` and `push_run`.
    """
    results = train(settings, options, build)
    if not exits.is_first_process():
        return  # one process reports and pushes
    run, console = expand_home(settings.run.output_dir), Console(is_quiet=options.is_quiet)
    if conclude is not None:
        conclude(run, results, console)
    if settings.hub.hub_model_id is not None:
        push_run(run, settings.hub.hub_model_id, is_private=settings.hub.private, console=console)


def train_one_of_many(
    config: ConfigT, build: Callable[[ConfigT, Accelerator, Console], Task], console: Console
) -> None:
    """Train or resume one of the runs of a probe or a sweep; do nothing if it is complete.

    The bar of the run's steps is shown if the console of the command shows bars.

    Raises:
        Interrupted: A signal stopped the run; the whole command is what the user resumes.
        MlmtuneError: See `train`.
    """
    try:
        config = config.model_copy(update={"hub": HubConfig()})  # none of many is pushed
        options = RunOptions(resume="auto", is_quiet=not console.shows_bars, is_silent=True)
        train(config, options, build)
    except Interrupted as error:
        raise Interrupted(
            "stopped; what is finished is kept, and the same command continues from there",
            error.exit_code - 128,
        ) from error
