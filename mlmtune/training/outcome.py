"""What a run came to, by what it measured itself: the last line of `train` without a report.

A report compares base and adapted model token by token, and its intervals are narrower. Here the
two measurements are taken for independent, so that what is called clear here is clear there, too.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

STANDARD_ERRORS = 1.96
"""Of a 95 % interval."""


def outcome(results: Mapping[str, Any]) -> str:
    """The verdict's label, and the numbers it rests on.

    Args:
        results: all_results.json's content.
    """
    after = f"perplexity {_shown(results['eval_perplexity'])}"
    if results["eval_model_head_was_new"]:
        right = (
            f"{results['eval_accuracy']:.1%} right, frequency alone "
            f"{results['eval_token_frequency_accuracy']:.1%}"
        )
        sentences = {
            "improved": "The model has learned to predict the domain's text",
            "worse": "It predicts the text worse than token frequencies do",
            "no clear change": "It predicts little beyond token frequencies",
        }
        label = _label_of_new_head(results)
        sentence = sentences[label]
        if label == "improved" and not results["eval_loss_fell"]:
            label = "no clear change"
            sentence = "It predicts beyond token frequencies, but got no better over the run"
        return f"{label}. {sentence} ({right}): {after}."
    before = f"perplexity {_shown(results['eval_perplexity_before'])} before"
    numbers = f"{before}, {after.removeprefix('perplexity ')} after"
    label = _label(
        results["eval_loss"], _half_width(results, "eval_perplexity_interval", "eval_loss"),
        results["eval_loss_before"],
        _half_width(results, "eval_perplexity_before_interval", "eval_loss_before"),
    )  # fmt: skip
    if results["eval_worse_than_base"]:
        how = "worse" if label == "worse" else "not better"
        return f"{label}. The model is {how} than its base on validation text: {numbers}."
    return f"{label}. On validation text: {numbers}."


def loss_fell(losses: Sequence[float]) -> bool:
    """Whether any evaluation's loss is below that of the first; True of a single one."""
    return len(losses) == 1 or min(losses) < losses[0]


def _label(loss: float, half_width: float, other: float, other_half_width: float) -> str:
    """What a loss is against another, each with half of its 95 % interval, in nats."""
    difference, uncertainty = loss - other, math.hypot(half_width, other_half_width)
    if abs(difference) <= uncertainty:
        return "no clear change"
    return "improved" if difference < 0 else "worse"


def _label_of_new_head(results: Mapping[str, Any]) -> str:
    """Against token frequencies, which are known exactly: by the loss, and by right guesses."""
    label = _label(
        results["eval_loss"], _half_width(results, "eval_perplexity_interval", "eval_loss"),
        results["eval_token_frequency_loss"], 0.0,
    )  # fmt: skip
    shares = results["eval_accuracy"], results["eval_token_frequency_accuracy"]
    variance = sum(share * (1 - share) for share in shares) / results["eval_num_masked_tokens"]
    is_beyond = shares[0] - shares[1] > STANDARD_ERRORS * math.sqrt(variance)
    return "no clear change" if label == "improved" and not is_beyond else label


def _half_width(results: Mapping[str, Any], interval: str, loss: str) -> float:
    """Half of a loss's 95 % interval; infinite where there is none."""
    bounds = results[interval]
    return math.inf if bounds is None else math.log(bounds[1]) - float(results[loss])


def _shown(perplexity: float | None) -> str:
    return "over 1e308" if perplexity is None else f"{perplexity:,.2f}"
