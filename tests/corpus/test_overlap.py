"""Overlap with a test set is found wherever it is in a text, and nothing else is."""

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlmtune.corpus import cleaning
from mlmtune.corpus.overlap import OverlapIndex

WORDS = st.lists(st.sampled_from("abcdefg"), max_size=30)


def shared_by_search(references, words, n):
    """What `first_shared` is to find, by looking at every place."""
    wanted = set()
    for reference in references:
        length = min(n, len(reference))
        if length >= 5:
            wanted |= {tuple(reference[i : i + length]) for i in range(len(reference) - length + 1)}
    hits = [
        (i, length)
        for length in range(5, n + 1)
        for i in range(len(words) - length + 1)
        if tuple(words[i : i + length]) in wanted
    ]
    if not hits:
        return None
    begin, length = min(hits, key=lambda hit: (sum(hit), hit))
    return " ".join(words[begin : begin + length])


@given(references=st.lists(WORDS, max_size=4), words=WORDS, n=st.integers(5, 13))
def test_the_first_shared_words_are_those_of_a_plain_search(references, words, n):
    index = OverlapIndex.of(map(" ".join, references), n)
    assert index.first_shared(" ".join(words)) == shared_by_search(references, words, n)
    assert index.num_too_short == sum(len(reference) < 5 for reference in references)


@given(references=st.lists(WORDS, max_size=4), words=WORDS, size=st.integers(1, 9))
def test_what_is_found_does_not_depend_on_the_slices_of_a_text(references, words, size):
    texts, text = list(map(" ".join, references)), " ".join(words)
    whole = OverlapIndex.of(texts, 7)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cleaning, "SLICE_CHARACTERS", size)
        sliced = OverlapIndex.of(texts, 7)
        assert sliced.first_shared(text) == whole.first_shared(text)
    assert sliced.first_shared(text) == whole.first_shared(text)
    assert sliced.num_too_short == whole.num_too_short


def test_few_other_hashes_pass_the_filter():
    index = OverlapIndex.of([f"{i} " * 13 for i in range(10_000)], 13)
    others = np.random.default_rng(0).integers(0, 2**64, size=10_000, dtype=np.uint64)
    assert index.beginnings.may_contain(others).mean() < 0.08


SENTENCE = "Assign the Reader role to the managed identity of the virtual machine scale set."


@pytest.mark.parametrize(
    "text",
    [
        f"Before. {SENTENCE} After.",
        SENTENCE.upper(),
        SENTENCE.replace(" ", "\n  ").replace(".", ""),
        "word " * 5000 + SENTENCE,
    ],
)
def test_case_white_space_and_punctuation_hide_nothing(text):
    index = OverlapIndex.of([SENTENCE], 13)
    assert index.first_shared(text) == (
        "assign the reader role to the managed identity of the virtual machine scale"
    )


def test_twelve_words_of_a_long_sentence_are_no_overlap():
    index = OverlapIndex.of([SENTENCE], 13)
    words = SENTENCE.split()
    for begin in range(3):
        assert index.first_shared("x " + " ".join(words[begin : begin + 12]) + " y") is None


def test_each_chinese_character_is_a_word():
    index = OverlapIndex.of(["今天天气很好我们去公园散步吧"], 13)
    assert index.first_shared("昨天说，今天天气很好，我们去公园散步。") is not None
    assert index.first_shared("今天天气不好，我们去公园散步。") is None


def test_a_short_reference_is_searched_for_as_a_whole():
    index = OverlapIndex.of(["what a great movie this", "too short"], 13)
    assert index.first_shared("He said: what a great movie this!") == "what a great movie this"
    assert index.first_shared("what a great movie") is None
    assert index.num_too_short == 1


def test_an_index_without_texts_finds_nothing():
    assert OverlapIndex.of([], 13).first_shared(SENTENCE) is None


def test_it_can_be_given_to_another_process():
    index = pickle.loads(pickle.dumps(OverlapIndex.of([SENTENCE], 13)))
    assert index.first_shared(SENTENCE) is not None
