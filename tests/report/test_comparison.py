"""Models compared on the same masked tokens."""

import numpy as np
import pytest

from mlmtune.evaluation.scoring import TokenScores
from mlmtune.report.comparison import compare


def scores_of(losses):
    places = np.arange(len(losses))
    right = np.asarray(losses) < 1.0
    return TokenScores(
        places * 0, places * 0, places, places, places, np.asarray(losses), right, right
    )


@pytest.mark.parametrize("units", [[0, 0, 0, 0], [0, 0, 1, 1]])
def test_a_text_of_one_chunk_has_no_interval(units):
    scores = {"base": scores_of([2.0, 2.0, 3.0, 3.0]), "adapted": scores_of([0.5, 2.0, 2.0, 1.5])}
    measured = compare(scores, {"base": None, "adapted": "base"}, np.asarray(units))
    assert [m.loss.value for m in measured] == [2.5, 1.5]
    assert [m.accuracy.value for m in measured] == [0.0, 0.25]
    assert measured[1].change.loss.value == -1.0
    has_interval = len(set(units)) > 1
    for estimate in (measured[0].loss, measured[1].change.loss, measured[1].accuracy):
        assert (estimate.interval is not None) == has_interval
