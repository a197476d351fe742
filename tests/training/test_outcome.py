"""The last line of a run without a report."""

import math
from typing import Any

import pytest

from mlmtune.training.outcome import Label, combined, loss_fell, outcome


def results(before: float, after: float, half_width: float | None, **others: Any) -> dict[str, Any]:
    def interval(loss: float) -> list[float] | None:
        if half_width is None:
            return None
        return [math.exp(loss - half_width), math.exp(loss + half_width)]

    return {
        "eval_loss": after,
        "eval_loss_before": before,
        "eval_perplexity": math.exp(after),
        "eval_perplexity_before": math.exp(before),
        "eval_perplexity_interval": interval(after),
        "eval_perplexity_before_interval": interval(before),
        "eval_num_masked_tokens": 1000,
        "eval_model_head_was_new": False,
        "eval_worse_than_base": after > before,
        **others,
    }


@pytest.mark.parametrize(
    ("before", "after", "half_width", "expected"),
    [
        (3.0, 2.5, 0.1, "improved. On validation text: perplexity 20.09 before, 12.18 after."),
        (3.0, 2.9, 0.1, "no clear change. On validation text: perplexity"),
        (3.0, 2.5, None, "no clear change. On validation text: perplexity"),
        (3.0, 3.1, 0.1, "no clear change. The model is not better than its base on"),
        (3.0, 3.5, 0.1, "worse. The model is worse than its base on validation text: perpl"),
    ],
)
def test_two_intervals_decide(
    before: float, after: float, half_width: float | None, expected: str
) -> None:
    assert outcome(results(before, after, half_width)).startswith(expected)


@pytest.mark.parametrize(
    ("after", "accuracy", "expected"),
    [
        (3.0, 0.4, "improved. The model has learned to predict the domain's text (40.0% right, f"),
        (3.0, 0.058, "no clear change. It predicts little beyond token frequencies (5.8% right, "
                     "frequency alone 6.2%): perplexity 20.09, frequency alone 148.41."),
        (4.95, 0.4, "no clear change. It predicts little beyond"),
        (6.0, 0.02, "worse. It predicts the domain's text worse than token frequencies do (2.0%"),
    ],
)  # fmt: skip
def test_a_new_head_is_compared_with_token_frequencies(
    after: float, accuracy: float, expected: str
) -> None:
    of_frequencies = {"eval_token_frequency_loss": 5.0, "eval_token_frequency_accuracy": 0.062}
    found = results(6.5, after, 0.1, eval_accuracy=accuracy, eval_loss_fell=True, **of_frequencies)
    found |= {"eval_model_head_was_new": True}
    assert outcome(found).startswith(expected)
    rose = outcome(found | {"eval_loss_fell": False})
    if expected.startswith("improved"):
        assert rose.startswith("no clear change. It predicts beyond token frequencies, but got no")
    else:
        assert rose == outcome(found)


@pytest.mark.parametrize(
    ("after", "change", "expected"),
    [
        (2.5, -0.3, "mixed. On validation text: perplexity 20.09 before, 12.18 after; perplexity "
                    "improved, retrieval got worse (-30.0 points [-40.0, -20.0])."),
        (2.5, -0.05, "improved. On validation text: perplexity 20.09 before, 12.18 after."),
        (2.5, 0.3, "improved. On validation text: perplexity 20.09 before, 12.18 after."),
        (3.5, 0.3, "mixed. The model is worse than its base on validation text: perplexity 20.09 "
                   "before, 33.12 after; perplexity got worse, retrieval improved (+30.0 points "
                   "[+20.0, +40.0])."),
        (2.95, -0.3, "worse. On validation text: perplexity 20.09 before, 19.11 after; retrieval "
                     "got worse (-30.0 points [-40.0, -20.0])."),
    ],
)  # fmt: skip
def test_what_retrieval_says_is_part_of_the_outcome(
    after: float, change: float, expected: str
) -> None:
    of_retrieval = {
        "eval_retrieval_ndcg_at_10": 0.5 + change,
        "eval_retrieval_ndcg_at_10_before": 0.5,
        "eval_retrieval_ndcg_at_10_change_interval": [change - 0.1, change + 0.1],
    }
    assert outcome(results(3.0, after, 0.1, **of_retrieval)) == expected


@pytest.mark.parametrize(
    ("losses", "fell"), [((5.0, 4.0), True), ((5.0, 4.0, 6.0), True), ((5.0, 5.1), False),
                         ((5.0, 5.0), False), ((8.0,), True)],
)  # fmt: skip
def test_a_loss_fell_where_an_evaluation_is_better_than_the_first(
    losses: tuple[float, ...], fell: bool
) -> None:
    assert loss_fell(losses) == fell


@pytest.mark.parametrize(
    ("predictions", "retrieval", "label"),
    [
        ("improved", "worse", "mixed"), ("worse", "improved", "mixed"),
        ("improved", "improved", "improved"), ("worse", "no clear change", "worse"),
        ("no clear change", "worse", "worse"), ("no clear change", "improved", "improved"),
        ("no clear change", "no clear change", "no clear change"),
    ],
)  # fmt: skip
def test_two_measures_that_conflict_are_mixed_and_a_clear_one_decides_alone(
    predictions: Label, retrieval: Label, label: Label
) -> None:
    assert combined(predictions, retrieval) == label
