"""The words that save most, without those of every text and those of a few documents."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mlmtune.vocabulary.choosing import bend, candidates, tokens_saved
from mlmtune.vocabulary.counting import CountedWord, WordCounts


def word(text, occurrences=10, documents=10, pieces=3):
    return CountedWord(text, occurrences, documents, ("x",) * pieces)


def counts(*words, num_words=1000):
    return WordCounts(words, 2 * num_words, 0, num_words, 50)


def names(found):
    return [each.word for each in found]


def test_words_are_ordered_by_the_tokens_that_they_save():
    words = counts(word("often", 100, pieces=2), word("long", 60, pieces=4), word("seldom", 10))
    assert names(candidates(words, 5)) == ["long", "often", "seldom"]
    assert tokens_saved(candidates(words, 5)).tolist() == [180, 280, 300]


def test_names_of_few_documents_and_short_words_are_left_out():
    words = counts(word("few", documents=4), word("vm"), word("gpu"), word("\u96c6\u7fa4"))
    assert names(candidates(words, 5)) == ["gpu", "\u96c6\u7fa4"]


def test_words_that_general_text_has_as_often_are_left_out():
    words = counts(word("kubectl", 50), word("whereby", 50), word("endpoint", 50))
    general = counts(word("whereby", 25), word("endpoint", 10), num_words=500)
    assert names(candidates(words, 5, general)) == ["endpoint", "kubectl"]


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=200))
def test_the_bend_is_where_a_further_word_saves_less_than_the_average(savings):
    saved = np.cumsum(sorted(savings, reverse=True))
    number = bend(saved)
    assert 1 <= number <= len(saved)
    average = saved[-1] / len(saved)
    steps = np.diff(saved, prepend=0)
    assert steps[number - 1] >= average * (1 - 1e-9)
    assert number == len(saved) or steps[number] <= average * (1 + 1e-9)
