"""How numbers are written for people, so that the same number looks the same everywhere.

An interval is written behind its value in square brackets.
"""

from collections.abc import Sequence


def perplexity(value: float | None, interval: Sequence[float] | None = None) -> str:
    """Write a perplexity, such as `1,179.89`; None is one that does not fit a float.

    Below 1.5 it has four decimals, because perplexities per byte are close to 1.
    """
    if value is None:
        return "over 1e308"
    return _written(value, interval, ",.2f" if value >= 1.5 else ",.4f")


def share(value: float, interval: Sequence[float] | None = None) -> str:
    """Write a share in percent, such as `42.1%`."""
    return _written(value, interval, ".1f", unit="%", scale=100)


def f1(value: float, interval: Sequence[float] | None = None) -> str:
    """Write an F1 score in percent and without the sign, such as `84.2`, as is usual."""
    return _written(value, interval, ".1f", scale=100)


def loss(value: float, interval: Sequence[float] | None = None) -> str:
    """Write a mean loss, such as `5.12`."""
    return _written(value, interval, ".2f")


def nats(value: float, interval: Sequence[float] | None = None) -> str:
    """Write a difference of losses, such as `-0.125`."""
    return _written(value, interval, "+.3f")


def points(value: float, interval: Sequence[float] | None = None) -> str:
    """Write a difference of shares in percentage points, such as `+2.1`."""
    return _written(value, interval, "+.1f", scale=100)


def probability(value: float) -> str:
    """Write the probability of one token in percent, with two digits where it is small."""
    if value < 0.00001:
        return "<0.001%"
    return share(value) if value >= 0.01 else f"{100 * value:.2g}%"


def _written(
    value: float, interval: Sequence[float] | None, form: str, *, scale: int = 1, unit: str = ""
) -> str:
    written = f"{scale * value:{form}}{unit}"
    if interval is None:
        return written
    return f"{written} [{', '.join(f'{scale * bound:{form}}' for bound in interval)}]"
