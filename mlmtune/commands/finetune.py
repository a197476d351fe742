"""`mlmtune finetune`: train a classifier, or a tagger of entities, on labelled examples."""

from mlmtune.classification.building import build_task
from mlmtune.commands.training import train_and_push
from mlmtune.config import ClassificationConfig
from mlmtune.training.run_options import RunOptions


def finetune(settings: ClassificationConfig, options: RunOptions) -> None:
    """Train the model of a task, and push it if the config names a repository.

    Raises:
        MlmtuneError: See `train_and_push`.
    """
    train_and_push(settings, options, build_task)
