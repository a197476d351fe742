"""One of the many runs of a probe or a sweep."""

from collections.abc import Callable

from accelerate import Accelerator

from mlmtune.config import HubConfig
from mlmtune.console import Console
from mlmtune.errors import Interrupted
from mlmtune.training.loop import train
from mlmtune.training.run_options import RunOptions
from mlmtune.training.task import ConfigT, Task


def train_one_of_many(
    config: ConfigT,
    build: Callable[[ConfigT, Accelerator, Console], Task],
    console: Console,
) -> None:
    """Train, or resume a run that was stopped; do nothing if the run is complete.

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
