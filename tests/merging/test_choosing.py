"""The rule by which one of the merged models is recommended."""

from dataclasses import replace

import pytest

from mlmtune.merging.choosing import RULES, choose
from mlmtune.merging.findings import Point
from mlmtune.report.findings import Estimate, Measurement

ONE = Estimate(1.0)


def measured(loss: float) -> Measurement:
    return Measurement("", 9, 9, Estimate(loss), ONE, None, None, ONE, ONE, None)


def points(domain: list[float], general: list[float] | None, half_width: float) -> list[Point]:
    """A curve whose intervals all have the same width."""
    best = min(domain)
    return [
        Point(
            number / (len(domain) - 1),
            measured(loss),
            None if general is None else measured(general[number]),
            behind_best=None
            if loss == best
            else Estimate(loss - best, (loss - best - half_width, loss - best + half_width)),
        )
        for number, loss in enumerate(domain)
    ]


DOMAIN = [4.0, 3.1, 2.9, 2.8, 2.81]


@pytest.mark.parametrize(
    ("general", "half_width", "alpha", "rule"),
    [
        ([1.0, 1.1, 1.2, 1.3, 1.4], 0.15, 0.5, "general"),
        ([1.0, 1.1, 1.2, 1.3, 1.4], 0.005, 0.75, "general"),  # every other one is clearly worse
        ([1.4, 1.3, 1.2, 1.1, 1.0], 0.15, 1.0, "general"),  # general text has gained
        ([1.0, 1.0, 1.0, 1.0, 1.0], 9.0, 0.0, "general"),  # nothing is clear: the base
        (None, 0.15, 0.5, "domain"),
    ],
)
def test_the_least_forgetting_that_costs_nothing_clear(
    general: list[float] | None, half_width: float, alpha: float, rule: str
) -> None:
    choice = choose(points(DOMAIN, general, half_width), has_new_head=False)
    assert (choice.alpha, choice.rule) == (alpha, RULES[rule])


def test_without_intervals_nothing_is_called_as_good_as_the_best() -> None:
    curve = [
        replace(point, behind_best=point.behind_best and ONE)
        for point in points(DOMAIN, DOMAIN[::-1], 0.1)
    ]
    assert choose(curve, has_new_head=False).alpha == 0.75
    assert choose(curve, has_new_head=False).rule == RULES["best"]
