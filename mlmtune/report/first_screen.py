"""The first screen of a report: the verdict, three numbers and the next steps for any reader.

It needs no machine learning to be understood. Nothing is measured here: it says in plain words what
the sections below it say with the terms of the field.
"""

import math
from dataclasses import dataclass

from mlmtune.evaluation.retrieval_pool import FEWEST_DOCUMENTS
from mlmtune.printable import counted
from mlmtune.report.estimates import change, nats, points, share
from mlmtune.report.findings import (
    Estimate,
    Model,
    Report,
    Run,
    Standing,
    Step,
    Text,
    Verdict,
)
from mlmtune.report.next_steps import MUCH_FORGETTING
from mlmtune.report.retrieval import BM25
from mlmtune.report.verdict import LABELS
from mlmtune.training.outcome import Label

UNITS = {
    "loss": "the loss in nats per token", "word_loss": "the loss in nats per word",
    "ndcg_at_10": "nDCG at 10 in points",
}  # fmt: skip
"""What runs are ordered by."""

TAGS = {"better": "better", "worse": "worse", "unclear": "no clear change"}


@dataclass(frozen=True)
class Figure:
    """One of the three numbers.

    Attributes:
        question: What the number answers.
        kind: How the model compares with before training: `better`, `worse`, `unclear` or `none`,
            if that was not measured.
        tag: The same in words.
        after: The number; empty if it was not measured.
        before: The number before training, and what it is.
        difference: The difference and its 95 % interval.
        meaning: What was counted; why, if nothing was.
    """

    question: str
    kind: str
    tag: str
    after: str
    before: str
    difference: str
    meaning: str


@dataclass(frozen=True)
class Summary:
    """What the first screen says about one run.

    Attributes:
        run: The name of its model.
        sentence: The verdict in plain words.
        cost: What training took.
        basis: On how much text the numbers rest.
    """

    run: str
    label: Label
    sentence: str
    figures: tuple[Figure, ...]
    cost: str
    basis: str
    steps: tuple[Step, ...]


def summaries(report: Report) -> tuple[Summary, ...]:
    """Return what the first screen says about each run, the best run first."""
    verdicts = {verdict.run: verdict for verdict in report.verdicts}
    runs = {run.name: run for run in report.runs}
    order = [standing.run for standing in report.standings] or list(runs)
    return tuple(_summary(report, verdicts[name], runs[name]) for name in order)


def ranking(report: Report) -> str:
    """Say in a sentence which of several runs is the best, and whether that is clear."""
    if not report.standings:
        return "These runs cannot be ranked, because their models know different parts of the text."
    first, *others = report.standings
    finds = first.measure == "ndcg_at_10"
    does = "finds the right page" if finds else "predicts the words of your text"
    best = f"Of {len(report.standings)} runs, {first.run} {does} best"
    unclear = [standing.run for standing in others if not standing.is_clear]
    if not unclear:
        return f"{best}, clearly better than the other{'s' if len(others) > 1 else ''}."
    return f"{best}, but its lead over {' and '.join(unclear)} may be chance."


def leaderboard(report: Report) -> list[list[str]]:
    """Return the header and the rows of the table of several runs, the best first."""
    standings = {standing.run: standing for standing in report.standings}
    unit = "words guessed" if report.texts[0].words is None else "surprise per word (nats)"
    header = ["run", "verdict", unit, "right page found", f"general {unit}"]
    rows = [[*header, "compared with the best"]]
    for place, summary in enumerate(summaries(report), 1):
        figures = [f"{f.after} ({f.tag})" if f.after else f.tag for f in summary.figures]
        standing = standings.get(summary.run)
        name = summary.run if standing is None else f"{place}. {summary.run}"
        rows.append([name, summary.label, *figures, _compared(standing, place)])
    return rows


def leaderboard_caption(report: Report) -> str:
    """Say what the table of several runs shows, and in which unit the last column is."""
    if not report.standings:
        return "The runs"
    unit = UNITS[report.standings[0].measure]
    return f"The runs, the best first; the last column is {unit}, with 95 % intervals"


def _compared(standing: Standing | None, place: int) -> str:
    if standing is None:
        return "not ranked"
    if place == 1:
        return "the best"
    if standing.behind is None:
        return "other tokens"
    write = points if standing.measure == "ndcg_at_10" else nats
    shown = write(standing.behind)
    return f"{'clearly worse' if standing.is_clear else 'may be as good'}: {shown}"


def _summary(report: Report, verdict: Verdict, run: Run) -> Summary:
    model = next(model for model in report.models if model.name == verdict.run)
    domain = report.texts[0]
    figures = (_words(verdict, model, domain), _page(report, model), _forgotten(report, model))
    return Summary(
        run=run.name,
        label=verdict.label,
        sentence=_sentence(model, verdict.label, figures),
        figures=figures,
        cost=_cost(run),
        basis=_basis(model, domain),
        steps=verdict.steps,
    )


def _words(verdict: Verdict, model: Model, text: Text) -> Figure:
    kind = next(kind for kind, label in LABELS.items() if label == verdict.predictions)
    return _predictions("Does it predict the words of your text?", kind, model, text)


def _page(report: Report, model: Model) -> Figure:
    question = "Does it find the right page?"
    found = report.retrieval
    if found is None:
        reason = (
            f"It takes {FEWEST_DOCUMENTS} whole documents or more that were kept out of training; "
            "what was missing is said under “Why this verdict”."
        )
        return _unmeasured(question, reason)
    before, after = found.of(model.base).measures, found.of(model.name).measures
    changed = found.change_of(model.name)
    kind = change(changed.ndcg_at_10, is_loss=False)
    is_obvious = change(changed.recall_at_1, is_loss=False) == kind
    bm25 = share(found.of(BM25).measures.recall_at_1, with_interval=False)
    has_titles = found.num_titles == found.num_documents
    query = "title" if has_titles else "title or a part of their text"
    return Figure(
        question=question,
        kind=kind,
        tag=TAGS[kind],
        after=share(after.recall_at_1, with_interval=False),
        before=f"before: {share(before.recall_at_1, with_interval=False)}",
        difference=(
            _by(TAGS[kind], changed.recall_at_1)
            if is_obvious
            else f"{_by(TAGS[kind], changed.ndcg_at_10)} of a score (nDCG) that also counts pages "
            "in second to tenth place"
        ),
        meaning=(
            f"of {counted(found.num_documents, 'page')} come first when they are searched by "
            f"{query} (plain word search: {bm25})."
        ),
    )


def _by(tag: str, changed: Estimate) -> str:
    """Write a change of a share behind what it means, such as `worse by 3.1 points (1.2 to 5)`."""
    value, interval = 100 * (changed.value or 0.0), changed.interval
    if tag == TAGS["unclear"]:
        bounds = (
            "" if interval is None else f" ({100 * interval[0]:+.1f} to {100 * interval[1]:+.1f})"
        )
        return f"{tag}: {value:+.1f} points{bounds}"
    assert interval is not None  # only with an interval is a change clear
    low, high = sorted(abs(100 * bound) for bound in interval)
    return f"{tag} by {abs(value):.1f} points ({low:.1f} to {high:.1f})"


def _forgotten(report: Report, model: Model) -> Figure:
    question = "Has it forgotten general language?"
    if _is_new(model):
        return _unmeasured(
            question,
            "The base model could not predict words, so there is nothing to compare with.",
            tag="cannot be measured",
        )
    if report.general_is_missing:
        return _unmeasured(question, "No everyday text was given to measure it on.")
    text = report.texts[1]
    changed = text.loss_change_of(model.name)
    if changed.loss.value is None:
        return _unmeasured(question, "Its tokens are others, and its words were not compared.")
    return _predictions(question, change(changed.loss), model, text)


def _unmeasured(question: str, meaning: str, tag: str = "not measured") -> Figure:
    return Figure(question, "none", tag, "", "", "", meaning)


def _predictions(question: str, kind: str, model: Model, text: Text) -> Figure:
    """Say how many hidden words of a text a model guesses; `kind` is what the loss decides."""
    before, after = text.of(model.compared_with), text.of(model.name)
    is_slight = kind == "worse" and (
        (text.loss_change_of(model.name).loss.value or 0.0) < MUCH_FORGETTING
    )
    tag = "slightly worse" if is_slight else TAGS[kind]
    if text.words is not None or after.change is None:
        # All models of a text are shown in the unit in which all of them compare.
        return _whole_words(question, kind, tag, model, text)
    changed = after.change
    compared_with, as_before = _compared_with(model)
    if change(changed.accuracy, is_loss=False) == kind:
        difference = _by(tag, changed.accuracy)
    elif kind == "unclear" and _is_new(model):
        difference = "no clear sign that it learned from this training"
    else:
        times = math.exp(-(changed.loss.value or 0.0))
        difference = f"{tag}: it finds the right words {times:.2f} times as probable as {as_before}"
    return Figure(
        question=question,
        kind=kind,
        tag=tag,
        after=share(after.accuracy, with_interval=False),
        before=f"{compared_with}: {share(before.accuracy, with_interval=False)}",
        difference=difference,
        meaning=f"of the words hidden in {_called(text)} are guessed right at once.",
    )


def _whole_words(question: str, kind: str, tag: str, model: Model, text: Text) -> Figure:
    """Say how much whole words surprise a model, where models cut them into other tokens."""
    if text.words is None:
        return _unmeasured(question, "Its tokens are others, and its words were not compared.")
    before, after = (
        text.words.of(name).losses.loss.value or 0.0 for name in (model.compared_with, model.name)
    )
    times = math.exp(before - after)
    compared_with, as_before = _compared_with(model)
    return Figure(
        question=question,
        kind=kind,
        tag=tag,
        after=f"{after:.2f}",
        before=f"{compared_with}: {before:.2f}",
        difference=(
            tag
            if kind == "unclear"
            else f"{tag}: it finds the right words {times:.2f} times as probable as {as_before}"
        ),
        meaning=(
            f"is how much whole words hidden in {_called(text)} surprise it, on average (in nats; "
            "lower is better)."
        ),
    )


def _called(text: Text) -> str:
    return "pages that it had never seen" if text.kind == "domain" else text.name


def _sentence(model: Model, label: Label, figures: tuple[Figure, ...]) -> str:
    """Say in plain words whether training helped, and at what price."""
    words, page, forgotten = figures
    said = {
        "better": (
            "has learned to predict the words of your text, which its base could not do"
            if _is_new(model)
            else "now predicts the words of your text better than before"
        ),
        "unclear": (
            "has not clearly learned to predict the words of your text"
            if _is_new(model)
            else "shows no clear change in how well it predicts the words of your text"
        ),
        "worse": "predicts the words of your text worse than "
        + ("word frequencies alone do" if _is_new(model) else "before"),
        "none": "cuts your text into other tokens than before, and their words were not compared",
    }
    gains, losses = list[str](), list[str]()
    (losses if words.kind == "worse" else gains).append(said[words.kind])
    if page.kind == "better":
        gains.append("finds the right page more often")
    if page.kind == "worse":
        losses.append("finds the right page less often")
    if forgotten.tag == "worse":
        losses.append("has forgotten some general language")
    answer = {
        "improved": "Yes", "mixed": "Partly", "no clear change": "Not clearly", "worse": "No",
    }[label]  # fmt: skip
    if label == "improved" and forgotten.tag == "worse":
        answer = "Yes, but at a price"
    elif label == "improved" and page.kind == forgotten.kind == "none":
        answer = "Yes, as far as it was measured"
    sides = [_and(side) for side in (gains, losses) if side]
    return f"{answer}. The model {', but '.join(sides)}."


def _and(parts: list[str]) -> str:
    *most, last = parts
    return f"{', '.join(most)} and {last}" if most else last


def _cost(run: Run) -> str:
    results = run.train_results
    return (
        f"Training took {results['train_runtime'] / 60:.1f} minutes and "
        f"{results['peak_memory_bytes'] / 1e9:.1f} GB of memory, and read "
        f"{counted(results['num_tokens'], 'token')} (words or parts of words)."
    )


def _basis(model: Model, text: Text) -> str:
    if text.words is None:
        num_tokens = text.of(model.name).num_masked_tokens
        what = f"{counted(num_tokens, 'hidden word')} (or parts of words)"
    else:
        what = counted(text.words.samples[0].num_words, "hidden word")
    return (
        f"Measured on {what} of {counted(text.num_documents, 'document')} that the model was not "
        "trained on. A point is 1 % of the pages or words, and differences are computed before "
        "rounding. In brackets: the range of the true number, with 95 % confidence. A change is "
        "called better or worse only if it is too large to be chance."
    )


def _compared_with(model: Model) -> tuple[str, str]:
    """Return what a model's numbers are beside, as a name and behind "as probable as"."""
    if _is_new(model):
        return "word frequencies alone", "by word frequencies alone"
    return "before", "before"


def _is_new(model: Model) -> bool:
    """Whether the base of a model could not predict words, so that it is compared with others."""
    return model.compared_with != model.base
