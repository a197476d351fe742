"""The options of `mlmtune embed`, checked before any library is imported."""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from mlmtune.commands.adapted_model import AdaptedModel
from mlmtune.errors import ConfigError
from mlmtune.locations import EMBED_FOLDER
from mlmtune.shell import pip_install


@dataclass(frozen=True)
class EmbedPlan:
    """What a sentence encoder is trained from, and where it is written.

    Attributes:
        model: The model; its run has the training text, which has the pairs.
        num_steps: The training steps.
        folder: The folder that is written.
    """

    model: AdaptedModel
    num_steps: int
    folder: Path


def plan_embed(path: Path, num_steps: int, output: Path | None) -> EmbedPlan:
    """Check the options of the command.

    Args:
        path: The directory of a finished run, its model/, or the folder of a merged model.
        num_steps: The value of `--steps`.
        output: The value of `--output`; the default is `embed` in the directory of the run, or in
            the folder of the merged model.

    Raises:
        ConfigError: The extra is missing, the folder exists, there is no finished run, or parts of
            its validation documents were trained on.
        CheckpointError: A file of the run or of the merged model is missing or damaged.
    """
    if find_spec("sentence_transformers") is None:
        install = pip_install("mlmtune[embed]")
        raise ConfigError(f"mlmtune embed needs sentence-transformers; {install}")
    model = AdaptedModel.read(path)
    if model.run.config.corpus.split_by == "chunk":
        raise ConfigError(
            f"{model.run.path}: was trained with corpus.split_by: chunk, so that no documents are "
            "kept for validation; train a run that splits by document"
        )
    return EmbedPlan(model, num_steps, model.free_folder(output, EMBED_FOLDER))
