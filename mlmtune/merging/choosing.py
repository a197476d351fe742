"""Which of the merged models is recommended, by a stated rule."""

from collections.abc import Sequence

from mlmtune.merging.findings import Choice, Point
from mlmtune.report.estimates import change

NOT_CLEARLY_WORSE = (
    "of the models whose loss on the validation text is not clearly worse than that of the best "
    "one (95 % interval of the paired difference)"
)
RULES = {
    "general": f"{NOT_CLEARLY_WORSE}, the one with the lowest loss on general text",
    "domain": (
        f"{NOT_CLEARLY_WORSE}, the one nearest to the base, because forgetting was not measured "
        "(there is no evaluation.general)"
    ),
    "best": ("the lowest loss on the validation text, of which there is too little for intervals"),
    "given": "the alpha that was given",
}


def choose(points: Sequence[Point]) -> Choice:
    """Return the alpha with the least forgetting that costs nothing clear on the domain."""
    best = best_of(points)
    behind = {point: point.behind_best for point in points if point.behind_best is not None}
    if any(estimate.interval is None for estimate in behind.values()):
        return Choice(best.alpha, RULES["best"])
    near = [best, *(point for point in behind if change(behind[point]) != "worse")]
    if best.general is None:
        return Choice(min(point.alpha for point in near), RULES["domain"])
    return Choice(min(near, key=_loss_on_general_text).alpha, RULES["general"])


def best_of(points: Sequence[Point]) -> Point:
    """Return the point with the lowest loss on the validation text; of equals the lowest alpha."""
    return min(points, key=lambda point: (point.domain.loss.value, point.alpha))


def _loss_on_general_text(point: Point) -> tuple[float, float]:
    assert point.general is not None
    assert point.general.loss.value is not None
    return point.general.loss.value, point.alpha
