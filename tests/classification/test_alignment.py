"""Words as pieces: which is the first of each, and that each word is predicted exactly once."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from vocabulary import WORDS

from mlmtune.classification.alignment import pieces_of, windows, without_rests
from mlmtune.classification.entity_data import SentenceSide
from mlmtune.classification.labelled_sentences import Sentence
from mlmtune.classification.sentence_batches import EncodedSentences
from mlmtune.masking.collator import IGNORE_INDEX
from mlmtune.tokens.encoding import plain_backend

TOKENIZERS = ("tokenizer", "byte_tokenizer", "unigram_tokenizer")
SENTENCE = ["The", *WORDS[:3], "(", "e.g.", WORDS[4], "don't", "50%", ")", "."]


@pytest.mark.parametrize("name", TOKENIZERS)
def test_words_have_the_pieces_of_the_whole_text(name: str, request: Any) -> None:
    tokenizer = request.getfixturevalue(name)
    (pieces,) = pieces_of([SENTENCE], plain_backend(tokenizer))
    text = " ".join(SENTENCE)
    expected = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    assert pieces.ids.tolist() == expected["input_ids"]
    # The characters of each word's pieces are those of the word.
    for number, word in enumerate(SENTENCE):
        of_word = [expected["offset_mapping"][p] for p in np.flatnonzero(pieces.words == number)]
        assert text[of_word[0][0] : of_word[-1][1]].strip() == word
        assert pieces.counts[number] == len(of_word)


@pytest.mark.parametrize("name", ["tokenizer", "unigram_tokenizer"])
def test_they_are_those_of_words_one_by_one(name: str, request: Any) -> None:
    tokenizer = request.getfixturevalue(name)
    (pieces,) = pieces_of([SENTENCE], plain_backend(tokenizer))
    alone = tokenizer(SENTENCE, is_split_into_words=True, add_special_tokens=False)
    assert pieces.ids.tolist() == alone["input_ids"]
    assert pieces.words.tolist() == alone.word_ids()


def test_byte_level_words_have_their_space(byte_tokenizer: Any) -> None:
    (pieces,) = pieces_of([["cluster", "cluster"]], plain_backend(byte_tokenizer))
    tokens = byte_tokenizer.convert_ids_to_tokens(pieces.ids.tolist())
    firsts = [tokens[np.flatnonzero(pieces.words == word)[0]] for word in (0, 1)]
    assert [first.startswith("\u0120") for first in firsts] == [False, True]


def test_a_dropped_word_has_no_piece(tokenizer: Any) -> None:
    (pieces,) = pieces_of([["the", "\u200b", "\ufeff\u200d", "cluster"]], plain_backend(tokenizer))
    assert (pieces.counts > 0).tolist() == [True, False, False, True]


@given(st.lists(st.integers(0, 12), min_size=1, max_size=60), st.integers(2, 24))
def test_each_word_is_predicted_once_with_context(sizes: list[int], capacity: int) -> None:
    counts = np.minimum(np.asarray(sizes), max(capacity // 2, 1))
    found = list(windows(counts, capacity))
    predicted = [word for window in found for word in range(window.begin, window.end)]
    assert predicted == list(range(len(counts)))
    for window in found:
        assert window.first <= window.begin < window.end <= window.last
        assert counts[window.first : window.last].sum() <= capacity
        # The next word of the context would not have fitted.
        context, room = capacity // 4, capacity - counts[window.first : window.last].sum()
        if window.last < len(counts):
            assert counts[window.last] > room
            after = counts[window.end : window.last].sum()
            assert after + counts[window.last] > context
        before = counts[window.first : window.begin].sum()
        if window.first > 0:
            assert before + counts[window.first - 1] > context
    assert (len(found) == 1) == (counts.sum() <= capacity)


def encoded(words: list[list[str]], tokenizer: Any, max_length: int) -> EncodedSentences:
    sentences = [
        Sentence(tuple(tokens), tuple("B-A" if n % 3 else "O" for n in range(len(tokens))), "", "")
        for tokens in words
    ]
    side = SentenceSide.of(sentences, ("O", "B-A", "I-A"))
    loaded: Any = SimpleNamespace(tokenizer=tokenizer, has_token_types=True)
    return EncodedSentences.of(side, loaded, max_length)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_labels_are_at_first_pieces_and_nowhere_else(name: str, request: Any) -> None:
    tokenizer = request.getfixturevalue(name)
    words = [SENTENCE, ["the", "\u200b", "cluster"] * 20, ["-x" * 30, "cluster"]]
    side = encoded(words, tokenizer, max_length=16)
    assert side.num_split >= 2
    assert side.num_cut == 1
    assert max(side.lengths) <= 16
    pieces = list(pieces_of(words, plain_backend(tokenizer)))
    has_piece = np.concatenate([p.counts > 0 for p in pieces])
    assert side.num_dropped == (~has_piece).sum()
    rows = side.rows(np.arange(len(side)))
    assert rows.tolist() == np.flatnonzero(has_piece).tolist()
    batch = side.batch(np.arange(len(side)))
    assert int(batch.is_predicted.sum()) == len(rows)
    firsts = np.concatenate(
        [p.ids[np.unique(p.words, return_index=True)[1]] for p in pieces]
    ).tolist()
    assert batch.inputs["input_ids"][batch.is_predicted].tolist() == firsts
    expected = [1 if number % 3 else 0 for s in words for number in range(len(s))]
    assert batch.labels[batch.is_predicted].tolist() == [expected[row] for row in rows]
    assert batch.labels[batch.inputs["attention_mask"] == 0].eq(IGNORE_INDEX).all()
    assert side.num_words == sum(map(len, words))


def test_the_rest_of_a_long_word_is_left_out(tokenizer: Any) -> None:
    (pieces,) = pieces_of([["-x" * 30, "cluster"]], plain_backend(tokenizer))
    cut = without_rests(pieces, 3)
    assert cut.counts.tolist() == np.minimum(pieces.counts, 3).tolist()
    assert cut.words.tolist() == sorted(cut.words.tolist())
