"""Words in a row as numbers: every row of words, however long the text, and equal ones alone."""

import numpy as np
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from mlmtune.corpus import cleaning
from mlmtune.corpus.cleaning import words
from mlmtune.corpus.ngrams import distinct, ngram_hashes, word_windows


@given(parts=st.lists(st.sampled_from(["a", "b", "!"]), max_size=30), size=st.integers(1, 9))
def test_any_words_in_a_row_are_in_one_window(parts, size):
    text = " ".join(parts)
    hashes = [xxhash.xxh3_64_intdigest(word.encode()) for word in words(text)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cleaning, "SLICE_CHARACTERS", 3)
        windows = [(first, window.tolist()) for first, window in word_windows(text, size)]
    for first, window in windows:
        assert hashes[first : first + len(window)] == window
    if len(hashes) < size:
        assert windows == [(0, hashes)] * (len(hashes) > 0)
    else:
        begins = [first + i for first, window in windows for i in range(len(window) - size + 1)]
        assert begins == list(range(len(hashes) - size + 1))


@given(values=st.lists(st.one_of(st.integers(0, 9), st.integers(0, 2**64 - 1))))
def test_distinct_values_are_those_of_a_set(values):
    assert distinct(np.asarray(values, dtype=np.uint64)).tolist() == sorted(set(values))


@given(numbers=st.lists(st.integers(0, 3), max_size=12))
def test_rows_of_words_have_equal_hashes_where_their_words_are_equal(numbers):
    hashes = np.asarray([7**number for number in numbers], dtype=np.uint64)
    for length, rows in enumerate(ngram_hashes(hashes, 5), start=1):
        spelt = [tuple(numbers[i : i + length]) for i in range(len(numbers) - length + 1)]
        assert len(rows) == len(spelt)
        for row, words_in_a_row in zip(rows, spelt, strict=True):
            equal = [other == row for other in rows]
            assert equal == [other == words_in_a_row for other in spelt]
