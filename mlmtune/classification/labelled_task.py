"""What the tasks of `mlmtune finetune` have in common."""

import json
from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Generic, Self, TypeVar

import numpy as np
from accelerate import Accelerator
from numpy.typing import NDArray

from mlmtune.classification.batches import Encoded, ExampleSequences
from mlmtune.classification.prediction import predict
from mlmtune.classification.sides import SideT, TaskData
from mlmtune.config import ClassificationConfig
from mlmtune.modeling.device import precision_of
from mlmtune.modeling.loading import LoadedModel, ModelRequest, load_classifier
from mlmtune.training import caveats
from mlmtune.training.plan import Phase, Plan
from mlmtune.training.run_dir import RunDir
from mlmtune.training.stream import TrainingStream
from mlmtune.training.task import Task, ValidationResult, with_choices

EncodedT = TypeVar("EncodedT", bound=Encoded[Any])


@dataclass(frozen=True)
class LabelledTask(Task, Generic[SideT, EncodedT]):
    """A task with labels.

    Attributes:
        data: The examples; for training, as many as are trained on.
        train: The training examples, encoded.
        validation: Those of validation, which choose the best weights.
        encoded_test: Those of the test, which are measured once, at the end.
    """

    config: ClassificationConfig
    loaded: LoadedModel
    plan: Plan
    stream: TrainingStream[Any]
    data: TaskData[SideT]
    train: EncodedT
    validation: EncodedT
    encoded_test: EncodedT | None

    measures_before: ClassVar[bool] = False  # a new head guesses
    length_key: ClassVar[str] = "data.max_length"

    @classmethod
    def of(
        cls, data: TaskData[SideT], config: ClassificationConfig, accelerator: Accelerator
    ) -> Self:
        """Load the model, and plan a run on examples that have been read.

        Raises:
            MlmtuneError: The model cannot be loaded, or does not fit the config.
        """
        data = data.with_train_examples(config.data.max_train_examples, config.run.seed)
        request = ModelRequest(
            config.model,
            max_length=config.data.max_length,
            device=accelerator.device,
            precision=precision_of(accelerator),
            seed=config.run.seed,
        )
        loaded = load_classifier(request, config.task, data.labels)
        encode = cls.encoder(data, config, loaded)
        train = encode(data.train)
        phase = Phase.of(
            config.training,
            config.optimizer,
            num_chunks=len(train),
            num_tokens=int(train.lengths.sum()),
        )
        plan = Plan.of([phase], config.training, num_processes=accelerator.num_processes)
        sequences = ExampleSequences(train, phase.global_batch_size, config.run.seed)
        return cls(
            config=with_choices(config, accelerator, loaded, plan),
            loaded=loaded,
            plan=plan,
            stream=TrainingStream(
                [sequences], plan, seed=config.run.seed, process_index=accelerator.process_index
            ),
            data=data,
            train=train,
            validation=encode(data.validation),
            encoded_test=None if data.test is None else encode(data.test),
        )

    @classmethod
    @abstractmethod
    def encoder(
        cls, data: TaskData[SideT], config: ClassificationConfig, loaded: LoadedModel
    ) -> Callable[[SideT], EncodedT]:
        """Return what encodes a side."""

    @abstractmethod
    def scores(self, side: SideT, logits: NDArray[np.float32]) -> ValidationResult:
        """Score the logits of a side, as `predict` returns them."""

    @abstractmethod
    def test_results(
        self, side: SideT, logits: NDArray[np.float32]
    ) -> tuple[dict[str, Any], Iterator[dict[str, Any]]]:
        """Return the content of test_results.json, and the lines of test_predictions.jsonl."""

    @abstractmethod
    def record(self, side: SideT, encoded: EncodedT) -> dict[str, Any]:
        """Return the numbers of a side for data.json."""

    def without_test(self) -> Self:
        """Return the same task, which does not measure the test."""
        return replace(self, encoded_test=None)

    def sides(self) -> Iterator[tuple[str, SideT, EncodedT]]:
        """Yield the name, the examples and the encoded examples of each side that is used."""
        yield "train", self.data.train, self.train
        yield "validation", self.data.validation, self.validation
        if self.data.test is not None and self.encoded_test is not None:
            yield "test", self.data.test, self.encoded_test

    def evaluate(
        self, accelerator: Accelerator, model: Any, should_stop: Callable[[], bool]
    ) -> ValidationResult | None:
        batch_size = self.config.evaluation.batch_size
        logits = predict(accelerator, model, self.validation, batch_size, should_stop)
        return None if logits is None else self.scores(self.data.validation, logits)

    def test(self, accelerator: Accelerator, model: Any, run: RunDir) -> dict[str, Any]:
        """Measure the test, and write test_predictions.jsonl, which has every example."""
        if self.data.test is None or self.encoded_test is None:
            return {}
        batch_size = self.config.evaluation.batch_size
        logits = predict(accelerator, model, self.encoded_test, batch_size)
        assert logits is not None  # nothing stops it
        results, predictions = self.test_results(self.data.test, logits)
        if accelerator.is_main_process:
            lines = (json.dumps(record, ensure_ascii=False) + "\n" for record in predictions)
            run.write_text("test_predictions.jsonl", "".join(lines))
        return results

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
        by_side = {name: self.record(side, encoded) for name, side, encoded in self.sides()}
        run.write_json("data.json", record | by_side)

    def caveats(self) -> Iterator[str]:
        # Only of the schedule: small data is usual for a classifier.
        return caveats.of_schedule(self.plan, "examples")
