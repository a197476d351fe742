"""Long texts are cut, and the tokens stay those of the whole."""

import copy
import re
from itertools import groupby
from operator import itemgetter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizer_families import words_of_ideographs

from mlmtune.tokens import pieces
from mlmtune.tokens.borders import Offsets
from mlmtune.tokens.encoding import Encoder, plain_backend
from mlmtune.tokens.pieces import cut
from mlmtune.tokens.tokenization import offsets_of

KINDS = ["tokenizer", "byte_tokenizer", "words of ideographs"]
FRAGMENTS = [*"ab 1.!'_\n\té文字计算机。，\U0001f600\u0301", "[DRUG]", "x.y", "a1", ", ", '{"a":1}']


@pytest.fixture(scope="session", params=KINDS)
def encode(request):
    """Of a tokenizer with tokens that a user added."""
    if request.param == "words of ideographs":
        return Encoder(words_of_ideographs())
    tokenizer = copy.deepcopy(request.getfixturevalue(request.param))
    tokenizer.add_tokens(["[DRUG]", "x.y"])
    return Encoder(plain_backend(tokenizer))


@given(
    texts=st.lists(st.lists(st.sampled_from(FRAGMENTS), max_size=60).map("".join), max_size=3),
    piece=st.integers(1, 20),
    group=st.integers(1, 40),
)
def test_texts_in_pieces_give_the_tokens_of_the_whole(encode, texts, piece, group):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pieces, "PIECE_CHARACTERS", piece)
        patch.setattr(pieces, "GROUP_TOKENS", group)
        patch.setattr(pieces, "may_cut", lambda *_: False)  # cut only at borders
        found = list(cut(texts, encode.cutter))
        encoded = [encode([one.text for one in pieces_]) for pieces_ in found]
        places = [
            Offsets(*map(np.concatenate, zip(*(o for _, o in pieces_), strict=True)))
            for _, pieces_ in groupby(offsets_of(texts, encode), itemgetter(0))
        ]
    flat = [one for pieces_ in found for one in pieces_]
    for number, text in enumerate(texts):
        assert "".join(one.text for one in flat if one.number == number) == text
        assert all(text.startswith(one.text, one.begin) for one in flat if one.number == number)
    whole_ids, whole_starts, _ = encode(texts)
    ids, starts = (
        np.concatenate([whole_ids[:0], *(arrays[side] for arrays in encoded)]) for side in (0, 1)
    )
    assert ids.tolist() == whole_ids.tolist()
    assert starts.tolist() == whole_starts.tolist()
    for text, cut_, whole in zip(texts, places, encode.offsets(texts), strict=True):
        # Of a space that begins a piece, the offsets may be on its other side.
        found, expected = (
            [text[a:b].strip() for a, b in zip(*offsets, strict=True)] for offsets in (cut_, whole)
        )
        assert found == expected


@pytest.mark.parametrize(
    ("kind", "text", "is_cut"),
    [
        ("tokenizer", "".join(chr(33 + n % 15) for n in range(99)), True),
        ("tokenizer", '{"id":1,"k":[2.5,true]},' * 9, True),
        ("tokenizer", "文字" * 40, True),
        ("tokenizer", "letters" * 20, False),
        ("tokenizer", "\U0001f600" * 90, False),
        ("byte_tokenizer", '{"id":1,"k":[2.5,true]},' * 9, True),
        ("byte_tokenizer", "aB3+zz/9" * 20, True),
        ("byte_tokenizer", "letters" * 20, False),
    ],
)
def test_a_text_without_white_space_is_cut_where_a_border_is_certain(
    request, monkeypatch, kind, text, is_cut
):
    monkeypatch.setattr(pieces, "PIECE_CHARACTERS", 30)
    cutter = Encoder(plain_backend(request.getfixturevalue(kind))).cutter
    with monkeypatch.context() as patch:
        patch.setattr(pieces, "may_cut", lambda *_: False)
        assert (len(list(cutter(text))) > 1) == is_cut
    assert max(map(len, cutter(text))) <= 60  # without a border it is cut all the same


def test_a_text_without_any_border_is_not_cut_within_a_character(tokenizer, monkeypatch):
    monkeypatch.setattr(pieces, "PIECE_CHARACTERS", 10)
    cutter = Encoder(plain_backend(tokenizer)).cutter
    family = "\U0001f469\u200d\U0001f467"
    for text in (("e" + "\u0301" * 3) * 30, family * 30):
        found = list(cutter(text))
        assert "".join(found) == text
        assert len(found) > 3
        assert all(re.match("[e\U0001f469]", piece) for piece in found)


def test_the_tokenizer_is_given_few_tokens_at_once(tokenizer, monkeypatch):
    monkeypatch.setattr(pieces, "PIECE_CHARACTERS", 100)
    monkeypatch.setattr(pieces, "GROUP_TOKENS", 300)
    encode = Encoder(plain_backend(tokenizer))
    for text in ("!?" * 5000, "the storage account " * 500):
        groups = list(cut([text] * 2, encode.cutter))
        assert all(len(encode([one.text for one in group])[0]) <= 500 for group in groups)
        assert len(groups) > 10
