"""How estimates are written for a reader, and which changes are clear."""

from typing import Literal

from mlmtune import numbers
from mlmtune.report.findings import Estimate


def perplexity(estimate: Estimate | None, *, with_interval: bool = True) -> str:
    """Write a perplexity; see `numbers.perplexity`."""
    if estimate is None:
        return "-"
    return numbers.perplexity(estimate.value, estimate.interval if with_interval else None)


def share(estimate: Estimate, *, with_interval: bool = True) -> str:
    """Write a share in percent."""
    return numbers.share(estimate.value or 0.0, estimate.interval if with_interval else None)


def loss(estimate: Estimate) -> str:
    """Write a mean loss in nats."""
    return numbers.loss(estimate.value or 0.0, estimate.interval)


def nats(estimate: Estimate) -> str:
    """Write a change of the loss in nats per token, with its sign."""
    return numbers.nats(estimate.value or 0.0, estimate.interval)


def points(estimate: Estimate) -> str:
    """Write a change of a share in percentage points, with its sign."""
    return numbers.points(estimate.value or 0.0, estimate.interval)


def change(estimate: Estimate, *, is_loss: bool = True) -> Literal["better", "worse", "unclear"]:
    """Return `better` or `worse`, or `unclear` if the interval includes 0 or is missing.

    Args:
        estimate: The change.
        is_loss: Whether a lower value is better.
    """
    if estimate.interval is None or estimate.interval[0] <= 0 <= estimate.interval[1]:
        return "unclear"
    return "better" if (estimate.interval[1] < 0) == is_loss else "worse"


def count(value: int | float | None) -> str:
    """Write a count with thousands separators."""
    return "-" if value is None else f"{value:,.0f}"
