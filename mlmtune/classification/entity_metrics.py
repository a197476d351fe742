"""Metrics of predicted entities. n sentences, W words, K tags."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlmtune.classification.metrics import f1_of
from mlmtune.classification.tags import OUTSIDE, Tags, to_iob2
from mlmtune.config import Metric
from mlmtune.errors import ConfigError
from mlmtune.evaluation.bootstrap import score_interval
from mlmtune.numbers import f1, share
from mlmtune.printable import counted
from mlmtune.shell import pip_install

ErrorKind = Literal["boundary", "type", "missed", "spurious"]
ERROR_KINDS: dict[ErrorKind, str] = {
    "boundary": "part of an entity, or more than it",
    "type": "the words of an entity, as another type",
    "missed": "an entity of which no word is in a predicted one",
    "spurious": "a predicted entity without a word of an entity",
}
"""The kinds of errors, in words."""

EXAMPLES_PER_KIND = 5
"""How many errors of each kind the results of the test show."""


class Entity(NamedTuple):
    """An entity of a sentence: its type, and the numbers of its first and its last word."""

    type: str
    first: int
    last: int

    def overlaps(self, other: "Entity") -> bool:
        return self.first <= other.last and other.first <= self.last


def check_available() -> None:
    """Check that seqeval is installed, before anything is computed.

    Raises:
        ConfigError: It is not installed.
    """
    if find_spec("seqeval") is None:
        raise ConfigError(f"task: entities needs seqeval; {pip_install('mlmtune[entities]')}")


def entities_of(tags: Tags) -> list[Entity]:
    """Return the entities of a sentence, by the rules of seqeval and conlleval."""
    from seqeval.metrics.sequence_labeling import get_entities

    return [Entity(*found) for found in get_entities(list(tags))]


def decoded(
    numbers: NDArray[np.int64], labels: Sequence[str], ends: NDArray[np.int64]
) -> list[Tags]:
    """Return the predicted tags of n sentences in IOB2.

    A word without a prediction belongs to an entity if the words around it belong to one together,
    and else is outside. An `I-` that continues no entity begins one, as seqeval reads it.

    Args:
        numbers: (W,) The numbers of the most likely tags; -1 for a word that the tokenizer drops.
        labels: The tags by number.
        ends: (n,) The number of the word after each sentence.
    """
    tags = [labels[number] if number >= 0 else None for number in numbers]
    begins = [0, *ends[:-1]]
    sentences = [_filled(tags[begin:end]) for begin, end in zip(begins, ends, strict=True)]
    return to_iob2(sentences, "IOB2").tags


def _filled(tags: Sequence[str | None]) -> Tags:
    filled: list[str] = []
    for place, tag in enumerate(tags):
        if tag is None:
            after = next((later for later in tags[place:] if later is not None), OUTSIDE)
            before = filled[-1] if filled else OUTSIDE
            goes_on = after.startswith("I-") and before[2:] == after[2:]
            tag = after if goes_on else OUTSIDE
        filled.append(tag)
    return tuple(filled)


def counts_of(true: Sequence[Tags], predicted: Sequence[Tags]) -> NDArray[np.int64]:
    """Return (n, 3): how many entities of each sentence are right, predicted and true."""
    counts = np.zeros((len(true), 3), dtype=np.int64)
    for row, tags, guess in zip(counts, true, predicted, strict=True):
        of_true, of_guess = set(entities_of(tags)), set(entities_of(guess))
        row[:] = len(of_true & of_guess), len(of_guess), len(of_true)
    return counts


def errors_of(true: Tags, predicted: Tags) -> Iterator[tuple[ErrorKind, Entity | None, Entity]]:
    """Yield the errors of a sentence: the kind, the true entity if there is one, the other one.

    Each wrong prediction is one error, and so is each true entity that no prediction touches, which
    is its own other one.
    """
    of_true, of_guess = entities_of(true), entities_of(predicted)
    for guess in of_guess:
        if guess in of_true:
            continue
        touched = [entity for entity in of_true if entity.overlaps(guess)]
        same = [entity for entity in touched if entity[1:] == guess[1:]]
        kind: ErrorKind = "type" if same else "boundary" if touched else "spurious"
        yield kind, next(iter(same or touched), None), guess
    for entity in of_true:
        if not any(entity.overlaps(guess) for guess in of_guess):
            yield "missed", entity, entity


@dataclass(frozen=True)
class EntityScores:
    """The scores of a tagger on one side.

    Attributes:
        loss: Mean cross entropy of the true tags, in nats per word.
        true: The tags of each sentence.
        predicted: The predicted tags, likewise.
        overall: `precision`, `recall`, `micro_f1` and `macro_f1`, the mean over types.
        per_type: `precision`, `recall`, `f1` and `num_entities` of each type.
        chosen_by: The metric by which the best weights are chosen.
    """

    loss: float
    true: Sequence[Tags]
    predicted: Sequence[Tags]
    overall: Mapping[str, float]
    per_type: Mapping[str, Mapping[str, float]]
    chosen_by: Metric

    @classmethod
    def of(
        cls, loss: float, true: Sequence[Tags], predicted: Sequence[Tags], chosen_by: Metric
    ) -> "EntityScores":
        """Score the predicted tags of sentences, by seqeval."""
        overall, per_type = scores_of(true, predicted)
        return cls(loss, true, predicted, overall, per_type, chosen_by)

    @property
    def criterion(self) -> float:
        """The number that is lowest for the best weights."""
        return self.loss if self.chosen_by == "loss" else -self.overall[self.chosen_by]

    @property
    def micro_f1_interval(self) -> tuple[float, float] | None:
        """95 % interval of the F1 of all entities: sentences are resampled."""
        counts = counts_of(self.true, self.predicted).astype(np.float64)
        rows, times = np.unique(counts, axis=0, return_counts=True)
        return score_interval(rows, times, f1_of)

    def to_json(self) -> dict[str, Any]:
        """Return the scores as JSON values, under the names of eval_results.json."""
        pairs = zip(self.true, self.predicted, strict=True)
        errors = Counter(kind for tags, guess in pairs for kind, _, _ in errors_of(tags, guess))
        return {
            "loss": self.loss,
            **self.overall,
            "num_sentences": len(self.true),
            "num_words": sum(map(len, self.true)),
            "num_entities": self.num_entities,
            "per_type": {name: dict(scores) for name, scores in self.per_type.items()},
            "errors": {kind: errors[kind] for kind in ERROR_KINDS},
        }

    @property
    def num_entities(self) -> int:
        return sum(int(scores["num_entities"]) for scores in self.per_type.values())

    def describe(self) -> str:
        """Return one line for people."""
        return (
            f"entity F1 {f1(self.overall['micro_f1'])} (precision "
            f"{share(self.overall['precision'])}, recall {share(self.overall['recall'])}), loss "
            f"{self.loss:.3f} on {counted(self.num_entities, 'entity', 'entities')}"
        )


def scores_of(
    true: Sequence[Tags], predicted: Sequence[Tags]
) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Return the scores of all entities, and of those of each type, by seqeval.

    A score whose divisor is 0 is 0. Macro-F1 is the mean over the types that occur among the true
    or the predicted entities.
    """
    from seqeval.metrics.sequence_labeling import precision_recall_fscore_support

    y_true, y_pred = [list(tags) for tags in true], [list(tags) for tags in predicted]
    types = sorted({e.type for tags in (*true, *predicted) for e in entities_of(tags)})
    if not types:
        return dict.fromkeys(("precision", "recall", "micro_f1", "macro_f1"), 0.0), {}
    by_type = precision_recall_fscore_support(y_true, y_pred, average=None, zero_division=0)
    micro = precision_recall_fscore_support(y_true, y_pred, average="micro", zero_division=0)
    names = ("precision", "recall", "f1", "num_entities")
    per_type = {
        name: dict(zip(names, (*map(float, values[:3]), int(values[3])), strict=True))
        for name, *values in zip(types, *by_type, strict=True)
    }
    macro = float(np.mean([scores["f1"] for scores in per_type.values()]))
    overall = dict(zip(("precision", "recall", "micro_f1"), map(float, micro), strict=False))
    return overall | {"macro_f1": macro}, per_type
