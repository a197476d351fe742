"""The metrics against counting by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlmtune.classification.metrics import (
    Scores,
    accuracy,
    confusion_matrix,
    gain_over_majority,
    label_counts,
    macro_f1,
    precision_recall_f1,
)

NUM_LABELS = 4


@given(
    st.lists(st.tuples(st.integers(0, NUM_LABELS - 1), st.integers(0, NUM_LABELS - 1)), min_size=1)
)
def test_metrics_are_those_of_counting(pairs: list[tuple[int, int]]) -> None:
    labels, predictions = np.asarray(pairs).T
    confusion = confusion_matrix(labels, predictions, NUM_LABELS)
    assert accuracy(confusion) == pytest.approx(np.mean(labels == predictions))
    f1s = []
    for number, (precision, recall, f1) in enumerate(
        zip(*precision_recall_f1(confusion), strict=True)
    ):
        right = sum(pair == (number, number) for pair in pairs)
        predicted, true = sum(predictions == number), sum(labels == number)
        assert precision == pytest.approx(right / predicted if predicted else 0)
        assert recall == pytest.approx(right / true if true else 0)
        harmonic = 2 * precision * recall / (precision + recall) if right else 0
        assert f1 == pytest.approx(harmonic)
        if predicted or true:
            f1s.append(f1)
    assert macro_f1(label_counts(confusion)) == pytest.approx(np.mean(f1s))


@pytest.mark.parametrize(
    ("metric", "criterion"), [("accuracy", -0.75), ("loss", 0.5), ("macro_f1", -11 / 15)]
)
def test_the_best_weights_are_the_best_by_what_is_chosen(metric: str, criterion: float) -> None:
    scores = Scores(("a", "b"), 0.5, np.asarray([[1, 0], [1, 2]]), metric)  # type: ignore[arg-type]
    assert scores.criterion == pytest.approx(criterion)
    assert scores.to_json()["per_label"]["b"]["recall"] == pytest.approx(2 / 3)


@given(
    st.lists(st.tuples(st.integers(0, NUM_LABELS - 1), st.integers(0, NUM_LABELS - 1)), min_size=1)
)
def test_the_gain_over_the_most_frequent_label_is_that_of_counting(
    pairs: list[tuple[int, int]],
) -> None:
    labels, predictions = np.asarray(pairs).T
    gain = gain_over_majority(confusion_matrix(labels, predictions, NUM_LABELS))
    assert gain.label == np.bincount(labels).argmax()
    assert gain.share == pytest.approx(np.mean(labels == gain.label))
    constant = confusion_matrix(labels, np.full_like(labels, gain.label), NUM_LABELS)
    assert gain.macro_f1 == pytest.approx(macro_f1(label_counts(constant)))
    differences = (predictions == labels).astype(float) - (labels == gain.label)
    half_width = 1.96 * differences.std() / np.sqrt(len(labels))
    mean = differences.mean()
    assert gain.interval == pytest.approx((mean - half_width, mean + half_width), abs=1e-9)


def test_the_interval_of_macro_f1_covers_what_other_tests_give() -> None:
    generator = np.random.default_rng(1)

    def sample() -> Scores:
        labels = generator.integers(3, size=300)
        guesses = np.where(generator.random(300) < 0.7, labels, generator.integers(3, size=300))
        confusion = confusion_matrix(labels, guesses, 3)
        return Scores(("a", "b", "c"), 0.5, confusion, "macro_f1")

    interval = sample().macro_f1_interval
    assert interval is not None
    others = np.quantile([sample().macro_f1 for _ in range(400)], (0.025, 0.975))
    assert interval[1] - interval[0] == pytest.approx(others[1] - others[0], rel=0.2)
