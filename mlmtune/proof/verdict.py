"""The verdict on a run: what its measurements come to, and what to try."""

from mlmtune.proof.findings import Label, Measurement, Model, Run, Text, Verdict
from mlmtune.proof.numbers import change, nats, perplexity, share

LABELS: dict[str, Label] = {
    "better": "improved", "unclear": "no clear change", "worse": "worse",
}  # fmt: skip
"""What a change of the loss makes of a run."""

MUCH_FORGETTING = 0.1
"""Nats a token on general text from which on it is worth doing something about: a tenth more
perplexity."""

STILL_FALLING = 0.02
"""Nats by which the last evaluation is better than the one before, where the end is too early."""


def judge(model: Model, texts: tuple[Text, ...], run: Run) -> Verdict:
    """Judge an adapted model by what was measured of it and its base."""
    name = model.name
    domain = next(text for text in texts if text.kind == "domain")
    general = [text for text in texts if text.kind == "general"]
    after = _of(name, domain)
    before = _of(model.base, domain)
    if run.eval_results["model_head_was_new"]:
        return _without_a_base(name, before, after, run)
    assert after.change is not None
    label = LABELS[change(after.change.loss)]
    sentence = {
        "improved": "The adapted model is better on the domain's text",
        "worse": "The adapted model is worse on the domain's text",
        "no clear change": "There is no clear change on the domain's text",
    }[label]
    sentence += f": perplexity {_perplexity(before)} before, {_perplexity(after)} after"
    reasons = [
        f"the loss changed by {nats(after.change.loss)} nats a token on "
        f"{after.num_masked_tokens:,} masked tokens of {domain.num_documents:,} documents",
        f"the right token is the likeliest {_right(before)} of the time before, "
        f"{_right(after)} after",
    ]
    suggestions = []
    forgotten = False
    for text in general:
        measured = _of(name, text).change
        assert measured is not None
        loss = measured.loss
        if change(loss) == "worse":
            forgotten = forgotten or (loss.value or 0.0) >= MUCH_FORGETTING
            reasons.append(f"general text has lost {nats(loss)} nats a token ({text.name})")
        else:
            reasons.append(f"general text has not lost: {nats(loss)} nats a token ({text.name})")
    if not general:
        reasons.append("forgetting was not measured: there is no evaluation.general")
    if forgotten:
        sentence += "; it has forgotten general text"
        suggestions.append(
            "against forgetting: mix in general text (replay: 0.1 on a source), lower "
            "optimizer.learning_rate, or stop earlier (evaluation.max_forgetting)"
        )
    if label == "worse":
        suggestions.append(
            "lower optimizer.learning_rate; see the curve for the step from which on it got worse"
        )
    if label == "no clear change":
        suggestions.append(
            "train longer, with a higher optimizer.learning_rate or on more text; more validation "
            "text (corpus.validation_fraction) makes the interval narrower"
        )
    suggestions += _too_early(run) if label != "worse" else []
    return Verdict(name, label, f"{sentence}.", tuple(reasons), tuple(suggestions))


def _without_a_base(name: str, before: Measurement, after: Measurement, run: Run) -> Verdict:
    """The base's head was new: what it measured is how frequent tokens are."""
    assert after.change is not None
    losses = [record["eval_loss"] for record in run.evaluations if record["step"] > 0]
    fell = len(losses) < 2 or min(losses) < losses[0]
    by_frequency = LABELS[change(after.change.loss)]
    label: Label = by_frequency if by_frequency != "improved" or fell else "no clear change"
    sentence = {
        "improved": "The model has learned to predict the domain's text",
        "worse": "The model predicts the domain's text worse than token frequencies do",
        "no clear change": "The model has learned little beyond token frequencies",
    }[label]
    reasons = [
        "the base model has no masked-LM head, so its perplexity before is that of a new head that "
        "knows token frequencies alone: it says nothing of what the base model knew",
        f"the right token is the likeliest {_right(after)} of the time; by frequency "
        f"alone {_right(before)}",
    ]
    if len(losses) > 1:
        reasons.append(
            f"over the run the validation loss went from {losses[0]:.3f} at the first evaluation "
            f"to {min(losses):.3f} at the best"
        )
    reasons.append("forgetting cannot be told: there was no prediction to forget")
    suggestions = [
        "to know whether the encoder itself is better, compare base and adapted model on a task of "
        "the domain",
        *_too_early(run),
    ]
    sentence += f": perplexity {_perplexity(after)}"
    return Verdict(name, label, f"{sentence}.", tuple(reasons), tuple(suggestions))


def _too_early(run: Run) -> list[str]:
    losses = [record["eval_loss"] for record in run.evaluations]
    if len(losses) > 2 and losses[-2] - losses[-1] > STILL_FALLING:
        return ["the validation loss was still falling at the end: train longer"]
    return []


def _of(name: str | None, text: Text) -> Measurement:
    return next(m for m in text.measurements if m.model == name)


def _perplexity(measured: Measurement) -> str:
    return perplexity(measured.perplexity, with_interval=False)


def _right(measured: Measurement) -> str:
    return share(measured.accuracy, with_interval=False)
