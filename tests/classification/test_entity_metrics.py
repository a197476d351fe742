"""Entity-level scores, which are seqeval's, and the kinds of errors."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from seqeval.metrics import f1_score, precision_score, recall_score

from mlmtune.classification.entity_metrics import (
    EntityScores,
    counts_of,
    decoded,
    entities_of,
    errors_of,
    scores_of,
)
from mlmtune.classification.metrics import f1_of

LABELS = ("O", "B-A", "I-A", "B-B", "I-B")
NUMBERS = st.lists(st.tuples(st.integers(-1, 4), st.integers(-1, 4)), min_size=1, max_size=8)


def tagged(numbers: list[list[int]]) -> list[tuple[str, ...]]:
    ends = np.cumsum([len(sentence) for sentence in numbers])
    return decoded(np.concatenate(numbers), LABELS, ends)


@given(st.lists(NUMBERS, min_size=1, max_size=4))
def test_scores_are_those_of_seqeval(pairs: list[list[tuple[int, int]]]) -> None:
    true = tagged([[a for a, _ in sentence] for sentence in pairs])
    guess = tagged([[b for _, b in sentence] for sentence in pairs])
    overall, per_type = scores_of(true, guess)
    as_lists = [list(tags) for tags in true], [list(tags) for tags in guess]
    if per_type:
        for name, of_seqeval in (
            ("precision", precision_score), ("recall", recall_score), ("micro_f1", f1_score),
        ):  # fmt: skip
            assert overall[name] == pytest.approx(of_seqeval(*as_lists, zero_division=0))
        macro = f1_score(*as_lists, average="macro", zero_division=0)
        assert overall["macro_f1"] == pytest.approx(macro)
    counts = counts_of(true, guess).sum(axis=0)
    assert f1_of(counts) == pytest.approx(overall["micro_f1"])

    errors = [error for a, b in zip(true, guess, strict=True) for error in errors_of(a, b)]
    wrong = [kind for kind, _, _ in errors if kind != "missed"]
    assert len(wrong) == counts[1] - counts[0]  # every wrong prediction is one error
    assert (overall["micro_f1"] == 1.0) == (not errors and counts[2] > 0)


@given(st.lists(st.lists(st.integers(-1, 4), min_size=1, max_size=8), min_size=1, max_size=3))
def test_what_is_predicted_is_iob2_with_the_same_entities(numbers: list[list[int]]) -> None:
    for sentence, tags in zip(numbers, tagged(numbers), strict=True):
        before = "O"
        for tag in tags:
            assert tag[0] != "I" or before[2:] == tag[2:]
            before = tag
        if -1 not in sentence:
            assert entities_of(tags) == entities_of(tuple(LABELS[n] for n in sentence))


@pytest.mark.parametrize(
    ("numbers", "tags"),
    [
        ([1, -1, 2], "B-A I-A I-A"),
        ([1, -1, -1, 2, -1], "B-A I-A I-A I-A O"),
        ([1, -1, 1], "B-A O B-A"),
        ([1, -1, 4], "B-A O B-B"),
        ([-1, 2], "O B-A"),
        ([-1, -1], "O O"),
    ],
)
def test_a_dropped_word_continues_the_entity_around_it(numbers: list[int], tags: str) -> None:
    assert tagged([numbers]) == [tuple(tags.split())]


@pytest.mark.parametrize(
    ("true", "predicted", "kinds"),
    [
        ("B-A I-A O", "B-A O O", ["boundary"]),
        ("B-A I-A O", "B-B I-B O", ["type"]),
        ("B-A I-A O", "B-B O O", ["boundary"]),
        ("B-A I-A O", "O O B-A", ["spurious", "missed"]),
        ("B-A B-A O", "B-A I-A O", ["boundary"]),
        ("B-A I-A O", "B-A I-A O", []),
    ],
)
def test_each_error_has_its_kind(true: str, predicted: str, kinds: list[str]) -> None:
    found = errors_of(tuple(true.split()), tuple(predicted.split()))
    assert [kind for kind, _, _ in found] == kinds


def test_without_entities_every_score_is_0() -> None:
    scores = EntityScores.of(0.5, [("O", "O")], [("O", "O")], "micro_f1")
    assert (scores.criterion, scores.num_entities, scores.to_json()["per_type"]) == (0.0, 0, {})
    assert scores.describe().startswith("entity F1 0.0 (precision 0.0%, recall 0.0%), loss 0.500")


def test_the_interval_of_f1_draws_sentences() -> None:
    # All entities of a sentence are right or wrong together, so sentences alone are independent.
    generator = np.random.default_rng(1)

    def sample() -> EntityScores:
        true = [("B-A",) * 10] * 60
        guess = [tags if generator.random() < 0.6 else ("O",) * 10 for tags in true]
        return EntityScores.of(0.5, true, guess, "micro_f1")

    interval = sample().micro_f1_interval
    assert interval is not None
    others = np.quantile([sample().overall["micro_f1"] for _ in range(200)], (0.025, 0.975))
    assert interval[1] - interval[0] == pytest.approx(others[1] - others[0], rel=0.25)
    one = EntityScores.of(0.5, [("B-A",)], [("B-A",)], "micro_f1")
    assert one.micro_f1_interval is None
