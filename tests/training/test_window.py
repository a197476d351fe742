"""What is added up between two log lines."""

from mlmtune.training.window import Window


def test_a_mean_is_one_sum_divided_by_one_count():
    """The mean of the two steps' means would be 2.5."""
    window = Window()
    window.add({"loss": 4.0, "pair_loss": 1.0}, {"loss": 1, "pair_loss": 2})
    window.add({"loss": 3.0, "pair_loss": 2.0}, {"loss": 3, "pair_loss": 2})
    assert window.means() == {"loss": 7 / 4, "pair_loss": 3 / 4}


def test_a_mean_of_nothing_is_zero():
    window = Window()
    assert window.means() == {}
    window.add({"loss": 0.0}, {"loss": 0})
    assert window.means() == {"loss": 0.0}
