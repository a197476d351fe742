import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mlmtune.report.specificity import BINS, kinds, vocabulary, words_at, words_of

WORD = st.lists(st.integers(1, 6), min_size=1, max_size=4).map(tuple)
DOCUMENTS = st.lists(st.lists(WORD, max_size=8), min_size=1, max_size=5)


def store_of(make_store, documents):
    ids = [[token for word in document for token in word] for document in documents]
    starts = [
        number == 0 for document in documents for word in document for number in range(len(word))
    ]
    return make_store(ids, word_starts=starts)


@given(documents=DOCUMENTS)
def test_words_are_equal_where_their_tokens_are(make_store, documents):
    store = store_of(make_store, documents)
    hashes = words_of(store, np.arange(len(documents))).tolist()
    words = [word for document in documents for word in document]
    assert len(hashes) == len(words)
    assert len(set(zip(words, hashes, strict=True))) == len(set(words)) == len(set(hashes))
    at = words_at(store, np.arange(store.num_tokens)).tolist()
    lengths = [len(word) for word in words]
    assert at == np.repeat(np.asarray(hashes, np.uint64), lengths).tolist()


def test_frequencies_are_shares_of_all_words(make_store):
    store = store_of(make_store, [[(1,), (2, 3), (1,)], [(1,), (4,)]])
    everything = vocabulary(store, np.arange(2))
    asked = words_at(store, np.asarray([0, 1, 2]))
    assert asked[1] == asked[2]
    assert everything.frequency(asked)[:2].tolist() == [3.5 / 7, 1.5 / 7]
    unknown = words_of(store_of(make_store, [[(9,)]]), np.arange(1))
    assert everything.frequency(unknown)[0] == 0.5 / 7
    nothing = vocabulary(store, np.arange(0))
    assert nothing.frequency(unknown)[0] == 1.0


def test_the_kinds_go_from_most_to_least_specific():
    assert kinds(np.asarray([100.0, 8.0, 7.9, 2.0, 1.0, 0.5, 0.4])).tolist() == [
        0, 0, 1, 1, 2, 2, 3,
    ]  # fmt: skip
    assert [border for _, border in BINS] == sorted((b for _, b in BINS), reverse=True)
