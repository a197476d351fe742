"""What the tasks of `mlmtune finetune` have in common."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from accelerate import Accelerator

from mlmtune.classification.batches import Encoded, ExampleSequences
from mlmtune.classification.entity_data import EntityData
from mlmtune.classification.task_data import TaskData
from mlmtune.config import ClassificationConfig
from mlmtune.modeling.device import precision_of
from mlmtune.modeling.loading import LoadedModel, ModelRequest, load_classifier
from mlmtune.training import caveats
from mlmtune.training.optimization import check_warmup
from mlmtune.training.plan import Plan
from mlmtune.training.run_dir import RunDir
from mlmtune.training.stream import BatchT, TrainingStream
from mlmtune.training.task import Task


class LabelledTask(Task):
    """A task with labels.

    Attributes:
        data: The examples; for training, as many as are trained on.
        train: The training examples, encoded.
    """

    config: ClassificationConfig
    data: TaskData | EntityData
    train: Encoded[Any]

    measures_before: ClassVar[bool] = False  # a new head guesses
    length_key: ClassVar[str] = "data.max_length"

    @abstractmethod
    def records_by_side(self) -> Mapping[str, dict[str, Any]]:
        """Return the numbers of each side for data.json."""

    @abstractmethod
    def without_test(self) -> "LabelledTask":
        """Return the same task, which does not measure the test."""

    @property
    def why_not_compilable(self) -> str | None:
        return (
            "a compiled model needs sequences of one length, and examples differ; set it to false"
        )

    def identity(self) -> dict[str, Any]:
        return {
            "task": self.config.task,
            "data": {
                "fingerprint": self.data.fingerprint,
                **self.config.data.model_dump(
                    include={"max_train_examples", "max_length", "class_weights"}
                ),
            },
            "evaluation": {"metric": self.config.metric},
        }

    @property
    def data_seen(self) -> tuple[str, int]:
        return self.data.fingerprint, len(self.train)

    def write_records(self, run: RunDir) -> None:
        record: dict[str, Any] = {
            "labels": list(self.data.labels),
            "fingerprint": self.data.fingerprint,
            "left_out_of_training": self.data.num_left_out,
        }
        run.write_json("data.json", record | dict(self.records_by_side()))

    def caveats(self) -> Iterator[str]:
        # Only of the schedule: small data is usual for a classifier.
        return caveats.of_schedule(self.config.optimizer, self.plan, "examples")


def load_for(
    config: ClassificationConfig, labels: tuple[str, ...], accelerator: Accelerator
) -> LoadedModel:
    """Load the model with a head for the task and its labels.

    Raises:
        MlmtuneError: The model cannot be loaded, or does not fit the config.
    """
    request = ModelRequest(
        config.model,
        max_length=config.data.max_length,
        device=accelerator.device,
        precision=precision_of(accelerator),
        seed=config.run.seed,
    )
    return load_classifier(request, config.task, labels)


def planned(
    config: ClassificationConfig, train: Encoded[BatchT], accelerator: Accelerator
) -> tuple[Plan, TrainingStream[BatchT]]:
    """Plan the steps, and the batches of each, for some training examples.

    Raises:
        ConfigError: The schedule does not fit the number of steps.
    """
    plan = Plan.of(
        config.training,
        num_chunks=len(train),
        num_tokens=int(train.lengths.sum()),
        num_processes=accelerator.num_processes,
    )
    check_warmup(plan.max_steps, config.optimizer)
    sequences = ExampleSequences(train, plan.global_batch_size, config.run.seed)
    stream = TrainingStream(
        sequences, plan, seed=config.run.seed, process_index=accelerator.process_index
    )
    return plan, stream
