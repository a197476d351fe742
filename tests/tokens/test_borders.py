"""The law of words: in every family of tokenizers they begin where the words of the text do."""

import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizer_families import ALPHABET, MAKERS, SCRIPTS
from tokenizers import AddedToken

from mlmtune.tokens.encoding import Encoder

JOINED = "".join(c for c in ALPHABET if unicodedata.category(c) in ("Mn", "Mc", "Cf"))
APART = set(".,'_$")


@pytest.fixture(scope="module", params=MAKERS)
def backend(request):
    return MAKERS[request.param]()


def first_visible(text, start):
    return start + len(text[start:]) - len(text[start:].lstrip())


def found_starts(backend, text):
    """The character at which each word begins, and those at which a token does."""
    _, starts, _ = Encoder(backend)([text])
    offsets = backend.encode(text, add_special_tokens=False).offsets
    assert len(starts) == len(offsets)
    places = [first_visible(text, start) for start, _ in offsets]
    begun = [place for place, is_start in zip(places, starts, strict=True) if is_start]
    return begun, places


def places_of(text, words_of_text):
    places, end = [], 0
    for word in words_of_text.split():
        places.append(text.index(word, end))
        end = places[-1] + len(word)
    return places


@pytest.mark.parametrize("script", SCRIPTS)
def test_words_begin_where_those_of_the_text_do(backend, script):
    text, expected = SCRIPTS[script]
    borders = places_of(text, expected)
    begun, places = found_starts(backend, text)
    # Where a token holds several words, only the first of them begins with it.
    assert begun == [place for place in borders if place in places]
    assert len(begun) >= len(text.split())


def test_each_family_has_the_words_of_the_first_two_lines_of_hindi(backend):
    text = "हिन्दी भारत की राजभाषा है और इसे करोड़ों लोग बोलते हैं ।\nविद्यार्थी विश्वविद्यालय में पढ़ते हैं ।"
    assert len(found_starts(backend, text)[0]) == 18


def is_border(text, place):
    """Whether a word begins here that does not begin the text; None where nothing tells.

    A mark after punctuation or a space has no letter that it belongs to.
    """
    before, here = text[place - 1], text[place : place + 1]
    base = text[:place].rstrip(JOINED)[-1:]
    if before in JOINED and (base in APART or not base.strip()):
        return None
    return here not in JOINED and (before.isspace() or before in APART or here in APART)


@settings(max_examples=25)
@given(texts=st.lists(st.text(st.sampled_from(ALPHABET), max_size=24), min_size=1, max_size=4))
def test_a_token_begins_a_word_just_where_the_text_has_a_border(backend, texts):
    _, starts, lengths = Encoder(backend)(texts)
    ends = np.cumsum(lengths)
    for text, begin, end in zip(texts, ends - lengths, ends, strict=True):
        alone = Encoder(backend)([text])[1]
        assert starts[begin:end].tolist() == alone.tolist()  # whatever stands beside it
        begun, places = found_starts(backend, text)
        assert begun[:1] == places[:1]
        assert not any(is_border(text, place) is False for place in begun[1:])
        others = set(places) - set(begun)
        assert not any(is_border(text, place) for place in others if 0 < place < len(text))


@pytest.mark.parametrize("name", ["BERT, uncased", "GPT-2"])
def test_a_token_that_was_added_is_no_border_within_a_word(name):
    backend = MAKERS[name]()
    backend.add_tokens(["kube", "[URL]", AddedToken("helm", single_word=True)])
    text = "kubectl kubes helm [URL]a"
    begun, places = found_starts(backend, text)
    assert begun == [0, 8, 14, 19, 24]
    assert {4, 12} <= set(places)


def test_where_words_begin_is_known_by_id_unless_a_token_was_added_within_words():
    backend = MAKERS["BERT, uncased"]()
    backend.add_tokens(["[URL]", AddedToken("helm", single_word=True)])
    assert Encoder(backend)._continues_word is not None
    backend.add_tokens(["kube"])
    assert Encoder(backend)._continues_word is None
