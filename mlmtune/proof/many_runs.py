"""One run of the many that a probe or a sweep is made of."""

from collections.abc import Callable

from accelerate import Accelerator

from mlmtune.config import HubConfig
from mlmtune.console import Console
from mlmtune.errors import Interrupted
from mlmtune.training.job import Options
from mlmtune.training.loop import train
from mlmtune.training.task import SettingsT, Task


def train_one_of_many(
    config: SettingsT, build: Callable[[SettingsT, Accelerator, Console], Task]
) -> None:
    """Train without a word, from where an earlier sitting stopped; what is complete is left alone.

    Raises:
        Interrupted: by a signal; the command as a whole is what goes on.
        MlmtuneError: see `train`.
    """
    try:
        config = config.model_copy(update={"hub": HubConfig()})  # none of many is pushed
        train(config, Options(resume="auto", is_silent=True), build)
    except Interrupted as error:
        raise Interrupted(
            "stopped; what is finished is kept, and the same command goes on from there",
            error.exit_code - 128,
        ) from error
