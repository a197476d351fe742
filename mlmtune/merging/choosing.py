"""Which of the merged models is recommended, by a stated rule."""

from collections.abc import Sequence

from mlmtune.merging.findings import Choice, Point
from mlmtune.report.estimates import change
from mlmtune.report.findings import Estimate

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
    "retrieval": (
        "the base has no masked-LM head, so what it can forget is how to embed text: of the models "
        "whose retrieval is not clearly worse than that of the best one (nDCG at 10, 95 % interval "
        "of the paired difference), the one with the lowest loss on the validation text"
    ),
    "best": "the lowest loss on the validation text, of which there is too little for intervals",
    "given": "the alpha that was given",
}


def choose(points: Sequence[Point], *, has_new_head: bool) -> Choice:
    """Return the alpha with the least forgetting that costs nothing clear on the domain.

    Args:
        points: The measured models.
        has_new_head: Whether the base has no masked-LM head. Its losses then mean little, and
            retrieval says what was forgotten.
    """
    if has_new_head and points[0].retrieval is not None:
        near = [p for p in points if not _is_worse(p.behind_best_retrieval, is_loss=False)]
        return Choice(best_of(near).alpha, RULES["retrieval"])
    best = best_of(points)
    if any(p.behind_best is not None and p.behind_best.interval is None for p in points):
        return Choice(best.alpha, RULES["best"])
    near = [point for point in points if not _is_worse(point.behind_best)]
    if best.general is None:
        return Choice(min(point.alpha for point in near), RULES["domain"])
    return Choice(min(near, key=_loss_on_general_text).alpha, RULES["general"])


def best_of(points: Sequence[Point]) -> Point:
    """Return the point with the lowest loss on the validation text; of equals the lowest alpha."""
    return min(points, key=lambda point: (point.domain.loss.value, point.alpha))


def best_by_retrieval(points: Sequence[Point]) -> Point | None:
    """Return the point that finds documents best; of equals the lowest alpha."""
    found = [(p.retrieval.measures.ndcg_at_10.value or 0.0, p) for p in points if p.retrieval]
    return max(found, key=lambda pair: pair[0])[1] if found else None


def _is_worse(behind: Estimate | None, *, is_loss: bool = True) -> bool:
    return behind is not None and change(behind, is_loss=is_loss) == "worse"


def _loss_on_general_text(point: Point) -> tuple[float, float]:
    assert point.general is not None
    assert point.general.loss.value is not None
    return point.general.loss.value, point.alpha
