"""The runs that a run goes on from, with their optimizers' moments (`mlmtune train --from`)."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mlmtune.config import Config
from mlmtune.errors import CheckpointError, ConfigError
from mlmtune.files import read_json
from mlmtune.locations import expand_home, run_directory
from mlmtune.modeling.locating import MODEL_KEY
from mlmtune.training.checkpoint_folders import list_checkpoints

STATE = "state.json"
"""The file of a checkpoint that tells it from the folder of any other model."""


@dataclass(frozen=True)
class Ancestor:
    """A checkpoint that a run, or a run before it, went on from.

    Attributes:
        checkpoint: Its folder, as the run's config names it.
        model: The model that its own run started from.
        step: The steps of its own run.
        num_tokens: The tokens that the model saw in them.
    """

    checkpoint: str
    model: str
    step: int
    num_tokens: int


def overrides_from(location: str) -> list[str]:
    """Return the settings with which a run goes on from a run or a checkpoint (`--from`).

    Raises:
        CheckpointError: There is no checkpoint.
    """
    path = expand_home(location)
    if not (path / STATE).is_file():
        run = run_directory(path)
        found = list_checkpoints((run or path) / "checkpoints")
        if not found:
            raise CheckpointError(
                f"--from {location}: holds no checkpoint; give the directory of a run, or one of "
                "its checkpoints/checkpoint-N"
            )
        path = found[0]
    of_hub = "model.revision="  # a folder has none
    return [f"{MODEL_KEY}={path}", of_hub, "optimizer.initial_moments=checkpoint"]


def lineage_of(config: Config) -> tuple[Ancestor, ...]:
    """Return what a run goes on from, the oldest first; empty if it starts without moments.

    Raises:
        ConfigError: `model.name_or_path` is not a checkpoint, which alone has moments.
        CheckpointError: The checkpoint's state cannot be read.
    """
    if config.optimizer.initial_moments == "zero":
        return ()
    name = config.model.name_or_path
    folder = expand_home(name)
    if not (folder / STATE).is_file():
        raise ConfigError(
            f"optimizer.initial_moments: checkpoint needs {MODEL_KEY} to be a checkpoint of a run "
            f"(RUN/checkpoints/checkpoint-N), and {name} is none; use --from RUN"
        )
    state = read_json(folder / STATE)
    if state is None:
        raise CheckpointError(f"{folder / STATE} cannot be read; go on from another checkpoint")
    before = tuple(Ancestor(**ancestor) for ancestor in state.get("lineage", ()))
    started_from = str(state["identity"][MODEL_KEY])
    return (*before, Ancestor(name, started_from, state["step"], state["num_tokens"]))


def num_steps_before(lineage: Sequence[Ancestor]) -> int:
    """Return the steps that the model was trained for before a run."""
    return sum(ancestor.step for ancestor in lineage)


def to_json(lineage: Sequence[Ancestor]) -> list[dict[str, Any]]:
    return [asdict(ancestor) for ancestor in lineage]
