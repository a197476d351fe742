"""Metrics of predicted labels. n examples, K labels."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlmtune.config import Metric
from mlmtune.evaluation.bootstrap import Sums, score_interval
from mlmtune.numbers import f1, share
from mlmtune.printable import counted


def probabilities(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return (n, K) the probability of each label; NaN where the logits (n, K) are."""
    # In double precision, and shifted by the largest logit, so that nothing overflows.
    exponentials = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    normalised: NDArray[np.float64] = exponentials / exponentials.sum(axis=1, keepdims=True)
    return normalised


def cross_entropies(
    predicted: NDArray[np.float64], labels: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return (n,) the cross entropy, in nats, of the probabilities (n, K) and the true labels."""
    of_true = predicted[np.arange(len(labels)), labels]
    # A probability may underflow to 0, whose logarithm would make the loss infinite.
    losses: NDArray[np.float64] = -np.log(np.maximum(of_true, np.finfo(np.float64).tiny))
    return losses


def confusion_matrix(
    labels: NDArray[np.int64],
    predictions: NDArray[np.int64],
    num_labels: int,
) -> NDArray[np.int64]:
    """Count how often each label (row) was predicted as each label (column), as (K, K).

    Args:
        labels: (n,) The true labels.
        predictions: (n,) The predicted labels.
        num_labels: K.
    """
    counts = np.bincount(labels * num_labels + predictions, minlength=num_labels**2)
    return counts.reshape(num_labels, num_labels)


def precision_recall_f1(
    confusion: NDArray[np.int64],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return precision, recall and F1 of each label (K,); 0 if the divisor is 0."""
    counts = label_counts(confusion)
    right, predicted, true = counts.T
    return right / np.maximum(predicted, 1), right / np.maximum(true, 1), f1_of(counts)


def accuracy(confusion: NDArray[np.int64]) -> float:
    """Return the share of the examples that were classified correctly."""
    return float(np.trace(confusion) / max(confusion.sum(), 1))


def f1_of(counts: NDArray[Any]) -> NDArray[np.float64]:
    """Return F1 (...) of how many are right, predicted and true (..., 3); 0 without any."""
    right, predicted, true = np.moveaxis(counts, -1, 0)
    return np.asarray(2 * right / np.maximum(predicted + true, 1))


def macro_f1(counts: NDArray[Any]) -> NDArray[np.float64]:
    """Return the mean F1 (...) of the labels that occur, as scikit-learn does.

    A label that occurs neither among the true nor among the predicted labels has no F1.

    Args:
        counts: (..., K, 3) How often each label is right, predicted and true.
    """
    occurs = counts[..., 1:].any(axis=-1)
    return np.asarray((f1_of(counts) * occurs).sum(axis=-1) / np.maximum(occurs.sum(axis=-1), 1))


def label_counts(confusion: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return (K, 3) how often each label is right, predicted and true."""
    return np.stack([confusion.diagonal(), confusion.sum(axis=0), confusion.sum(axis=1)], axis=1)


def example_counts(
    labels: NDArray[np.int64], predictions: NDArray[np.int64], num_labels: int
) -> Sums:
    """Return (n, 3 K) the `label_counts` of each example by itself, flattened."""
    counts, rows = np.zeros((len(labels), num_labels, 3)), np.arange(len(labels))
    counts[rows, predictions, 1] = counts[rows, labels, 2] = 1.0
    counts[rows, labels, 0] = labels == predictions
    return counts.reshape(len(labels), -1)


def macro_f1_of_sums(sums: Sums) -> NDArray[np.float64]:
    """Return macro-F1 (...) of sums (..., 3 K) of `example_counts`."""
    return macro_f1(sums.reshape(*sums.shape[:-1], -1, 3))


@dataclass(frozen=True)
class Gain:
    """The constant answer that is right most often, compared with a classifier.

    Attributes:
        label: The number of that answer: the most frequent true label.
        share: The accuracy of that answer.
        macro_f1: The macro-F1 of that answer.
        interval: 95 % interval of the classifier's accuracy minus `share`.
    """

    label: int
    share: float
    macro_f1: float
    interval: tuple[float, float]


def gain_over_majority(confusion: NDArray[np.int64]) -> Gain:
    """Compare a classifier with always answering the most frequent label.

    Both answer the same examples, so the interval comes from those that only one of them has right.

    Args:
        confusion: The `confusion_matrix` (K, K) of at least one example.
    """
    true, num_examples = confusion.sum(axis=1), confusion.sum()
    label = int(true.argmax())
    num_both = int(confusion[label, label])
    num_gained, num_lost = int(np.trace(confusion)) - num_both, int(true[label]) - num_both
    # Each example adds 1, 0 or -1, so the mean of the squares is the share of those that are not 0.
    mean = (num_gained - num_lost) / num_examples
    variance = ((num_gained + num_lost) / num_examples - mean**2) / num_examples
    half_width = 1.96 * float(np.sqrt(variance))
    constant = np.zeros_like(confusion)
    constant[:, label] = true
    return Gain(
        label,
        float(true[label] / num_examples),
        float(macro_f1(label_counts(constant))),
        (float(mean) - half_width, float(mean) + half_width),
    )


@dataclass(frozen=True)
class Scores:
    """The scores of a classifier on one side.

    Attributes:
        labels: The names of the labels, by number.
        loss: Mean cross entropy of the true labels, in nats.
        confusion: (K, K), see `confusion_matrix`.
        chosen_by: The metric by which the best weights are chosen.
    """

    labels: tuple[str, ...]
    loss: float
    confusion: NDArray[np.int64]
    chosen_by: Metric

    @property
    def accuracy(self) -> float:
        return accuracy(self.confusion)

    @property
    def macro_f1(self) -> float:
        return float(macro_f1(label_counts(self.confusion)))

    @property
    def macro_f1_interval(self) -> tuple[float, float] | None:
        """95 % interval of macro-F1: examples are resampled."""
        labels, predictions = np.nonzero(self.confusion)  # one example stands for its cell
        by_cell = example_counts(labels, predictions, len(self.labels))
        return score_interval(by_cell, self.confusion[labels, predictions], macro_f1_of_sums)

    @property
    def criterion(self) -> float:
        """The number that is lowest for the best weights."""
        return self.loss if self.chosen_by == "loss" else -float(getattr(self, self.chosen_by))

    def to_json(self) -> dict[str, Any]:
        """Return the scores as JSON values, under the names of eval_results.json."""
        precision, recall, f1 = precision_recall_f1(self.confusion)
        return {
            "loss": self.loss,
            "accuracy": self.accuracy,
            "macro_f1": self.macro_f1,
            "num_examples": int(self.confusion.sum()),
            "per_label": {
                label: {
                    "precision": float(precision[number]),
                    "recall": float(recall[number]),
                    "f1": float(f1[number]),
                    "num_examples": int(self.confusion[number].sum()),
                }
                for number, label in enumerate(self.labels)
            },
            "confusion_matrix": self.confusion.tolist(),
        }

    def describe(self) -> str:
        """Return one line for people."""
        return (
            f"accuracy {share(self.accuracy)}, macro-F1 {f1(self.macro_f1)}, loss "
            f"{self.loss:.3f} on {counted(int(self.confusion.sum()), 'example')}"
        )
