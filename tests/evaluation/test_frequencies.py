"""What token frequencies alone predict."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlmtune.evaluation.frequencies import TokenFrequencies
from mlmtune.evaluation.scoring import TokenScores

UNKNOWN = 1
COUNTS = st.lists(st.integers(0, 50), min_size=6, max_size=30)


def asked_for(labels: list[int]) -> TokenScores:
    made: dict[str, Any] = dict.fromkeys(TokenScores.__dataclass_fields__, np.zeros(len(labels)))
    return TokenScores(**{**made, "labels": np.asarray(labels)})


@given(COUNTS)
def test_the_probabilities_add_up_to_one_and_leave_out_what_is_never_asked(
    counts: list[int],
) -> None:
    frequencies = TokenFrequencies.of(np.asarray(counts), UNKNOWN)
    assert np.exp(-frequencies.losses).sum() == pytest.approx(1.0)
    assert np.isinf(frequencies.losses[UNKNOWN])
    assert UNKNOWN not in frequencies.likeliest


@given(COUNTS, st.data())
def test_the_guess_is_always_the_most_frequent_token_of_the_training_text(
    counts: list[int], data: st.DataObject
) -> None:
    ids = st.sampled_from([id_ for id_ in range(len(counts)) if id_ != UNKNOWN])
    labels = data.draw(st.lists(ids, min_size=1))
    frequencies = TokenFrequencies.of(np.asarray(counts), UNKNOWN)
    found = frequencies.score(asked_for(labels))
    best = max((count, -id_) for id_, count in enumerate(counts) if id_ != UNKNOWN)
    assert found.is_first.tolist() == [label == -best[1] for label in labels]
    assert (found.is_in_five >= found.is_first).all()
    assert found.losses.tolist() == pytest.approx(frequencies.losses[labels].tolist())
