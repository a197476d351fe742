"""Words are counted from ids as they would be from the text."""

import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlmtune.tokens.encoding import Encoder, plain_backend
from mlmtune.vocabulary import counting
from mlmtune.vocabulary.counting import count_words

KNOWN = ["the", "storage", "account", "cluster"]
CUT = ["kubernetes", "kubectl", "blobs", "clusters", "vnet"]
texts = st.lists(
    st.lists(st.sampled_from([*KNOWN, *CUT, "12", ",", "."]), max_size=30).map(" ".join),
    min_size=1,
    max_size=6,
)


@pytest.fixture(scope="module", params=["tokenizer", "byte_tokenizer", "unigram_tokenizer"])
def of_kind(request):
    return request.getfixturevalue(request.param)


def stored(make_store, tokenizer, documents):
    ids, starts, lengths = Encoder(plain_backend(tokenizer))(documents)
    return make_store(np.split(ids, np.cumsum(lengths)[:-1]), starts)


@given(documents=texts)
def test_counts_are_those_of_the_text(make_store, of_kind, documents):
    documents = [f" {text}" for text in documents]  # a word after a space is the usual form
    store = stored(make_store, of_kind, documents)
    counts = count_words(store, np.arange(len(documents)), of_kind)
    backend = plain_backend(of_kind)
    in_text = [Counter(re.findall(r"(?<= )[a-z]+(?= |$)", text)) for text in documents]
    expected = {}
    for word in [*KNOWN, *CUT]:
        pieces = backend.encode(f" {word}", add_special_tokens=False).tokens
        number = sum(each[word] for each in in_text)
        if len(pieces) > 1 and number:
            documents_with_it = sum(word in each for each in in_text)
            expected[word] = (number, documents_with_it, number * (len(pieces) - 1))
    found = {w.word: (w.occurrences, w.documents, w.tokens_saved) for w in counts.words}
    assert found == expected
    assert counts.num_tokens == store.documents.lengths.sum()


@given(documents=texts)
def test_blocks_of_documents_add_up(make_store, tokenizer, documents):
    store = stored(make_store, tokenizer, documents)
    numbers = np.arange(len(documents))
    expected = count_words(store, numbers, tokenizer)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(counting, "TOKENS_AT_ONCE", 7)
        assert count_words(store, numbers, tokenizer) == expected


def test_a_large_text_is_sampled(make_store, tokenizer, monkeypatch):
    store = stored(make_store, tokenizer, ["the kubernetes cluster"] * 100)
    monkeypatch.setattr(counting, "SAMPLE_TOKENS", 300)
    counts = count_words(store, np.arange(100), tokenizer)
    assert 0 < counts.num_documents < 100
    assert counts.words[0].documents == counts.num_documents


def test_words_of_a_segmenter_are_words(make_store):
    from tokenizers import Tokenizer, pre_tokenizers
    from tokenizers.models import WordPiece
    from transformers import PreTrainedTokenizerFast

    characters = list("\u96c6\u7fa4\u7ba1\u7406")
    names = ["[UNK]", "[MASK]", *characters]
    backend = Tokenizer(WordPiece({n: i for i, n in enumerate(names)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="[UNK]", mask_token="[MASK]"
    )
    store = make_store([[2, 3, 4, 5], [4, 5, 2]], [True, False, True, False, True, False, True])
    counts = count_words(store, np.arange(2), tokenizer)
    assert {w.word: w.occurrences for w in counts.words} == {"\u96c6\u7fa4": 1, "\u7ba1\u7406": 2}
