"""How the curve of a merge is shown: a table for the terminal, and merge.html."""

from collections.abc import Callable, Iterator, Sequence

from markupsafe import Markup

from mlmtune import numbers
from mlmtune.merging.findings import Merge, OtherRun, Point
from mlmtune.modeling.names import short_names
from mlmtune.printable import in_markdown as escaped
from mlmtune.report.charts import Range, Spot, interval_chart, trade_off_chart
from mlmtune.report.estimates import change, count, nats, perplexity, points, share
from mlmtune.report.findings import Estimate, Measurement
from mlmtune.report.templates import STYLE, read_template
from mlmtune.tables import table

TEMPLATE = read_template(__package__, "merge.html.jinja", {"count": count}, escapes=True)

COLUMNS = (
    "Below each value is its change from the base, in nats per token or points of nDCG, with its "
    "95 % interval."
)

Cell = tuple[str, str]
"""A value, and what stands below it."""


def curve_table(merge: Merge) -> list[list[Cell]]:
    """Return the header and the rows of the curve, and of the runs beside it.

    The columns are the model, the perplexity on the validation text, the loss behind that of the
    best model, and if they were measured the perplexity on general text and nDCG at 10.
    """
    header = ["alpha", "perplexity", "loss behind the best"]
    header += ["general perplexity"] if merge.has_general else []
    header += ["nDCG at 10"] if merge.bm25 is not None else []
    rows = [[(name, "") for name in header]]
    for point in merge.points:
        mark = "(written)" if point.alpha == merge.choice.alpha else ""
        behind = ("best", "") if point.behind_best is None else _difference(point.behind_best)
        rows.append([(f"{point.alpha:g}", mark), *_cells(point, behind)])
    return rows + [[(other.name, ""), *_cells(other, ("", ""))] for other in merge.others]


def _cells(of: Point | OtherRun, behind: Cell) -> Iterator[Cell]:
    yield perplexity(of.domain.perplexity, with_interval=False), _changed(of.domain)
    yield behind
    if of.general is not None:
        yield perplexity(of.general.perplexity, with_interval=False), _changed(of.general)
    if (found := of.retrieval) is not None:
        below = "base" if found.change is None else points(found.change.ndcg_at_10)
        yield share(found.measures.ndcg_at_10, with_interval=False), below


def _difference(estimate: Estimate) -> Cell:
    value, _, interval = nats(estimate).partition(" ")
    return value, interval


def _changed(measured: Measurement) -> str:
    return "base" if measured.change is None else nats(measured.change.loss)


def in_terminal(merge: Merge) -> Iterator[str]:
    """Yield the lines of the curve, in 80 columns: what the best is better by is in the page."""
    rows = [row[:2] + row[3:] for row in curve_table(merge)]
    yield from table([["\n".join(filter(None, cell)) for cell in row] for row in rows])
    yield COLUMNS


def in_markdown(merge: Merge) -> str:
    """Return the curve as a table in Markdown."""
    rows = [[" ".join(filter(None, cell)) for cell in row] for row in curve_table(merge)]
    header, *others = (f"| {' | '.join(map(escaped, row))} |" for row in rows)
    return "\n".join((header, "|--:" * len(rows[0]) + "|", *others, ""))


def conclusions(merge: Merge) -> list[str]:
    """Return what the curve says, in sentences."""
    chosen, ours = merge.chosen, merge.points[-1]
    sentences = [f"alpha {chosen.alpha:g} is written{_kept(merge)}.", f"Why: {merge.choice.rule}."]
    if chosen.alpha == 0:
        sentences.append("That is the base.")
    elif chosen.alpha < 1:
        changes = [("the validation text", chosen.domain, ours.domain)]
        if chosen.general is not None and ours.general is not None:
            changes.append(("general text", chosen.general, ours.general))
        sentences += [
            f"On {text} its loss changes by {_changed(written)} nats per token from the base "
            f"({_changed(of_run)} at alpha 1)."
            for text, written, of_run in changes
        ]
    if merge.has_new_head:
        sentences.append(
            f"{merge.base} has no masked-LM head, so all models have the run's, and losses at "
            "small alphas mean little: that head was not trained for them."
        )
    if not merge.has_general:
        sentences.append("Forgetting was not measured: there is no evaluation.general.")
    if merge.bm25 is not None:
        of_bm25, base, finder = (
            share(found.measures.ndcg_at_10, with_interval=False)
            for found in (merge.bm25, merge.points[0].retrieval, chosen.retrieval)
            if found is not None
        )
        sentences.append(
            f"It finds validation documents with nDCG at 10 of {finder} (base {base}, BM25 "
            f"{of_bm25})."
        )
    sentences += [_against(other) for other in merge.others]
    return [*sentences, *merge.notes]


def _kept(merge: Merge) -> str:
    """Return what the written model has of the run's gain and of its forgetting, if both exist."""
    chosen, run = merge.chosen, merge.points[-1]
    if merge.has_new_head or not 0 < chosen.alpha < 1 or chosen.general is None:
        return ""
    assert run.general is not None
    gain, forgetting = (_loss(measured) for measured in (run.domain, run.general))
    assert gain is not None
    assert forgetting is not None
    if change(gain) != "better" or change(forgetting) != "worse":
        return ""
    shares = [
        numbers.share((of_chosen.value or 0.0) / (of_run.value or 1.0))
        for of_chosen, of_run in ((_loss(chosen.domain), gain), (_loss(chosen.general), forgetting))
        if of_chosen is not None
    ]
    return f": it has {shares[0]} of the run's gain and {shares[1]} of its forgetting"


def _against(other: OtherRun) -> str:
    """Return how a run compares with the model that is written, in a sentence."""
    differences = [f"{nats(other.against_domain)} nats per token on the validation text"]
    if other.against_general is not None:
        differences.append(f"{nats(other.against_general)} on general text")
    if other.against_retrieval is not None:
        differences.append(f"{points(other.against_retrieval)} points of nDCG at 10")
    return f"{other.name}, minus the model that is written: {', '.join(differences)}."


def to_html(merge: Merge) -> str:
    """Return a page that includes its style sheet and its charts."""
    page = TEMPLATE.render(
        merge=merge,
        names=short_names([merge.base, *merge.runs]),
        style=STYLE,
        charts=[(title, Markup(chart)) for title, chart in _charts(merge)],
        header=[cell for cell, _ in curve_table(merge)[0]],
        rows=curve_table(merge)[1:],
        columns=COLUMNS,
        conclusions=conclusions(merge),
    )
    return page.rstrip() + "\n"


def _charts(merge: Merge) -> Iterator[tuple[str, str]]:
    """Yield the title and the chart of each measure against the loss on the validation text."""
    domain = "loss on validation text: change, nats per token"
    if merge.has_general:
        title = "What each alpha wins on the validation text, and what it forgets"
        losses = [None if p.general is None else _loss(p.general) for p in _all(merge)]
        yield (
            title,
            _chart(title, merge, (domain, domain.replace("validation", "general")), losses, nats),
        )
    if merge.bm25 is not None:
        title = "What each alpha wins on the validation text, and how well it finds documents"
        found = [p.retrieval.change if p.retrieval is not None else None for p in _all(merge)]
        changes = [None if of is None else of.ndcg_at_10 for of in found]
        axes = domain, "change of nDCG at 10, points"
        yield title, _chart(title, merge, axes, changes, points, scale=100)
    if not merge.has_general and merge.bm25 is None:
        rows = []
        for name, colour, of in _named(merge):
            value, interval = _place(_loss(of.domain))
            rows.append(Range(name, value, interval, _changed(of.domain), colour))
        yield domain, interval_chart(domain, rows)


def _all(merge: Merge) -> list[Point | OtherRun]:
    return [*merge.points, *merge.others]


def _named(merge: Merge) -> Iterator[tuple[str, int, Point | OtherRun]]:
    """Yield the name and the colour of each model."""
    for point in merge.points:
        is_chosen = point.alpha == merge.choice.alpha
        yield f"{point.alpha:g}{' (written)' * is_chosen}", 2 if is_chosen else 1, point
    for other in merge.others:
        yield other.name, 3, other


def _loss(measured: Measurement) -> Estimate | None:
    return None if measured.change is None else measured.change.loss


def _place(changed: Estimate | None, scale: float = 1) -> tuple[float, tuple[float, float]]:
    """Return the place of a change on an axis, and its interval; those of the base are 0."""
    if changed is None:
        return 0.0, (0.0, 0.0)
    value = scale * (changed.value or 0.0)
    low, high = changed.interval or (changed.value or 0.0, changed.value or 0.0)
    return value, (scale * low, scale * high)


def _chart(
    title: str,
    merge: Merge,
    axes: tuple[str, str],
    changes: Sequence[Estimate | None],
    write: Callable[[Estimate], str],
    *,
    scale: float = 1,
) -> str:
    spots = []
    for (name, colour, of), changed in zip(_named(merge), changes, strict=True):
        (x, x_interval), (y, y_interval) = _place(_loss(of.domain)), _place(changed, scale)
        shown = f"{_changed(of.domain)} and {'base' if changed is None else write(changed)}"
        spots.append(Spot(name, x, y, x_interval, y_interval, shown, colour))
    num = len(merge.points)
    return trade_off_chart(title, axes, spots[:num], spots[num:])
