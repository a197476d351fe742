import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vocabulary import WORDS

from mlmtune.corpus.cleaning import content_hash
from mlmtune.corpus.document import Document
from mlmtune.errors import DataError
from mlmtune.evaluation.cloze_words import MOST_OF_A_FORM, draw_words
from mlmtune.tokens.words import SEGMENTERS

TEXTS = st.lists(
    st.text(st.sampled_from(["a", "b", "é", " ", "\n", ".", "_", "'", "7", "字", "क", "ि"])),
    max_size=6,
)


def documents_of(*texts):
    return [Document(text, str(n), 0, content_hash(text)) for n, text in enumerate(texts)]


def forms(*texts, segmenter=None):
    return sorted(word.form for word in draw_words(documents_of(*texts), 0, segmenter))


@given(TEXTS, st.randoms())
def test_the_draw_does_not_depend_on_the_order_of_the_documents(texts, draw):
    documents = documents_of(*texts)
    shuffled = draw.sample(documents, len(documents))
    words, others = draw_words(documents, 3), draw_words(shuffled, 3)
    assert words == others
    assert [word.text for word in words] == [word.text for word in others]


@given(TEXTS, st.integers(0, 9))
def test_a_window_is_text_around_the_word_and_cuts_no_other(texts, num_characters):
    for word in draw_words(documents_of(*texts), 0):
        window = word.window(num_characters)
        assert window.text[window.begin : window.end] == word.form
        first = word.begin - window.begin
        assert word.text[first:].startswith(window.text)
        assert window.begin <= num_characters
        assert len(window.text) - window.end <= num_characters
        for place in (first, first + len(window.text)):
            beside = word.text[max(place - 1, 0) : place + 1]
            is_end = place in (0, len(word.text), word.begin, word.end)
            assert is_end or any(c.isspace() or c == "字" for c in beside)


def test_words_are_letters():
    text = "We don't mount my_disk at /mnt/x86 (3rd) de l\u2019eau: Größe, हिन्दी a 42."
    assert forms(text) == sorted(["We", "mount", "at", "mnt", "de", "Größe", "हिन्दी"])
    assert forms("ก" * 31 + " " + "ก" * 30) == ["ก" * 30]


def test_common_words_leave_room_for_rare_ones():
    drawn = forms(*(f"The pod and the node and THE vault {number * 'x'}." for number in range(9)))
    assert sum(form.lower() == "the" for form in drawn) == MOST_OF_A_FORM
    assert {"xx", "xxxxxxxx"} <= {*drawn}


def test_the_first_words_are_of_as_many_documents_as_possible():
    draw = random.Random(0)
    documents = documents_of(*(" ".join(draw.sample(WORDS, 30)) for _ in range(20)))
    first = draw_words(documents, 0)[:20]
    assert len({word.document for word in first}) > 17  # words that were drawn before are skipped
    assert draw_words(documents, 0) != draw_words(documents, 1)


def test_equal_content_counts_once_whichever_comes_first():
    spaced, plain = documents_of("the  vault", "the vault")
    assert spaced.content_hash == plain.content_hash
    for documents in ([spaced, plain], [plain, spaced]):
        assert {word.text for word in draw_words(documents, 0)} == {"the  vault"}


def test_words_of_a_script_without_spaces(monkeypatch):
    text = "用Azure储存密钥"
    assert forms(text) == sorted(["Azure", *"用储存密钥"])
    in_twos = lambda run: [run[n : n + 2] for n in range(0, len(run), 2)]  # noqa: E731
    monkeypatch.setitem(SEGMENTERS, "twos", ("zh", lambda: in_twos))
    assert forms(text, segmenter="twos") == sorted(["Azure", "用", "储存", "密钥"])


def test_a_segmenter_that_is_missing_is_one_line(monkeypatch):
    def load():
        raise ImportError("no such module")

    monkeypatch.setitem(SEGMENTERS, "missing", ("zh", load))
    with pytest.raises(DataError, match=r"missing is not installed; .*mlmtune\[zh\]"):
        draw_words(documents_of("用"), 0, "missing")


@pytest.mark.parametrize("field", ["begin", "document"])
def test_words_are_told_apart_by_their_places(field):
    [word] = draw_words(documents_of("vault"), 0)
    assert replace(word, text="other") == word
    assert replace(word, **{field: 1}) != word
