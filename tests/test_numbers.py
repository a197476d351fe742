import pytest

from mlmtune import numbers


@pytest.mark.parametrize(
    ("value", "interval", "shown"),
    [
        (1179.891, None, "1,179.89"),
        (29.456, (25.744, 1033.7), "29.46 [25.74, 1,033.70]"),
        (1.2345678, None, "1.2346"),
        (None, None, "over 1e308"),
    ],
)
def test_a_perplexity_has_separators_and_two_decimals(value, interval, shown):
    assert numbers.perplexity(value, interval) == shown


def test_shares_and_differences_have_the_digits_of_their_kind():
    assert numbers.share(0.4213) == "42.1%"
    assert numbers.f1(0.8418) == "84.2"
    assert numbers.nats(0.25) == "+0.250"
    assert numbers.points(-0.021, (-0.05, 0.01)) == "-2.1 [-5.0, +1.0]"


@pytest.mark.parametrize(
    ("value", "shown"), [(0.123, "12.3%"), (0.00123, "0.12%"), (0.000001, "<0.001%")]
)
def test_a_small_probability_keeps_two_digits(value, shown):
    assert numbers.probability(value) == shown
