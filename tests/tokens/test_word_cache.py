"""Texts that are put together from cached words have the tokens that they have as a whole."""

import shutil

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from stores import TEXTS, build, text_of
from tokenizer_families import MAKERS, SCRIPTS
from tokenizers import AddedToken, normalizers

from mlmtune.console import Console
from mlmtune.corpus.document import Document
from mlmtune.tokens import encoding, tokenization, word_cache, word_splitting
from mlmtune.tokens.encoding import Encoder
from mlmtune.tokens.opening import open_store
from mlmtune.tokens.tokenization import BatchTokenizer, tokenize_batch
from mlmtune.tokens.word_splitting import WordSplitter

DEPENDENT = {"RoBERTa", "Metaspace"}
"""The families in which a word can have other tokens alone: both add a space before a text."""

ADDED = ["[URL]", "kube", "{HERB}", AddedToken("helm", single_word=True)]
SPACES = [*" \n\t\r", "  ", " \n ", "\u00a0", "\u2003", "\u3000", "\u2028"]
CONTROLS = [*"\0\x0b\x0c\x1c\x1f\x85\ufffd\u200b\u200d\ufeff"]
LETTERS = [
    *"ab1é.,'_-#$€ßΣİ",
    *"कि्ีখா",
    *"文字计算机。，",
    *"\u0301\ufe0f",
    "👩",
    "🏽",
    "ﬁ",
    "¨",
    "ー",
    "`",
    "``",
]
WORDS = [
    "[MASK]",
    "</s>",
    "<unk>",
    "[UNK]",
    "##म",
    "re",
    "don't",
    "'s",
    "kubectl",
    "[URL]",
    "{HERB}",
]
texts_of = st.lists(
    st.lists(st.sampled_from([*SPACES, *CONTROLS, *LETTERS, *WORDS]), max_size=24).map("".join),
    max_size=5,
)


@pytest.fixture(scope="module", params=[*MAKERS])
def name(request):
    return request.param


@pytest.fixture(scope="module", params=[False, True], ids=["", "with added tokens"])
def encode(request, name):
    backend = MAKERS[name]()
    if request.param:
        backend.add_tokens(ADDED)
    return Encoder(backend)


def as_lists(tokens):
    return [array.tolist() for array in tokens]


def test_most_families_encode_each_word_independently(name, encode):
    assert (encode._words is not None) == (name not in DEPENDENT)


@settings(max_examples=40)
@example(texts=[text for text, _ in SCRIPTS.values()])
@example(
    texts=["a \u200b. \u0301b \u0301", " \u200d \ufe0fa\n", ".\ufffd \u200b€", "\0 \xa0\u200b"]
)
@given(texts=texts_of)
def test_texts_of_cached_words_have_the_tokens_of_the_whole(encode, texts):
    expected = as_lists(encode.encode_whole(texts))
    assert as_lists(encode(texts)) == expected
    assert as_lists(encode(texts)) == expected  # where all words are known


@settings(max_examples=20)
@example(texts=["", "\ufeff ", "\u200b"])
@given(texts=texts_of)
def test_what_is_unknown_is_counted_as_in_the_whole(encode, texts):
    backend, documents = encode._backend, [Document(text, "", 0, 0) for text in texts]
    unknown_id = backend.encode("\U0010ffff").ids[0]
    by_words, whole = (
        tokenize_batch(documents, BatchTokenizer(backend, unknown_id, by_words))
        for by_words in (True, False)
    )
    for name, array in vars(whole.arrays).items():
        assert getattr(by_words.arrays, name).tolist() == array.tolist(), name
    assert by_words.unknown_characters == whole.unknown_characters


@pytest.mark.parametrize("limit", ["MOST_WORDS", "MOST_CHARACTERS"])
def test_a_cache_is_emptied_before_it_is_too_large(monkeypatch, limit):
    monkeypatch.setattr(word_cache, limit, 30)
    encode = Encoder(MAKERS["GPT-2"]())
    for first in range(0, 200, 10):
        texts = [f" word{number} and word{number + 1}" for number in range(first, first + 10)]
        assert as_lists(encode(texts)) == as_lists(encode.encode_whole(texts))
        assert len(encode._words._known) <= 50


@pytest.mark.parametrize(
    ("name", "added"),
    [
        ("BERT, uncased", AddedToken("new york")),
        ("GPT-2", AddedToken("new york")),
        ("GPT-2", AddedToken("[URL]", rstrip=True)),
        ("BERT, cased", AddedToken("{HERB}", lstrip=True)),
    ],
)
def test_words_are_not_independent_where_an_added_token_reaches_beyond_one(name, added):
    backend = MAKERS[name]()
    backend.add_tokens([added])
    assert Encoder(backend)._words is None


def test_a_normalizer_that_joins_punctuation_gets_whole_words():
    backend = MAKERS["BERT, uncased"]()
    backend.normalizer = normalizers.Sequence([normalizers.Replace("``", "a"), backend.normalizer])
    encode = Encoder(backend)
    assert encode._words is not None
    assert as_lists(encode(["``b `` `"])) == as_lists(encode.encode_whole(["``b `` `"]))


def test_added_white_space_is_a_token_where_words_have_the_space_before_them():
    backend = MAKERS["ModernBERT"]()
    backend.add_tokens(["  ", "    "])
    encode = Encoder(backend)
    texts = ["a    b  c   d", "    a\n  b "]
    assert encode._words is not None
    assert as_lists(encode(texts)) == as_lists(encode.encode_whole(texts))


def all_tokens(store):
    return store.tokens_at(np.arange(store.num_tokens))


@pytest.mark.parametrize("dependent", ["", "late"], ids=["at once", "after some shards"])
def test_a_tokenizer_whose_words_turn_out_to_be_dependent_is_given_whole_texts(
    corpus, tokenizer, monkeypatch, capsys, dependent
):
    texts = [*TEXTS, *(f"text {number} in a shard" for number in range(6)), "too late to notice"]
    expected, _ = build(corpus(texts), tokenizer)
    shutil.rmtree(expected.directory)

    within_letters = {(word_splitting._LETTER, word_splitting._LETTER)}
    whole, broken = (WordSplitter(cuts, "!") for cuts in (set(), within_letters))

    def split(texts):
        return (broken if dependent in "".join(texts) else whole)(texts)

    monkeypatch.setattr(encoding, "word_splitter", lambda _: split)
    monkeypatch.setattr(tokenization, "BATCH_DOCUMENTS", 1)
    monkeypatch.setattr(tokenization, "SHARD_CHARACTERS", 30)
    store = open_store(text_of(corpus(texts), console=Console()), tokenizer)
    assert "tokenized as a whole" in capsys.readouterr().out
    assert len(store.shards) > 3
    for tokens, others in zip(all_tokens(store), all_tokens(expected), strict=True):
        assert tokens.tolist() == others.tolist()
