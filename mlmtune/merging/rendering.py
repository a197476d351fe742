"""How the curve of a merge is shown: a table for the terminal, and merge.html."""

from collections.abc import Sequence
from importlib.resources import files

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from mlmtune import report
from mlmtune.merging.findings import Merge
from mlmtune.report.charts import Range, interval_chart
from mlmtune.report.estimates import change, count, nats, perplexity
from mlmtune.report.findings import Change, Estimate

UNCHANGED = Estimate(0.0)


def curve_table(merge: Merge) -> list[list[str]]:
    """Return the header and the rows of the curve; changes are in nats per token, with 95 %."""
    header = ["alpha", "perplexity", "change", "behind the best"]
    header += ["general perplexity", "change on it"] if merge.has_general else []
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
        rows.append([*row, "<- written" if point.alpha == merge.choice.alpha else ""])
    return rows


def _changed(of_point: Change | None) -> str:
    return "base" if of_point is None else nats(of_point.loss)


def conclusions(merge: Merge) -> list[str]:
    """Return what the curve says, in sentences."""
    chosen, ours = merge.chosen, merge.points[-1]
    sentences = [f"alpha {chosen.alpha:g} is written: {merge.choice.rule}."]
    if chosen.alpha == 0:
        sentences.append("That is the base: no model between it and the run is clearly better.")
    elif chosen.general is not None and 0 < chosen.alpha < 1:
        assert ours.general is not None
        assert chosen.domain.change is not None
        assert ours.domain.change is not None
        sentences.append(
            f"On general text its loss changes by {_changed(chosen.general.change)} nats per token "
            f"from the base ({_changed(ours.general.change)} at alpha 1), on the validation text "
            f"by {_changed(chosen.domain.change)} ({_changed(ours.domain.change)} at alpha 1)."
        )
    if merge.has_new_head:
        sentences.append(
            f"{merge.base} has no masked-LM head, so all models have the run's, and losses at "
            "small alphas mean little: that head was not trained for them."
        )
    if not merge.has_general:
        sentences.append("Forgetting was not measured: there is no evaluation.general.")
    return sentences


def to_html(merge: Merge) -> str:
    """Return a page that includes its style sheet and its charts."""
    # StrictUndefined, because a misspelt field would otherwise be an empty cell.
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"change": change, "count": count, "nats": nats}
    template = files(__package__).joinpath("merge.html.jinja").read_text(encoding="utf-8")
    style = files(report).joinpath("report.css").read_text(encoding="utf-8")
    domain = [point.domain.change for point in merge.points]
    general = [point.general.change for point in merge.points if point.general is not None]
    charts = [(text.name, Markup(_chart(merge, changes)))
              for text, changes in zip(merge.texts, (domain, general), strict=False)]  # fmt: skip
    page = environment.from_string(template).render(
        merge=merge,
        style=Markup(style),
        charts=charts,
        table=curve_table(merge),
        conclusions=conclusions(merge),
    )
    return page.rstrip() + "\n"


def _chart(merge: Merge, changes: Sequence[Change | None]) -> str:
    """Draw how far the loss of each alpha is from that of the base."""
    rows = []
    for point, of_point in zip(merge.points, changes, strict=True):
        loss = UNCHANGED if of_point is None else of_point.loss
        is_chosen = point.alpha == merge.choice.alpha
        name = f"alpha {point.alpha:g}{' (written)' if is_chosen else ''}"
        shown = _changed(of_point)
        rows.append(Range(name, loss.value or 0.0, loss.interval, shown, 2 if is_chosen else 1))
    return interval_chart("Change of the loss from the base, nats per token", rows)
