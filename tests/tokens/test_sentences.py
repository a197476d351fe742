"""Where sentences begin, and the token that begins each."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stores import text_of

from mlmtune.config import CorpusConfig, SourceConfig
from mlmtune.corpus.document import Document
from mlmtune.corpus.text import CorpusText
from mlmtune.errors import ConfigError
from mlmtune.tokens import sentences as sentences_module
from mlmtune.tokens.encoding import Encoder, plain_backend
from mlmtune.tokens.marks import TokenizedText, open_marks
from mlmtune.tokens.opening import open_store
from mlmtune.tokens.sentences import first_tokens, sentence_marker, sentence_starts
from mlmtune.tokens.splits import TextNeeds, needed_markers

KINDS = pytest.mark.parametrize("kind", ["tokenizer", "byte_tokenizer"])


@pytest.fixture
def sentences(request):
    """The text of each sentence, by the tokens that are marked."""

    def cut(kind, text, language="en"):
        encode = Encoder(plain_backend(request.getfixturevalue(kind)))
        offsets = encode.offsets([text])[0]
        marks = first_tokens(sentence_starts(text, language), [offsets], len(offsets.starts))
        places = [int(start) for start, mark in zip(offsets.starts, marks, strict=True) if mark]
        return [text[b:e].strip() for b, e in zip(places, [*places[1:], len(text)], strict=True)]

    return cut


@KINDS
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Create a pool. Start the node!  Is it ready?",
         ["Create a pool.", "Start the node!", "Is it ready?"]),
        ("Ask Dr. Node, e.g. for v1.2.3. Then stop.",
         ["Ask Dr. Node, e.g. for v1.2.3.", "Then stop."]),
        ("A heading\n\nThe text goes on\nover a line. The end",
         ["A heading", "The text goes on\nover a line.", "The end"]),
        ("Items:\n- one node\n- two nodes", ["Items:", "- one node", "- two nodes"]),
        ("员工很多。你好！真的吗？是的", ["员工很多。", "你好！", "真的吗？", "是的"]),
        ("no end at all", ["no end at all"]),
        ("space between.\n \n\nAnd after.\n\n ", ["space between.", "And after."]),
    ],
)  # fmt: skip
def test_sentences_end_where_people_would_say_so(sentences, kind, text, expected):
    assert sentences(kind, text) == expected


@KINDS
@given(text=st.text(alphabet="aB .!\n-。é", max_size=40))
def test_the_first_token_begins_a_sentence_and_no_text_is_too_strange(request, kind, text):
    encode = Encoder(plain_backend(request.getfixturevalue(kind)))
    offsets = encode.offsets([text])[0]
    marks = first_tokens(sentence_starts(text, "en"), [offsets], len(offsets.starts))
    assert marks.shape == offsets.starts.shape
    assert marks[:1].all()


SHORT = ["One went. ", "Two came! ", "Dr. No spoke. ", "员工很多。", "(Was it? Yes.) "]


@given(
    text=st.lists(st.sampled_from([*SHORT, "\n\n", " \n\n  "]), max_size=60).map("".join),
    window=st.integers(100, 200),
)
def test_a_long_text_has_the_sentences_that_it_has_as_a_whole(text, window):
    whole = list(sentence_starts(text, "en"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sentences_module, "WINDOW_CHARACTERS", window)
        patch.setattr(sentences_module, "MARGIN_CHARACTERS", 40)
        assert list(sentence_starts(text, "en")) == whole


@pytest.mark.parametrize("end", ["", " Two."])
def test_a_sentence_that_is_longer_than_a_window_stays_one(monkeypatch, end):
    monkeypatch.setattr(sentences_module, "WINDOW_CHARACTERS", 20)
    text = "word " * 30 + "end." + end
    assert list(sentence_starts(text, "en")) == [0, 155][: 1 + bool(end)]


@KINDS
def test_each_line_is_a_sentence_where_the_source_says_so(request, kind):
    text = "Dr. One went. And came\n \nTwo.\nThree goes on"
    encode = Encoder(plain_backend(request.getfixturevalue(kind)))
    offsets = encode.offsets([text])[0]
    own = encode([text])[1]
    marker = sentence_marker("en", by_lines=(False, True))

    def cut(source):
        marks = marker.mark(Document(text, "", source, 0), iter([offsets]), own)
        places = [int(start) for start, mark in zip(offsets.starts, marks, strict=True) if mark]
        return [text[b:e].strip() for b, e in zip(places, [*places[1:], len(text)], strict=True)]

    assert cut(1) == ["Dr. One went. And came", "Two.", "Three goes on"]
    assert cut(0) != cut(1)


def test_a_missing_splitter_is_told_before_any_text_is_read(monkeypatch, console):
    monkeypatch.setattr(sentences_module, "distributions", lambda name: iter(()))
    source = SourceConfig(format="sentences", path="x")
    text, by_lines = (
        CorpusText(CorpusConfig(sources=[first, source]), console)
        for first in (source.model_copy(update={"format": "text"}), source)
    )
    assert needed_markers(TextNeeds("mlm"), text) == []
    for objective in ("mlm+nsp", "mlm+sop"):
        with pytest.raises(ConfigError, match=r"sentencex.*pip install 'mlmtune\[sentences\]'"):
            needed_markers(TextNeeds(objective), text)
        # Where every line is a sentence, none is needed.
        assert [m.made_by for m in needed_markers(TextNeeds(objective), by_lines)] == ["lines"]


def test_lines_are_the_sentences_of_documents_that_blank_lines_part(tmp_path, tokenizer, console):
    path = tmp_path / "books.txt"
    path.write_text(
        "the node\nthe pool.  Ask Dr. No.\na key\nthe end\n\nthe one  \nthe two\nthe three\n\n"
        "a\nthe b\nthe c\nthe d\nthe e\n"
    )
    config = CorpusConfig(sources=[SourceConfig(format="sentences", path=str(path))])
    text = text_of(config, console=console)
    store = open_store(text, tokenizer)
    tokens = TokenizedText(store, text, plain_backend(tokenizer))
    marks = open_marks(sentence_marker("en", (True,)), tokens)
    of = np.searchsorted(store.offsets, marks.positions(store), side="right") - 1
    assert np.bincount(of).tolist() == [4, 3, 5]
