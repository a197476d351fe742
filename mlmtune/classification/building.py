"""The tasks with labels by their names in the config."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from accelerate import Accelerator

from mlmtune.classification.entity_data import read_entity_data
from mlmtune.classification.labelled_task import LabelledTask
from mlmtune.classification.probed_tasks import (
    ProbedClassification,
    ProbedEntities,
    ProbedTask,
)
from mlmtune.classification.sequence_classification import SequenceClassification
from mlmtune.classification.task_data import read_task_data
from mlmtune.classification.token_classification import TokenClassification
from mlmtune.config import ClassificationConfig, DataConfig, TaskName
from mlmtune.console import Console


@dataclass(frozen=True)
class TaskKind:
    """What a task consists of.

    Attributes:
        read: Reads the examples, and says where they come from.
        plan: Loads the model and plans a run on examples that have been read.
        probed: Says how `mlmtune probe` fits and scores models on such examples.
    """

    read: Callable[[DataConfig, Callable[[str], None]], Any]
    plan: Callable[[Any, ClassificationConfig, Accelerator], LabelledTask[Any, Any]]
    probed: Callable[[Any], ProbedTask[Any]]


KINDS: dict[TaskName, TaskKind] = {
    "classification": TaskKind(read_task_data, SequenceClassification.of, ProbedClassification),
    "entities": TaskKind(read_entity_data, TokenClassification.of, ProbedEntities),
}


def build_task(
    config: ClassificationConfig, accelerator: Accelerator, console: Console
) -> LabelledTask[Any, Any]:
    """Read the examples, load the model, and plan the run.

    Raises:
        MlmtuneError: The run cannot start.
    """
    kind = KINDS[config.task]
    task = kind.plan(kind.read(config.data, console.say), config, accelerator)
    for note in task.loaded.notes:
        console.say(note)
    return task
