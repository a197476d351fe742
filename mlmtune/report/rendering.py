"""Rendering report.html and report.md, which show the same findings."""

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jinja2 import Template
from markupsafe import Markup, escape

from mlmtune.evaluation.fill_mask import ANY_MASK
from mlmtune.numbers import f1, probability
from mlmtune.printable import code_in_markdown, in_markdown
from mlmtune.report.charts import Range, Series, interval_chart, line_chart
from mlmtune.report.estimates import change, count, loss, nats, perplexity, points, share
from mlmtune.report.findings import (
    METHOD_NAMES,
    METRIC_NAMES,
    Estimate,
    Probe,
    Report,
    RetrievalFindings,
    Text,
    TextPart,
    WordFindings,
)
from mlmtune.report.first_screen import leaderboard, leaderboard_caption, ranking, summaries
from mlmtune.report.phase_ends import bands, phase_table
from mlmtune.report.templates import STYLE, read_template


def to_html(report: Report) -> str:
    """Return a page that includes its style sheet and its charts."""
    return _render(HTML, report)


def to_markdown(report: Report) -> str:
    """Return the report as GitHub Markdown."""
    return _render(MARKDOWN, report)


def _render(template: Template, report: Report) -> str:
    return (
        template.render(
            report=report,
            style=STYLE,
            bases={model.base for model in report.models},
            domain=[text for text in report.texts if text.kind == "domain"],
            general=[text for text in report.texts if text.kind == "general"],
            summary=summaries(report)[0],
            ranking=ranking,
            leaderboard=leaderboard,
            leaderboard_caption=leaderboard_caption,
            sections=_sections(report),
            ask_command=_command(report, 'evaluation.examples=["A sentence with a [MASK]."]'),
            general_command=_command(report, "evaluation.general=[{format: text, path: FOLDER}]"),
            found_first=lambda found: Markup(_found_first(report, found)),
            right_guesses=lambda text: Markup(_right_guesses(report, text)),
            by_part=lambda parts: Markup(_by_part(parts)),
            curves=[(title, Markup(chart)) for title, chart in _curves(report)],
            funnel=_funnel,
            probe_table=probe_table,
            phase_table=phase_table,
            retrieval_table=retrieval_table,
            word_table=word_table,
            adapted={model.name for model in report.models if model.is_adapted},
        ).rstrip()
        + "\n"
    )


def retrieval_table(found: RetrievalFindings) -> list[list[str]]:
    """Return the header and the rows of the table of retrieval."""
    cells = [["model", "first", "among ten", "MRR", "nDCG at 10", "change of nDCG, 95 %"]]
    cells[0] += ["against BM25, 95 %", "cosine"]
    for row in found.measurements:
        of = row.measures
        shown = [share(e) for e in (of.recall_at_1, of.recall_at_10, of.mrr, of.ndcg_at_10)]
        changed = "" if row.change is None else points(row.change.ndcg_at_10)
        anisotropy = "" if row.anisotropy is None else f"{row.anisotropy:.2f}"
        against = "" if row.against_bm25 is None else points(row.against_bm25)
        cells.append([row.model, *shown, changed, against, anisotropy])
    return cells


def word_table(words: WordFindings) -> list[list[str]]:
    """Return the header and the rows of the table of the word cloze."""
    cells = [["words", "model", "pieces per word", "nats per word", "with the number of pieces",
              "change, nats per word"]]  # fmt: skip
    for sample in words.samples:
        for row in sample.measurements:
            cells.append(
                [
                    f"{sample.name} ({sample.num_words})",
                    row.model,
                    f"{row.pieces_per_word:.2f}",
                    loss(row.losses.loss),
                    loss(row.losses.loss_with_count),
                    "" if row.change is None else nats(row.change.decisive),
                ]
            )
    return cells


def probe_table(result: Probe) -> list[list[str]]:
    """Return the header and the rows of the table of a probe."""
    metrics = [METRIC_NAMES[name] for name in result.metrics]
    cells = [["method", "examples", "model", *metrics, "difference of F1, 95 %"]]
    for row in result.rows:
        cells.append(
            [
                METHOD_NAMES[row.method],
                f"{row.num_train_examples:,}",
                row.model,
                *map(_mean_and_spread, row.scores),
                "" if row.difference is None else points(row.difference),
            ]
        )
    return cells


def _mean_and_spread(values: Sequence[float]) -> str:
    """Write the mean in percent, with the standard deviation over seeds if there are several."""
    mean = f1(float(np.mean(values)))
    return mean if len(values) < 2 else f"{mean} ± {f1(float(np.std(values, ddof=1)))}"


def _sections(report: Report) -> dict[str, str]:
    """Return the title of each section, in their order."""
    several = len(report.runs) > 1
    titles = {
        "sentences": "Your own sentences",
        "verdict": "Why this verdict",
        "differences": "What differs between the runs" if report.differences else "",
        "domain": "In domain",
        "retrieval": "Finding the right page" if report.retrieval else "",
        "general": "General text and forgetting",
        "examples": "Where it gained and lost most" if report.gained or report.lost else "",
        "tasks": "On a task" if report.probes else "",
        "comparable": "Perplexity that compares",
        "run": "The runs" if several else "The run",
        "reading": "How to read this",
    }
    return {key: title for key, title in titles.items() if title}


def _anchor(title: str) -> str:
    """Return the anchor that GitHub gives to a heading; the page has the same."""
    return re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")


def _with_blanks(text: str) -> Markup:
    """Show the masks of a text as blanks."""
    blank = Markup('<span class="blank" role="img" aria-label="blank"></span>')
    return blank.join(escape(part) for part in text.split(ANY_MASK))


def _command(report: Report, setting: str) -> str:
    """Return the command that makes the report again with a setting."""
    return shlex.join(["mlmtune", "report", *(run.path for run in report.runs), setting])


def _colours(report: Report) -> dict[str, int]:
    return {model.name: number for number, model in enumerate(report.models)}


def _found_first(report: Report, found: RetrievalFindings) -> str:
    colours = _colours(report)
    rows = [(m.model, m.measures.recall_at_1) for m in found.measurements]
    return interval_chart(
        "Found first, percent",
        [_range(name, recall, share(recall), colours.get(name, len(colours)), scale=100)
         for name, recall in rows],
    )  # fmt: skip


def _right_guesses(report: Report, text: Text) -> str:
    colours = _colours(report)
    return interval_chart(
        "Right at the first guess, percent",
        [_range(m.model, m.accuracy, share(m.accuracy), colours[m.model], scale=100)
         for m in text.measurements],
    )  # fmt: skip


def _by_part(parts: Sequence[TextPart]) -> str:
    """Draw the change of the loss of a single run in each part of a text."""
    rows = []
    for part in parts:
        # The template draws this chart only for a single run with the tokens of its base.
        [change_of_run] = [m.change.loss for m in part.measurements if m.change is not None]
        rows.append(_range(part.name, change_of_run, nats(change_of_run), 1))
    return interval_chart("Change of the loss, nats per token", rows)


def _range(name: str, estimate: Estimate, shown: str, colour: int, scale: int = 1) -> Range:
    interval = estimate.interval and (scale * estimate.interval[0], scale * estimate.interval[1])
    return Range(name, scale * (estimate.value or 0.0), interval, shown, colour)


def _curves(report: Report) -> list[tuple[str, str]]:
    """Return the title and the chart of each kind of curve, with the lines of all runs."""
    several = len(report.runs) > 1

    def series(kind: str, key: str, what: str) -> list[Series]:
        return [
            Series(
                run.name if several else what,
                [(r["step"], r[key]) for r in getattr(run, kind) if r.get(key) is not None],
            )
            for run in report.runs
        ]

    general = series("evaluations", "eval_general_perplexity", "general text")
    validation = series("evaluations", "eval_perplexity", "validation text")
    retrieval = series("evaluations", "eval_retrieval_ndcg_at_10", "nDCG at 10")
    losses = series("steps", "loss", "training")
    if not several:
        losses += series("evaluations", "eval_loss", "validation")
    charts = {
        "Perplexity": validation if several else [*validation, *general],
        "Perplexity on general text": general if several else [],
        "Retrieval, nDCG at 10": retrieval,
        "Loss, nats per token": losses,
        "Learning rate": series("steps", "learning_rate", "learning rate"),
    }
    if len({r["mlm_probability"] for run in report.runs for r in run.steps}) > 1:
        charts["Masking rate"] = series("steps", "mlm_probability", "masking rate")
    charts["Tokens per second"] = series("steps", "tokens_per_second", "tokens per second")
    phases = bands(report.runs)
    drawn = {
        title: line_chart(title, lines, may_be_log=title.startswith("Perplexity"), bands=phases)
        for title, lines in charts.items()
    }
    return [(title, chart) for title, chart in drawn.items() if chart]


def _funnel(corpus: dict[str, Any]) -> list[tuple[str, int | None, int | None]]:
    """Return the rows of the corpus funnel: what, documents, characters."""
    documents, characters = corpus["documents"], corpus["characters"]
    rows: list[tuple[str, int | None, int | None]] = [
        ("found", documents["found"], characters["found"]),
        ("cleaned away", None, sum(characters["cleaned_away"].values())),
    ]
    for reason, number in documents["left_out"].items():
        left_out = characters["left_out"].get(reason, 0)
        rows.append((f"left out: {reason.replace('_', ' ')}", number, left_out))
    rows.append(("kept", documents["kept"], characters["kept"]))
    for name, what in (("train", "trained on"), ("validation", "validated on"),
                       ("general", "general text, measured only")):  # fmt: skip
        side = corpus.get(name)
        if side is not None and side["documents"] is not None:
            rows.append((what, side["documents"], side["characters"]))
    return rows


FILTERS: Mapping[str, Callable[..., Any]] = {
    "perplexity": perplexity, "share": share, "nats": nats, "change": change, "count": count,
    "cell": in_markdown, "points": points, "probability": probability, "anchor": _anchor,
    "blanks": _with_blanks, "code": code_in_markdown,
}  # fmt: skip
HTML = read_template(__package__, "report.html.jinja", FILTERS, escapes=True)
MARKDOWN = read_template(__package__, "report.md.jinja", FILTERS, escapes=False)
