"""How the curve of a merge is shown."""

from mlmtune.merging.findings import Merge
from mlmtune.report.estimates import nats, perplexity


def curve_table(merge: Merge) -> list[list[str]]:
    """Return the header and the rows of the curve; changes are in nats per token, with 95 %."""
    header = ["alpha", "perplexity", "change", "behind the best"]
    header += ["general perplexity", "forgetting"] if merge.has_general else []
    rows = [[*header, ""]]
    for point in merge.points:
        change, general = point.domain.change, point.general
        row = [
            f"{point.alpha:g}",
            perplexity(point.domain.perplexity, with_interval=False),
            "base" if change is None else nats(change.loss),
            nats(point.behind_best),
        ]
        if general is not None:
            row += [
                perplexity(general.perplexity, with_interval=False),
                "base" if general.change is None else nats(general.change.loss),
            ]
        rows.append([*row, "<- chosen" if point.alpha == merge.choice.alpha else ""])
    return rows
