"""How the curve of a merge is shown: a table for the terminal, and merge.html."""

from collections.abc import Callable, Iterator, Sequence

from markupsafe import Markup

from mlmtune.merging.findings import Merge
from mlmtune.modeling.names import short_names
from mlmtune.report.charts import Range, interval_chart
from mlmtune.report.estimates import count, nats, perplexity, points, share
from mlmtune.report.findings import Change, Estimate
from mlmtune.report.templates import STYLE, read_template

TEMPLATE = read_template(__package__, "merge.html.jinja", {"count": count}, escapes=True)


def curve_table(merge: Merge) -> list[list[str]]:
    """Return the header and the rows of the curve.

    Changes have 95 % intervals, in nats per token, or in points of nDCG at 10.
    """
    header = ["alpha", "perplexity", "change", "behind the best"]
    header += ["general perplexity", "change on it"] if merge.has_general else []
    header += ["nDCG at 10", "change of it"] if merge.bm25 is not None else []
    rows = [[*header, ""]]
    for point in merge.points:
        row = [
            f"{point.alpha:g}",
            perplexity(point.domain.perplexity, with_interval=False),
            _changed(point.domain.change),
            "best" if point.behind_best is None else nats(point.behind_best),
        ]
        if point.general is not None:
            shown = perplexity(point.general.perplexity, with_interval=False)
            row += [shown, _changed(point.general.change)]
        if (found := point.retrieval) is not None:
            shown = share(found.measures.ndcg_at_10, with_interval=False)
            row += [shown, "base" if found.change is None else points(found.change.ndcg_at_10)]
        rows.append([*row, "<- written" if point.alpha == merge.choice.alpha else ""])
    return rows


def _changed(of_point: Change | None) -> str:
    return "base" if of_point is None else nats(of_point.loss)


def conclusions(merge: Merge) -> list[str]:
    """Return what the curve says, in sentences."""
    chosen, ours = merge.chosen, merge.points[-1]
    sentences = [f"alpha {chosen.alpha:g} is written: {merge.choice.rule}."]
    if chosen.alpha == 0:
        sentences.append("That is the base.")
    elif chosen.alpha < 1:
        changes = [("the validation text", chosen.domain.change, ours.domain.change)]
        if chosen.general is not None and ours.general is not None:
            changes.append(("general text", chosen.general.change, ours.general.change))
        sentences += [
            f"On {text} its loss changes by {_changed(change)} nats per token from the base "
            f"({_changed(of_run)} at alpha 1)."
            for text, change, of_run in changes
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
    return [*sentences, *merge.notes]


def to_html(merge: Merge) -> str:
    """Return a page that includes its style sheet and its charts."""
    page = TEMPLATE.render(
        merge=merge,
        names=short_names([merge.base, *merge.runs]),
        style=STYLE,
        charts=[(title, Markup(chart)) for title, chart in _charts(merge)],
        table=curve_table(merge),
        conclusions=conclusions(merge),
    )
    return page.rstrip() + "\n"


def _charts(merge: Merge) -> Iterator[tuple[str, str]]:
    """Yield the title and the chart of each measure: how far each alpha is from the base."""
    of_loss = "change of the loss from the base, nats per token"
    domain, *general = (f"{text.name}: {of_loss}" for text in merge.texts)
    yield domain, _chart(domain, merge, [_loss(p.domain.change) for p in merge.points], nats)
    if general:
        losses = [_loss(p.general.change) for p in merge.points if p.general is not None]
        yield general[0], _chart(general[0], merge, losses, nats)
    if merge.bm25 is not None:
        found = [p.retrieval.change for p in merge.points if p.retrieval is not None]
        changes = [None if change is None else change.ndcg_at_10 for change in found]
        # The axis is in points, as the numbers beside it.
        title = "Retrieval: change of nDCG at 10 from the base, points"
        yield title, _chart(title, merge, changes, points, scale=100)


def _loss(change: Change | None) -> Estimate | None:
    return None if change is None else change.loss


def _chart(
    title: str,
    merge: Merge,
    changes: Sequence[Estimate | None],
    write: Callable[[Estimate], str],
    *,
    scale: float = 1,
) -> str:
    rows = []
    for point, change in zip(merge.points, changes, strict=True):
        is_chosen = point.alpha == merge.choice.alpha
        name = f"alpha {point.alpha:g}{' (written)' if is_chosen else ''}"
        shown = "base" if change is None else write(change)
        value, interval = (0.0, None) if change is None else (change.value or 0.0, change.interval)
        bar = None if interval is None else (scale * interval[0], scale * interval[1])
        rows.append(Range(name, scale * value, bar, shown, 2 if is_chosen else 1))
    return interval_chart(title, rows)
