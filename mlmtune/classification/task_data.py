"""The examples of a classification task, with the numbers of their labels."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from mlmtune.classification.labelled_examples import Example, read_side
from mlmtune.classification.rows import at_one_state
from mlmtune.classification.sides import Divided, TaskData, missing, read_divided
from mlmtune.config import DataConfig
from mlmtune.corpus.records import listed
from mlmtune.errors import DataError

_WHOLE_NUMBER = re.compile(r"-?\d+", re.ASCII)


@dataclass(frozen=True)
class TextSide:
    """The n examples of one side.

    Attributes:
        texts: One text, or the two of a pair, for each example.
        labels: (n,) The numbers of the labels.
        names: The names of the examples, for people.
    """

    texts: Sequence[tuple[str, ...]]
    labels: NDArray[np.int64]
    names: Sequence[str]

    @classmethod
    def of(cls, examples: Sequence[Example], labels: Sequence[str]) -> Self:
        numbers = {label: number for number, label in enumerate(labels)}
        return cls(
            [example.texts for example in examples],
            np.asarray([numbers[example.label] for example in examples], dtype=np.int64),
            [example.name for example in examples],
        )

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def strata(self) -> NDArray[np.int64]:
        return self.labels

    def take(self, numbers: NDArray[np.int64]) -> Self:
        """Return the examples with some numbers."""
        return type(self)(
            [self.texts[number] for number in numbers],
            self.labels[numbers],
            [self.names[number] for number in numbers],
        )


def read_task_data(config: DataConfig, say: Callable[[str], None]) -> TaskData[TextSide]:
    """Read, check and split the examples.

    Examples of `train` whose text is in `validation` or `test` are left out, and so are those of
    `validation` whose text is in `test`. `say` receives one line on where a dataset comes from.

    Raises:
        DataError: Data is missing, broken or empty; training has a single label; validation or the
            test has a label that training lacks; or half of the held-out texts are in training.
        MlmtuneError: See `hub_datasets.locate`.
    """
    config = at_one_state(config, say)
    notes: list[str] = []
    divided = read_divided(config, lambda name: read_side(config, name), notes)
    labels = _labels(config, divided)
    for name, examples in divided.held_out:
        _check_labels(examples, labels, name)
        found = (example.label for example in examples)
        notes += missing(name, "example of the label", labels, found)
    return TaskData.of(divided, labels, notes, TextSide.of)


# ---------------------------------------------------------------------------------------- labels


def _labels(config: DataConfig, divided: Divided[Example]) -> tuple[str, ...]:
    """Return the labels in the order of their numbers, and refuse data with fewer than two."""
    labels = {example.label for example in divided.train}
    if len(labels) < 2:
        raise DataError(
            f"data.train: every example has the label '{labels.pop()}'; a classifier needs two at "
            "least"
        )
    if config.labels is not None:
        _check_labels(divided.train, config.labels, "train")
        missing = [label for label in config.labels if label not in labels]
        if missing:
            raise DataError(
                f"data.labels: no training example has the label '{missing[0]}'; those found are: "
                f"{listed(sorted(labels))}"
            )
        return tuple(config.labels)
    if divided.label_order is not None:
        return tuple(label for label in divided.label_order if label in labels)
    if all(map(_WHOLE_NUMBER.fullmatch, labels)):
        return tuple(sorted(labels, key=int))
    return tuple(sorted(labels))


def _check_labels(examples: Sequence[Example], labels: Sequence[str], name: str) -> None:
    for example in examples:
        if example.label not in labels:
            others = "data.labels" if name == "train" else "any training example"
            raise DataError(
                f"{example.where}: the label '{example.label}' is not that of {others}; there are: "
                f"{listed(labels)}"
            )
