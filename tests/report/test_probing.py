"""Models compared on a task by their predictions: what is drawn, what is said."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlmtune.classification.entity_data import EntityData, SentenceSide
from mlmtune.classification.labelled_sentences import Sentence
from mlmtune.classification.metrics import confusion_matrix, label_counts, macro_f1
from mlmtune.classification.probed_tasks import ProbedClassification, ProbedEntities
from mlmtune.classification.sides import TaskData
from mlmtune.classification.task_data import TextSide
from mlmtune.report.findings import Estimate, ProbeRow
from mlmtune.report.probing import (
    ProbeSetting,
    resampled,
    sentences,
    what_says_little,
)


def task_of(labels: Any, num_labels: int) -> ProbedClassification:
    """A task with a test of such labels."""
    side = TextSide([("text",)] * len(labels), np.asarray(labels), ["name"] * len(labels))
    names = tuple(map(str, range(num_labels)))
    return ProbedClassification(TaskData(names, side, side, side, 0, (), ""))


@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=30),
    st.integers(1, 3),
)
def test_draws_lie_around_the_mean(pairs: list[tuple[int, int]], num_seeds: int) -> None:
    labels, predicted = np.asarray(pairs).T
    draws = resampled(task_of(labels, 3), np.stack([predicted] * num_seeds))
    assert draws.min() >= 0
    assert draws.max() <= 1
    if all(label == guess for label, guess in pairs):
        assert (draws == 1).all()


def test_an_interval_covers_what_other_tests_give() -> None:
    generator = np.random.default_rng(1)

    def sample(size: int) -> tuple[Any, Any]:
        labels = generator.integers(2, size=size)
        return labels, np.where(generator.random(size) < 0.8, labels, 1 - labels)

    labels, predicted = sample(200)
    low, high = np.quantile(resampled(task_of(labels, 2), predicted[None]), (0.025, 0.975))
    others = [float(macro_f1(label_counts(confusion_matrix(*sample(200), 2)))) for _ in range(400)]
    assert high - low == pytest.approx(np.diff(np.quantile(others, (0.025, 0.975)))[0], rel=0.2)


def test_the_sentence_tells_clear_from_unclear() -> None:
    def row(model: str, size: int, difference: Estimate | None) -> ProbeRow:
        return ProbeRow("frozen", size, model, ((0.5,), (0.5,)), difference)

    rows = [
        row("base", 50, None),
        row("new", 50, Estimate(0.03, (0.01, 0.05))),
        row("new", 200, Estimate(-0.02, (-0.04, -0.01))),
        row("new", 900, Estimate(0.01, (-0.01, 0.02))),
    ]
    assert list(sentences(rows, "base", "macro-F1")) == [
        "new against base, macro-F1 in points: better frozen on 50 (+3.0 [+1.0, +5.0]); worse "
        "frozen on 200 (-2.0 [-4.0, -1.0]); no clear difference frozen on 900 (+1.0 [-1.0, +2.0])."
    ]


def test_what_a_comparison_does_not_tell_is_said() -> None:
    labels = np.asarray([0] * 30 + [1] * 10)
    constant, right = np.zeros((1, 40), dtype=np.int64), labels[None]
    few, all_ = ProbeSetting("finetuned", 50), ProbeSetting("finetuned", "all")
    frozen = ProbeSetting("frozen", 50)
    predictions = {
        (few, "base"): constant, (few, "adapted"): constant,
        (all_, "base"): constant, (all_, "adapted"): right,
        (frozen, "base"): constant, (frozen, "adapted"): right,
    }  # fmt: skip
    notes = what_says_little(task_of(labels, 2), predictions)
    one_seed = "with one seed the interval does not include how much seeds differ"
    assert [note.partition(";")[0] for note in notes] == [
        "fine-tuned on 50: no model is clearly more accurate than always answering '0' (75.0%), "
        "so how they differ says little",
        f"fine-tuned on 50: {one_seed}",
        f"fine-tuned on all: {one_seed}",
    ]


def entities(sentences: list[str], labels: tuple[str, ...]) -> ProbedEntities:
    """A task with a test of sentences with such tags."""
    tagged = [tuple(sentence.split()) for sentence in sentences]
    side = SentenceSide.of([Sentence(tags, tags, "", "") for tags in tagged], labels)
    return ProbedEntities(EntityData(labels, side, side, side, 0, (), ""))


@given(st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=5), min_size=1, max_size=10))
def test_entities_are_resampled_by_sentences(sentences: list[list[int]]) -> None:
    labels = ("O", "B-A", "I-A", "B-B", "I-B")
    task = entities([" ".join("O" if n % 2 else "B-A" for n in s) for s in sentences], labels)
    predicted = np.concatenate(sentences)
    f1 = task.scores(task.data.test, predicted)[-1]
    assert task.score_of(task.counts(predicted).sum(axis=0)) == pytest.approx(f1)
    assert task.scores(task.data.test, task.settled(task.data.test, predicted))[-1] == f1
    right = task.data.train.labels
    assert task.scores(task.data.test, right)[-1] in (0.0, 1.0)
    assert set(resampled(task, np.stack([right, right]))) <= {0.0, 1.0}


def test_what_the_entities_of_a_comparison_are() -> None:
    task = entities(["O B-A I-A", "B-B O", "O"], ("O", "B-A", "I-A", "B-B", "I-B"))
    assert task.measured_on == "3 test sentences with 2 entities of 2 types"
    nothing = np.zeros(6, dtype=np.int64)
    assert task.why_worthless([nothing]) == "no model finds an entity"
    assert task.why_worthless([nothing, task.data.train.labels]) is None
