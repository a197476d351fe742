"""Near-duplicates: the estimate, the bands, and which of two documents goes."""

import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlmtune.config import NearDuplicatesConfig
from mlmtune.corpus import cleaning
from mlmtune.corpus.near_duplicates import (
    check_available,
    find_near_duplicates,
    rows_per_band,
    signature,
)
from mlmtune.errors import ConfigError

CONFIG = NearDuplicatesConfig()


def signatures(texts, config):
    return np.stack([signature(text, config) for text in texts])


def words(numbers):
    return " ".join(f"w{number}" for number in numbers)


def shingles(text, size=5):
    split = text.split()
    return {tuple(split[i : i + size]) for i in range(len(split) - size + 1)}


@pytest.mark.parametrize("num_changed", [0, 4, 12, 40])
def test_equal_minima_estimate_the_similarity_of_the_shingles(num_changed):
    draw = np.random.default_rng(num_changed)
    errors = []
    for _ in range(40):
        numbers = draw.integers(0, 10_000, size=300)
        changed = numbers.copy()
        changed[draw.choice(300, num_changed, replace=False)] = 0
        texts = [words(numbers), words(changed)]
        one, other = map(shingles, texts)
        rows = signatures(texts, CONFIG)
        errors.append((rows[0] == rows[1]).mean() - len(one & other) / len(one | other))
    assert abs(np.mean(errors)) < 0.03
    assert np.abs(errors).max() < 5 * 0.5 / np.sqrt(CONFIG.num_perm)


def test_case_white_space_and_punctuation_make_no_difference():
    rows = signatures(["Deploy the  image, now: it is ready", "deploy the image now it is READY!"],
                      CONFIG)  # fmt: skip
    assert (rows[0] == rows[1]).all()


def test_the_signature_of_a_text_does_not_depend_on_the_others():
    texts = [words(range(30)), "", "short", words(range(7, 90))]
    together = signatures(texts, CONFIG)
    assert together.shape == (4, CONFIG.num_perm)
    for row, text in zip(together, texts, strict=True):
        assert (row == signatures([text], CONFIG)[0]).all()


def test_the_signature_of_a_text_does_not_depend_on_its_slices(monkeypatch):
    texts = [words(range(300)), words(range(3)), "! " * 50]
    whole = signatures(texts, CONFIG)
    monkeypatch.setattr(cleaning, "SLICE_CHARACTERS", 10)
    assert (signatures(texts, CONFIG) == whole).all()


def test_repeated_words_change_no_signature():
    rows = signatures([words([*range(50)] * repeats) for repeats in (2, 9)], CONFIG)
    assert (rows[0] == rows[1]).all()


def test_texts_shorter_than_a_shingle_are_compared_as_wholes():
    rows = signatures(["two words", "two  words", "two others", "", "!?", ""], CONFIG)
    found = find_near_duplicates(rows, np.arange(6), 0.8)
    assert [(pair.document, pair.kept, pair.similarity) for pair in found] == [(1, 0, 1.0)]


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7, 0.8, 0.9, 0.95])
@pytest.mark.parametrize("num_perm", [16, 128, 200])
def test_bands_find_what_is_as_similar_as_the_threshold(threshold, num_perm):
    rows = rows_per_band(threshold, num_perm)
    found = [1 - (1 - threshold**r) ** (num_perm // r) for r in (rows, rows + 1)]
    assert found[0] >= 0.95 or rows == 1
    assert found[1] < 0.95


SIGNATURES = st.lists(
    st.lists(st.integers(0, 2), min_size=16, max_size=16), min_size=1, max_size=12
).map(lambda rows: np.asarray(rows, dtype=np.uint32))


@given(rows=SIGNATURES, data=st.data(), threshold=st.sampled_from([0.3, 0.5, 0.8]))
def test_no_two_that_stay_share_a_band_and_are_similar(rows, data, threshold):
    order = np.asarray(data.draw(st.permutations(range(len(rows)))))
    size = rows_per_band(threshold, 16)

    def similarity(one, other):
        shares = any(
            (rows[one, i : i + size] == rows[other, i : i + size]).all()
            for i in range(0, 16 - size + 1, size)
        )
        return (rows[one] == rows[other]).mean() if shares else 0.0

    stays, expected = [], []
    for document in order.tolist():
        similar = [(similarity(document, other), other) for other in stays]
        if similar and max(similar)[0] >= threshold:
            best = max(s for s, _ in similar)
            first = next(other for s, other in similar if s == best)
            expected.append((document, first, best))
        else:
            stays.append(document)
    assert [tuple(pair) for pair in find_near_duplicates(rows, order, threshold)] == expected


def test_what_comes_first_stays():
    texts = [words(range(100)), words(range(1, 101)), words(range(200, 300))]
    rows = signatures(texts, CONFIG)
    for order in ([0, 1, 2], [1, 2, 0], [2, 1, 0]):
        (pair,) = find_near_duplicates(rows, np.asarray(order), 0.8)
        kept, gone = (n for n in order if n < 2)
        assert (pair.document, pair.kept) == (gone, kept)


def test_documents_that_are_not_asked_about_count_for_nothing():
    rows = signatures([words(range(100))] * 3, CONFIG)
    assert [pair.kept for pair in find_near_duplicates(rows, np.asarray([2, 1]), 0.8)] == [2]


def test_many_near_duplicates_of_one_document_take_no_quadratic_time():
    """Each is compared with what stays alone; 20,000 squared would not end here."""
    rows = np.zeros((20_000, 128), dtype=np.uint32)
    rows[np.arange(20_000), np.arange(20_000) % 128] = np.arange(20_000)
    found = find_near_duplicates(rows, np.arange(20_000), 0.8)
    assert len(found) == 19_999
    assert {pair.kept for pair in found} == {0}


def test_a_missing_extra_is_named(monkeypatch):
    check_available()
    monkeypatch.setitem(sys.modules, "rensa", None)
    with pytest.raises(ConfigError, match=r"pip install 'mlmtune\[dedup\]'"):
        check_available()
