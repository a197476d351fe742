import math

import pytest

from mlmtune.report.estimates import change, nats, perplexity, points, share
from mlmtune.report.findings import Estimate


@pytest.mark.parametrize(
    ("estimate", "shown"),
    [(Estimate(23.456, (17.8, 29.834)), "23.46 [17.80, 29.83]"), (Estimate(12345.6), "12,345.60"),
     (Estimate(None), "over 1e308"), (None, "-"), (Estimate(1.2345678), "1.2346"),
     (Estimate(1.58, (1.4811, 1.7)), "1.58 [1.48, 1.70]")],
)  # fmt: skip
def test_perplexities(estimate, shown):
    assert perplexity(estimate) == shown


def test_shares_and_changes():
    assert share(Estimate(0.4213, (0.4, 0.4449))) == "42.1% [40.0, 44.5]"
    assert nats(Estimate(-1.4449, (-1.5, -1.3))) == "-1.445 [-1.500, -1.300]"
    assert points(Estimate(0.021, (-0.01, 0.05))) == "+2.1 [-1.0, +5.0]"


@pytest.mark.parametrize(
    ("interval", "of_loss", "of_share"),
    [((-0.2, -0.1), "better", "worse"), ((0.1, 0.2), "worse", "better"),
     ((-0.1, 0.1), "unclear", "unclear"), (None, "unclear", "unclear"),
     ((0.0, math.inf), "unclear", "unclear")],
)  # fmt: skip
def test_a_change_is_one_where_the_interval_leaves_out_nothing(interval, of_loss, of_share):
    assert change(Estimate(0.0, interval)) == of_loss
    assert change(Estimate(0.0, interval), is_loss=False) == of_share
