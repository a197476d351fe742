"""Numbers as a reader sees them, and whether a change is one."""

from typing import Literal

from mlmtune.report.findings import Estimate


def perplexity(estimate: Estimate | None, *, with_interval: bool = True) -> str:
    """Two decimals; from 1,000 on none, and close to 1 four. Its interval has as many."""
    if estimate is None:
        return "-"
    if estimate.value is None:
        return "over 1e308"
    decimals = 0 if estimate.value >= 1000 else 2 if estimate.value >= 1.5 else 4
    shown = f"{estimate.value:,.{decimals}f}"
    if estimate.interval is not None and with_interval:
        low, high = estimate.interval
        shown += f" [{low:,.{decimals}f}, {high:,.{decimals}f}]"
    return shown


def share(estimate: Estimate, *, with_interval: bool = True) -> str:
    """In percent."""
    shown = f"{estimate.value or 0.0:.1%}"
    if estimate.interval is not None and with_interval:
        low, high = (f"{100 * bound:.1f}" for bound in estimate.interval)
        shown += f" [{low}, {high}]"
    return shown


def nats(estimate: Estimate) -> str:
    """A change in nats per token, with its sign."""
    shown = f"{estimate.value or 0.0:+.3f}"
    if estimate.interval is not None:
        shown += " [{:+.3f}, {:+.3f}]".format(*estimate.interval)
    return shown


def points(estimate: Estimate) -> str:
    """A change of a share in percentage points, with its sign."""
    shown = f"{100 * (estimate.value or 0.0):+.1f}"
    if estimate.interval is not None:
        low, high = (f"{100 * bound:+.1f}" for bound in estimate.interval)
        shown += f" [{low}, {high}]"
    return shown


def change(estimate: Estimate, *, is_loss: bool = True) -> Literal["better", "worse", "unclear"]:
    """`better`, `worse`, or `unclear` where the interval holds 0."""
    if estimate.interval is None or estimate.interval[0] <= 0 <= estimate.interval[1]:
        return "unclear"
    return "better" if (estimate.interval[1] < 0) == is_loss else "worse"


def count(value: int | float | None) -> str:
    """With thousands separators."""
    return "-" if value is None else f"{value:,.0f}"
