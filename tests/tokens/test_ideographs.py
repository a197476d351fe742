"""A tokenizer of BERT keeps words of several ideographs together, and cuts all else as before."""

import json
import re
from functools import cache
from itertools import groupby

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizer_families import BERT, IDEOGRAPH_WORDS, word_pieces, words_of_ideographs
from tokenizers import Tokenizer, normalizers, pre_tokenizers

from mlmtune.tokens.ideographs import (
    IDEOGRAPHS,
    is_several,
    joined_words,
    normalizer_parts,
    parts,
    with_joined_words,
)

CHARACTERS = "云计算机端"


def content_of(backend):
    return json.loads(backend.to_str())


@cache
def base(lowercase=True):
    return content_of(word_pieces(normalizers.BertNormalizer(lowercase=lowercase), BERT))


def with_words(content, words):
    """Return the tokenizer of a content that has entries for some words and joins them."""
    vocabulary = {**content["model"]["vocab"]}
    for word in words:
        vocabulary.setdefault(word, len(vocabulary))
    content = {**content, "model": {**content["model"], "vocab": vocabulary}}
    return with_joined_words(content, words)


def words_in(content, text):
    backend = Tokenizer.from_str(json.dumps(content))
    text = backend.normalizer.normalize_str(text)
    return [word for word, _ in backend.pre_tokenizer.pre_tokenize_str(text)]


def longest_first(words, text):
    """Cut a text of ideographs at each place behind the longest word, in the plainest way."""
    found = []
    while text:
        lengths = [len(word) for word in words if text.startswith(word)]
        found.append(text[: max(lengths, default=1)])
        text = text[len(found[-1]) :]
    return found


words_of = st.sets(st.text(CHARACTERS, min_size=2, max_size=5), min_size=1, max_size=12)


@settings(max_examples=60)
@example(words={"云计", "云计算机", "计算"}, text="云计算云计算机云端计算")
@given(words=words_of, text=st.text(CHARACTERS, max_size=20))
def test_the_longest_word_is_taken_from_the_left(words, text):
    content = with_words(base(), words)
    assert words_in(content, text) == longest_first(words, text)
    assert joined_words(content) == words
    assert words_in(content, f"a{text}, {text}b") == [
        "a", *longest_first(words, text), ",", *longest_first(words, text), "b",
    ]  # fmt: skip


@pytest.mark.parametrize("lowercase", [False, True], ids=["cased", "uncased"])
def test_text_without_the_words_is_cut_as_before(lowercase):
    content = base(lowercase)
    extended = with_words(content, IDEOGRAPH_WORDS)
    assert not normalizer_parts(extended)
    # Each character that there is, between letters, ideographs, marks and others of its kind.
    assigned = [code for code in range(0x30000) if not 0xD800 <= code < 0xE000]
    for _, block in groupby(assigned, key=lambda code: code >> 12):
        text = "".join(f"b{c}云{c}{c}\u0301{c}" for c in map(chr, block))
        assert words_in(extended, text) == words_in(content, text)


def test_more_words_join_those_that_are_there():
    content = content_of(words_of_ideographs())
    assert joined_words(content) == set(IDEOGRAPH_WORDS)
    more = with_words(content, ["云端"])
    assert joined_words(more) == {*IDEOGRAPH_WORDS, "云端"}
    assert words_in(more, "云端计算机") == ["云端", "计算机"]


def test_entries_that_are_not_joined_stay_unreachable():
    content = base()
    content = {**content, "model": {"vocab": {"网络": 0, "云端": 1}}}
    assert joined_words(with_joined_words(content, ["云端"])) == {"云端"}


def test_other_pre_tokenizers_join_no_words():
    split = pre_tokenizers.Split
    for steps in (
        [split("文字", "isolated"), BERT],
        [split(pattern_without_words(), "isolated"), BERT],
        [BERT, pre_tokenizers.Digits()],
    ):
        backend = word_pieces(
            normalizers.BertNormalizer(handle_chinese_chars=False), pre_tokenizers.Sequence(steps)
        )
        content = content_of(backend)
        assert joined_words(content) is None
        assert not parts(content)
    for backend, is_parted in (
        (word_pieces(normalizers.BertNormalizer(), BERT), True),
        (word_pieces(normalizers.BertNormalizer(handle_chinese_chars=False), BERT), False),
        (words_of_ideographs(), True),
    ):
        assert parts(content_of(backend)) is is_parted


def pattern_without_words():
    from tokenizers import Regex

    return Regex(f"再见|[{IDEOGRAPHS}]")


@pytest.mark.parametrize(("word", "expected"), [("云端", True), ("云", False), ("云a", False)])
def test_several_ideographs(word, expected):
    assert is_several(word) is expected
    assert bool(re.fullmatch(f"[{IDEOGRAPHS}]", word[0]))
