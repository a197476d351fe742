"""The outcome of a run by its own evaluations: the last line of `train` without a report.

A report compares base and adapted model token by token, so its intervals are narrower. Here the two
measurements count as independent: a change that is clear here is also clear in a report.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from mlmtune.numbers import perplexity, points, share

Label = Literal["improved", "mixed", "no clear change", "worse"]
"""What became of a model. It is `mixed` if it is clearly better in one measure of the domain and
clearly worse in another."""

_DID: dict[Label, str] = {"improved": "improved", "worse": "got worse"}

STANDARD_ERRORS = 1.96
"""Half the width of a 95 % interval, in standard errors."""


def outcome(results: Mapping[str, Any]) -> str:
    """Return the label of the verdict, and the numbers that it follows from.

    Args:
        results: The content of all_results.json.
    """
    after = f"perplexity {perplexity(results['eval_perplexity'])}"
    if results["eval_model_head_was_new"]:
        right = (
            f"{share(results['eval_accuracy'])} right, frequency alone "
            f"{share(results['eval_token_frequency_accuracy'])}"
        )
        against_frequencies = _label_of_new_head(results)
        label, sentence = judge_new_head(against_frequencies, results["eval_loss_fell"])
        of_frequencies = perplexity(math.exp(results["eval_token_frequency_loss"]))
        sentence += f" ({right}): {after}, frequency alone {of_frequencies}"
        return _with_retrieval(label, sentence, results)
    before = f"perplexity {perplexity(results['eval_perplexity_before'])} before"
    numbers = f"{before}, {after.removeprefix('perplexity ')} after"
    label = _label(
        results["eval_loss"], _half_width(results, "eval_perplexity_interval", "eval_loss"),
        results["eval_loss_before"],
        _half_width(results, "eval_perplexity_before_interval", "eval_loss_before"),
    )  # fmt: skip
    sentence = f"On validation text: {numbers}"
    if results["eval_worse_than_base"]:
        how = "worse" if label == "worse" else "not better"
        sentence = f"The model is {how} than its base on validation text: {numbers}"
    return _with_retrieval(label, sentence, results)


def _with_retrieval(predictions: Label, sentence: str, results: Mapping[str, Any]) -> str:
    """Return label and sentence of a run by its predictions and, if measured, by retrieval."""
    interval = results.get("eval_retrieval_ndcg_at_10_change_interval")
    if interval is None:
        return f"{predictions}. {sentence}."
    retrieval: Label = "no clear change"
    if interval[0] > 0 or interval[1] < 0:
        retrieval = "improved" if interval[0] > 0 else "worse"
    change = results["eval_retrieval_ndcg_at_10"] - results["eval_retrieval_ndcg_at_10_before"]
    remark = remark_on_retrieval(predictions, retrieval, in_points(change, interval))
    return f"{combined(predictions, retrieval)}. {sentence}{remark}."


def remark_on_retrieval(predictions: Label, retrieval: Label, difference: str) -> str:
    """Return the end of a sentence on predictions if retrieval makes the label another one."""
    label = combined(predictions, retrieval)
    if label == predictions:
        return ""
    conflict = f"perplexity {_DID[predictions]}, " if label == "mixed" else ""
    return f"; {conflict}retrieval {_DID[retrieval]} ({difference})"


def in_points(change: float, interval: Sequence[float] | None) -> str:
    """Write a change of a share, such as `-3.1 points [-5.0, -1.2]`."""
    value, *bounds = points(change, interval).split(" ", 1)
    return " ".join([f"{value} points", *bounds])


def combined(predictions: Label, retrieval: Label) -> Label:
    """Return the label of a model by how it predicts words and how it finds documents.

    A measure without a clear change decides nothing.
    """
    clear = {predictions, retrieval} - {"no clear change"}
    if len(clear) > 1:
        return "mixed"
    return clear.pop() if clear else "no clear change"


def judge_new_head(against_frequencies: Label, loss_fell: bool) -> tuple[Label, str]:
    """Return the verdict on a model whose head was new, and the sentence that gives the reason.

    Args:
        against_frequencies: How the model compares with token frequencies alone.
        loss_fell: Whether its loss became lower over the run.
    """
    if against_frequencies == "improved" and not loss_fell:
        sentence = "It predicts beyond token frequencies, but got no better over the run"
        return "no clear change", sentence
    sentences = {
        "improved": "The model has learned to predict the domain's text",
        "worse": "It predicts the domain's text worse than token frequencies do",
        "no clear change": "It predicts little beyond token frequencies",
    }
    return against_frequencies, sentences[against_frequencies]


def loss_fell(losses: Sequence[float]) -> bool:
    """Whether any evaluation's loss is below the first one's; True for a single evaluation."""
    return len(losses) == 1 or min(losses) < losses[0]


def _label(loss: float, half_width: float, other: float, other_half_width: float) -> Label:
    """Compare a loss with another; half-widths are those of the 95 % intervals, in nats."""
    difference, uncertainty = loss - other, math.hypot(half_width, other_half_width)
    if abs(difference) <= uncertainty:
        return "no clear change"
    return "improved" if difference < 0 else "worse"


def _label_of_new_head(results: Mapping[str, Any]) -> Label:
    """Compare a new head with the unigram baseline, by loss and accuracy."""
    label = _label(
        results["eval_loss"], _half_width(results, "eval_perplexity_interval", "eval_loss"),
        results["eval_token_frequency_loss"], 0.0,  # known exactly, without an interval
    )  # fmt: skip
    shares = results["eval_accuracy"], results["eval_token_frequency_accuracy"]
    variance = sum(right * (1 - right) for right in shares) / results["eval_num_masked_tokens"]
    is_beyond = shares[0] - shares[1] > STANDARD_ERRORS * math.sqrt(variance)
    return "no clear change" if label == "improved" and not is_beyond else label


def _half_width(results: Mapping[str, Any], interval: str, loss: str) -> float:
    """Return half the width of a loss's 95 % interval; infinite if there is no interval."""
    bounds = results[interval]
    return math.inf if bounds is None else math.log(bounds[1]) - float(results[loss])
