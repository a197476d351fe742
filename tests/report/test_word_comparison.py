"""Whole words of models with different tokenizers, compared without any model."""

from dataclasses import replace

import numpy as np
import pytest
from judged import ADAPTED, finished, text

from mlmtune.evaluation.cloze_words import DrawnWord
from mlmtune.evaluation.word_cloze import ClozeText, WordScores
from mlmtune.report.estimates import change
from mlmtune.report.findings import Change, Estimate
from mlmtune.report.verdict import judge
from mlmtune.report.word_cloze import compare_words

BASES = {"old": None, "new": "old"}


def asked(num_documents=30, num_words=60):
    words = tuple(DrawnWord(n % num_documents, n, n + 1, "") for n in range(num_words))
    every = np.ones(num_words, dtype=bool)
    return ClozeText(words, (), {"all words": every, "some": np.arange(num_words) % 2 == 0}, 3)


def scores(losses, num_pieces):
    return WordScores(losses, num_pieces, np.zeros(num_pieces.sum(), dtype=np.int64))


def compared(gain, pieces_before=1, num_documents=30):
    """Compare models whose losses differ by about `gain`; some words had more pieces before."""
    draw = np.random.default_rng(0)
    before, single = draw.uniform(2.0, 8.0, 60), np.ones(60, dtype=np.int64)
    after = before - gain - draw.normal(0.0, 0.01, 60)
    cut = np.where(np.arange(60) % 2, single, pieces_before)
    results = {"old": scores(before, cut), "new": scores(after, single)}
    return compare_words(asked(num_documents), results, BASES)


def test_a_change_is_that_of_the_same_words():
    words = compared(0.5)
    old, new = words.samples[0].measurements
    assert (old.change, new.model) == (None, "new")
    difference = new.losses.loss.value - old.losses.loss.value
    assert new.change.loss.value == pytest.approx(difference)
    low, high = new.change.loss.interval
    assert -0.51 < low < new.change.loss.value < high < -0.49  # though the words differ by far more
    assert high - low < 0.1 * np.diff(new.losses.loss.interval)
    assert (words.num_documents, words.num_left_out, words.interval_unit) == (30, 3, "documents")
    assert [sample.num_words for sample in words.samples] == [60, 30]


def test_of_few_documents_words_are_resampled():
    words = compared(0.5, num_documents=4)
    assert (words.num_documents, words.interval_unit) == (4, "words")
    assert words.of("new").change.loss.interval is not None


@pytest.mark.parametrize(
    ("gain", "kind"), [(2.0, "better"), (0.3, "better"), (-0.3, "unclear"), (-2.0, "worse")]
)
def test_a_change_is_clear_only_if_it_is_with_and_without_the_number_of_pieces(gain, kind):
    """Half of the words had two pieces before, whose number costs 0.7 nats."""
    changed = compared(gain, pieces_before=2).of("new").change
    assert changed.loss.value == pytest.approx(-gain, abs=0.01)
    assert changed.loss_with_count.value == pytest.approx(-gain - np.log(2), abs=0.05)
    assert change(changed.decisive) == kind
    low, high = changed.decisive.interval
    assert low <= changed.loss.interval[0] < changed.loss.interval[1] <= high


@pytest.mark.parametrize(
    ("gain", "label"), [(2.0, "improved"), (-0.3, "no clear change"), (-2.0, "worse")]
)
def test_the_verdict_on_other_tokens_goes_by_words(gain, label):
    domain, general = (text(kind, Estimate(0.0)) for kind in ("domain", "general"))
    domain, general = (
        replace(
            each,
            words=compared(gain, pieces_before=2) if each is domain else None,
            measurements=tuple(replace(m, change=None) for m in each.measurements),
        )
        for each in (domain, general)
    )
    verdict = judge(ADAPTED, (domain, general), finished())
    assert verdict.label == verdict.predictions == label
    assert "nats per word before" in verdict.sentence
    reasons = " / ".join(verdict.reasons)
    assert "60 words of 30 documents were predicted as a whole" in reasons
    assert "pieces per word: 1.50 before, 1.00 after" in reasons
    assert "forgetting was not measured on general: its words were not compared" in reasons
    assert ("those of the base are better" in reasons) == (label == "worse")


def test_tokens_decide_where_they_are_the_same():
    domain = replace(text("domain", Estimate(-0.5, (-0.6, -0.4))), words=compared(-2.0))
    assert isinstance(domain.of("new").change, Change)
    assert judge(ADAPTED, (domain,), finished()).label == "improved"
