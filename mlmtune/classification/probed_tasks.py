"""The tasks as `mlmtune probe` fits and scores them.

A prediction is a number: that of an example's label, or of a word's tag. R predictions of a side
are those of its n examples, one for each, or of all words of its n sentences.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, ClassVar, Generic

import numpy as np
from accelerate import Accelerator
from numpy.typing import NDArray

from mlmtune.classification.batches import EncodedExamples
from mlmtune.classification.entity_data import EntityData, SentenceSide
from mlmtune.classification.entity_metrics import counts_of, decoded, scores_of
from mlmtune.classification.metrics import (
    accuracy,
    confusion_matrix,
    example_counts,
    f1_of,
    gain_over_majority,
    label_counts,
    macro_f1,
    macro_f1_of_sums,
)
from mlmtune.classification.prediction import first_pieces, mean_pooled
from mlmtune.classification.sentence_batches import EncodedSentences
from mlmtune.classification.sides import SideT, TaskData
from mlmtune.classification.tags import Tags
from mlmtune.classification.task_data import TextSide
from mlmtune.config import ClassificationConfig
from mlmtune.evaluation.bootstrap import Sums
from mlmtune.modeling.loading import LoadedModel
from mlmtune.numbers import share
from mlmtune.printable import counted

Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class ProbedTask(ABC, Generic[SideT]):
    """A task whose data have been read.

    Attributes:
        metrics: The names of the metrics of the test; models are compared by the last one.
        data: The examples, with a test.
    """

    data: TaskData[SideT]

    metrics: ClassVar[tuple[str, ...]]

    @property
    def test(self) -> SideT:
        assert self.data.test is not None
        return self.data.test

    @abstractmethod
    def features(
        self,
        side: SideT,
        accelerator: Accelerator,
        loaded: LoadedModel,
        config: ClassificationConfig,
    ) -> NDArray[np.float32]:
        """Return the frozen encoder's features (R, H); NaN where the tokenizer drops a word."""

    @abstractmethod
    def examples_of(self, side: Any) -> Numbers:
        """Return the number (R,) of the example to which each prediction of a side belongs."""

    @abstractmethod
    def settled(self, side: SideT, numbers: Numbers) -> Numbers:
        """Return the predictions (R,) that follow from the most likely ones; -1 where none is."""

    @abstractmethod
    def scores(self, side: SideT, numbers: Numbers) -> tuple[float, ...]:
        """Return the metrics of predictions (R,) of a side."""

    @abstractmethod
    def counts(self, predictions: Numbers) -> NDArray[Any]:
        """Return (n, C) what the last metric needs to know of each example of the test."""

    @abstractmethod
    def score_of(self, sums: Sums) -> NDArray[np.float64]:
        """Return the last metric (...) of sums (..., C) of `counts`."""

    @property
    @abstractmethod
    def measured_on(self) -> str:
        """What the test holds, in words."""

    @abstractmethod
    def why_worthless(self, predictions: Sequence[Numbers]) -> str | None:
        """Return why the comparison of some fits, (R,) each, says little; None if it does not."""


@dataclass(frozen=True)
class ProbedClassification(ProbedTask[TextSide]):
    """Classification, compared by macro-F1."""

    metrics: ClassVar[tuple[str, ...]] = ("accuracy", "macro_f1")

    def features(
        self,
        side: TextSide,
        accelerator: Accelerator,
        loaded: LoadedModel,
        config: ClassificationConfig,
    ) -> NDArray[np.float32]:
        weights = [1.0] * len(self.data.labels)
        examples = EncodedExamples.of(side, loaded, config.data.max_length, weights)
        return mean_pooled(accelerator, loaded.model, examples, config.evaluation.batch_size)

    def examples_of(self, side: TextSide) -> Numbers:
        return np.arange(len(side))

    def settled(self, side: TextSide, numbers: Numbers) -> Numbers:
        return numbers

    def scores(self, side: TextSide, numbers: Numbers) -> tuple[float, ...]:
        confusion = confusion_matrix(side.labels, numbers, len(self.data.labels))
        return accuracy(confusion), float(macro_f1(label_counts(confusion)))

    def counts(self, predictions: Numbers) -> Sums:
        return example_counts(self.test.labels, predictions, len(self.data.labels))

    def score_of(self, sums: Sums) -> NDArray[np.float64]:
        return macro_f1_of_sums(sums)

    @property
    def measured_on(self) -> str:
        return f"{counted(len(self.test), 'test example')} of {len(self.data.labels)} labels"

    def why_worthless(self, predictions: Sequence[Numbers]) -> str | None:
        labels, names = self.test.labels, self.data.labels
        gains = [
            gain_over_majority(confusion_matrix(labels, numbers, len(names)))
            for numbers in predictions
        ]
        if any(gain.interval[0] > 0 for gain in gains):
            return None
        constant = f"{names[gains[0].label]!r} ({share(gains[0].share)})"
        return f"no model is clearly more accurate than always answering {constant}"


@dataclass(frozen=True)
class ProbedEntities(ProbedTask[SentenceSide]):
    """Named entities, compared by the F1 of all entities."""

    data: EntityData

    metrics: ClassVar[tuple[str, ...]] = ("precision", "recall", "micro_f1")

    def features(
        self,
        side: SentenceSide,
        accelerator: Accelerator,
        loaded: LoadedModel,
        config: ClassificationConfig,
    ) -> NDArray[np.float32]:
        sentences = EncodedSentences.of(side, loaded, config.data.max_length)
        return first_pieces(accelerator, loaded.model, sentences, config.evaluation.batch_size)

    def examples_of(self, side: SentenceSide) -> Numbers:
        return np.repeat(np.arange(len(side)), [len(words) for words in side.tokens])

    def settled(self, side: SentenceSide, numbers: Numbers) -> Numbers:
        known = {label: number for number, label in enumerate(self.data.labels)}
        flat = chain.from_iterable(self._tags(side, numbers))
        return np.asarray([known[tag] for tag in flat], dtype=np.int64)

    def _tags(self, side: SentenceSide, numbers: Numbers) -> list[Tags]:
        return decoded(numbers, self.data.labels, side.ends)

    def scores(self, side: SentenceSide, numbers: Numbers) -> tuple[float, ...]:
        overall, _ = scores_of(side.tags, self._tags(side, numbers))
        return tuple(overall[name] for name in self.metrics)

    def counts(self, predictions: Numbers) -> NDArray[np.int64]:
        return counts_of(self.test.tags, self._tags(self.test, predictions))

    def score_of(self, sums: Sums) -> NDArray[np.float64]:
        return f1_of(sums)

    @property
    def measured_on(self) -> str:
        test = self.test
        num_entities = int(counts_of(test.tags, test.tags)[:, 2].sum())
        return (
            f"{counted(len(test), 'test sentence')} with "
            f"{counted(num_entities, 'entity', 'entities')} of "
            f"{counted(len(self.data.types), 'type')}"
        )

    def why_worthless(self, predictions: Sequence[Numbers]) -> str | None:
        test = self.test
        if any(self.scores(test, numbers)[-1] > 0 for numbers in predictions):
            return None
        return "no model finds an entity"
