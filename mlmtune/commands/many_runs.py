"""One run of the many that a probe or a sweep is made of."""

from collections.abc import Callable

from accelerate import Accelerator

from mlmtune.config import HubConfig
from mlmtune.console import Console
from mlmtune.errors import Interrupted
from mlmtune.training.loop import Options, train
from mlmtune.training.task import ConfigT, Task


def train_one_of_many(
    config: ConfigT,
    build: Callable[[ConfigT, Accelerator, Console], Task],
    console: Console,
) -> None:
    """Train from where an earlier sitting stopped; what is complete is left alone.

    Args:
        config: of the run.
        build: see `train`.
        console: of the command; where it shows bars, the run shows the bar of its steps.

    Raises:
        Interrupted: by a signal; the command as a whole is what goes on.
        MlmtuneError: see `train`.
    """
    try:
        config = config.model_copy(update={"hub": HubConfig()})  # none of many is pushed
        options = Options(resume="auto", is_quiet=not console.shows_bars, is_silent=True)
        train(config, options, build)
    except Interrupted as error:
        raise Interrupted(
            "stopped; what is finished is kept, and the same command goes on from there",
            error.exit_code - 128,
        ) from error
