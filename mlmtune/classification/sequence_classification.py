"""Sequence classification as a task of the training loop."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from mlmtune.classification.batches import EncodedExamples, ExampleBatch
from mlmtune.classification.labelled_task import LabelledTask
from mlmtune.classification.metrics import (
    Scores,
    confusion_matrix,
    cross_entropies,
    gain_over_majority,
    probabilities,
)
from mlmtune.classification.sides import TaskData
from mlmtune.classification.task_data import TextSide
from mlmtune.config import ClassificationConfig
from mlmtune.modeling.loading import LoadedModel
from mlmtune.modeling.losses import LOSS, Losses
from mlmtune.numbers import f1, share
from mlmtune.sharing.card import Card
from mlmtune.sharing.classification_card import classification_card, classification_snippet
from mlmtune.tables import table
from mlmtune.training.checkpoint import TrainState
from mlmtune.training.run_dir import RunDir

MOST_LABELS_SHOWN = 20
"""With more labels, tables are only in the JSON files."""

CARD_TEXTS = ("This is one example.", "This is another one.")
"""The texts that the model card classifies, because those of the data may be confidential."""


@dataclass(frozen=True)
class SequenceClassification(LabelledTask[TextSide, EncodedExamples]):
    """The task `classification`: a label for each text, or pair of texts."""

    num_targets_name: ClassVar[str] = "num_examples"

    @classmethod
    def encoder(
        cls, data: TaskData[TextSide], config: ClassificationConfig, loaded: LoadedModel
    ) -> Callable[[TextSide], EncodedExamples]:
        weights = class_weights(config, data)
        return lambda side: EncodedExamples.of(side, loaded, config.data.max_length, weights)

    def losses(self, model: Any, batch: ExampleBatch) -> Losses:
        logits = model(**batch.inputs).logits.float()
        each = functional.cross_entropy(logits, batch.labels, reduction="none")
        return Losses({LOSS: (each * batch.weights).sum()})

    def num_targets(self, batch: ExampleBatch) -> dict[str, int]:
        # Weights are 1 on average, so the divisor is the plain number of examples.
        return {LOSS: batch.num_targets}

    def memory_shape(self, micro_batch_size: int, device: torch.device) -> tuple[int, int]:
        return int(self.train.lengths.max()), micro_batch_size * len(self.data.labels)

    def scores(self, side: TextSide, logits: NDArray[np.float32]) -> Scores:
        return Scores(
            self.data.labels,
            float(cross_entropies(probabilities(logits), side.labels).mean()),
            confusion_matrix(side.labels, logits.argmax(axis=1), len(self.data.labels)),
            self.config.metric,
        )

    def test_results(
        self, side: TextSide, logits: NDArray[np.float32]
    ) -> tuple[dict[str, Any], Iterator[dict[str, Any]]]:
        scores = self.scores(side, logits)
        results = scores.to_json() | {"macro_f1_interval": scores.macro_f1_interval}
        return results, _predictions(side, self.data.labels, probabilities(logits))

    def record(self, side: TextSide, encoded: EncodedExamples) -> dict[str, Any]:
        counts = np.bincount(side.labels, minlength=len(self.data.labels))
        return {
            "examples": len(encoded),
            "tokens": int(encoded.lengths.sum()),
            "truncated": encoded.num_truncated,
            "by_label": dict(zip(self.data.labels, counts.tolist(), strict=True)),
        }

    def card(
        self, folder: Path, results: dict[str, Any], records: Mapping[str, Any], name: str
    ) -> Card:
        is_pair = isinstance(self.config.data.text_field, list)
        texts = CARD_TEXTS if is_pair else CARD_TEXTS[:1]
        return classification_card(
            name, self.config, results, records, classification_snippet(folder, texts)
        )

    def announce(self, state: TrainState, run: RunDir) -> Iterator[str]:
        if state.step == 0 and any(".pooler." in name for name in self.loaded.new_weights):
            yield (
                f"{self.config.model.name_or_path} has no pooler; the classifier's starts from "
                "random weights"
            )
        yield from self.data.notes
        for name, _, examples in self.sides():
            if examples.num_truncated:
                yield (
                    f"{name}: {examples.num_truncated:,} of {len(examples):,} examples are longer "
                    f"than data.max_length: {self.config.data.max_length} and are cut"
                )

    def sizes(self) -> str:
        sides = [f"{len(examples):,} {name}" for name, _, examples in self.sides()]
        return f"{', '.join(sides)} examples of {len(self.data.labels)} labels"

    def summary(self, results: dict[str, Any]) -> Iterator[str]:
        sides = {"eval": "validation", "test": "test"}
        measured = [side for side in sides if f"{side}_accuracy" in results]
        for side in measured:
            macro_f1 = results[f"{side}_macro_f1"], results.get(f"{side}_macro_f1_interval")
            yield (
                f"{sides[side] + ':':12}accuracy {share(results[f'{side}_accuracy'])}, macro-F1 "
                f"{f1(*macro_f1)} on {results[f'{side}_num_examples']:,} examples"
            )
        side = measured[-1]
        if len(self.data.labels) <= MOST_LABELS_SHOWN:
            yield ""
            yield from _label_table(sides[side], results[f"{side}_per_label"])
            yield ""
            yield from _confusion_table(self.data.labels, results[f"{side}_confusion_matrix"])
            yield ""
        yield _verdict(self.data.labels, results, side)

    def how_to_try(self, run: RunDir) -> str:
        return (
            'python -c "from transformers import pipeline; '
            f"print(pipeline('text-classification', '{run.model}')('your text'))\""
        )


def _verdict(labels: tuple[str, ...], results: Mapping[str, Any], side: str) -> str:
    """Say whether a classifier is better than always answering the most frequent label."""
    gain = gain_over_majority(np.asarray(results[f"{side}_confusion_matrix"]))
    low, high = gain.interval
    word = "better" if low > 0 else "worse" if high < 0 else "not clearly better"
    accuracy, macro_f1 = results[f"{side}_accuracy"], results[f"{side}_macro_f1"]
    line = (
        f"{word} than always answering {labels[gain.label]!r}: accuracy "
        f"{share(accuracy)} against {share(gain.share)}"
    )
    if low <= 0:  # if one label is frequent, a classifier may still recognise the rare ones
        line += f", macro-F1 {f1(macro_f1)} against {f1(gain.macro_f1)}"
    return line


def _predictions(
    side: TextSide, labels: tuple[str, ...], of_examples: NDArray[np.float64]
) -> Iterator[dict[str, Any]]:
    for name, label, row in zip(side.names, side.labels, of_examples, strict=True):
        yield {
            "example": name,
            "label": labels[label],
            "prediction": labels[row.argmax()],
            "score": float(row.max()),
        }


def _label_table(name: str, per_label: dict[str, dict[str, float]]) -> Iterator[str]:
    rows = [["label", "precision", "recall", "F1", f"{name} examples"]]
    for label, scores in per_label.items():
        shares = [share(scores[name]) for name in ("precision", "recall")]
        rows.append([label, *shares, f1(scores["f1"]), f"{scores['num_examples']:,}"])
    return table(rows)


def _confusion_table(labels: tuple[str, ...], counts: list[list[int]]) -> Iterator[str]:
    """Write a row for each true label, and a column, by number, for each predicted label."""
    rows = [["is, taken for", *map(str, range(1, len(labels) + 1))]]
    for number, (label, row) in enumerate(zip(labels, counts, strict=True), start=1):
        rows.append([f"{number:>2} {label}", *(f"{count:,}" for count in row)])
    return table(rows)


def class_weights(config: ClassificationConfig, data: TaskData[TextSide]) -> list[float]:
    """Return the weight of each label in the loss; the mean over all examples is 1."""
    num_labels = len(data.labels)
    if config.data.class_weights == "none":
        return [1.0] * num_labels
    counts = np.bincount(data.train.labels, minlength=num_labels)
    # A subset may lack a label; then no example has its weight.
    weights: list[float] = (len(data.train) / (num_labels * np.maximum(counts, 1))).tolist()
    return weights
