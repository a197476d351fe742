from pathlib import Path

import numpy as np
import pytest
from stores import text_of
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from mlmtune.config import CorpusConfig, SourceConfig, TokenizationConfig
from mlmtune.console import Console
from mlmtune.tokens.opening import open_store
from mlmtune.tokens.unknown import describe_unknown, unknown_token_id

PIECES = [("<pad>", 0.0), ("<unk>", 0.0), ("a", -1.0)]
WORDS = {"<pad>": 0, "<unk>": 1, "a": 2}


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (models.WordPiece(WORDS, unk_token="<unk>"), 1),
        (models.WordLevel(WORDS, unk_token="<unk>"), 1),
        (models.BPE(WORDS, [], unk_token="<unk>"), 1),
        (models.BPE(WORDS, []), None),
        (models.Unigram(PIECES, unk_id=1), 1),
        (models.Unigram(PIECES), None),
    ],
)
def test_the_unknown_token_is_what_unknown_text_becomes(model, expected):
    """Whether or not the tokenizer's settings name it."""
    assert unknown_token_id(PreTrainedTokenizerFast(tokenizer_object=Tokenizer(model))) == expected


def test_a_named_one_is_taken_where_all_text_is_known(byte_tokenizer):
    assert unknown_token_id(byte_tokenizer) == byte_tokenizer.unk_token_id


TEXTS = {
    # text: (unknown tokens, bytes under them, words under them) as WordPiece has them
    "the storage account": (0, 0, 0),
    "the \u1797\u17b6\u179f\u17b6 account": (1, 12, 1),
    "\u6c49\u8bed the \u6c49": (3, 9, 3),
    "the account \u2713": (1, 3, 0),
    "\u1797a key": (1, 4, 1),
}


@pytest.fixture
def store_of(tmp_path: Path):
    def build(tokenizer, texts):
        for number, text in enumerate(texts):
            (tmp_path / f"{number}.txt").write_text(text, encoding="utf-8")
        corpus = CorpusConfig(sources=[SourceConfig(format="text", path=str(tmp_path))])
        tokenization, console = TokenizationConfig(cache_dir=str(tmp_path / "cache")), Console()
        return open_store(text_of(corpus, tokenization, console), tokenizer)

    return build


def test_what_is_unknown_is_counted_in_tokens_bytes_and_words(store_of, tokenizer):
    store = store_of(tokenizer, TEXTS)
    found = zip(
        store.documents.num_unknown_tokens,
        store.documents.num_unknown_bytes,
        store.documents.num_unknown_words,
        strict=True,
    )
    assert list(found) == list(TEXTS.values())
    # The letter that is known is not among the characters, though its word is unknown.
    assert store.unknown_characters == {
        "\u6c49": 2, "\u1797": 2, "\u17b6": 2, "\u179f": 1, "\u8bed": 1, "\u2713": 1,
    }  # fmt: skip
    assert [source.num_unknown_tokens for source in store.sources] == [6]


def test_a_piece_of_a_word_is_unknown_in_sentencepiece(store_of, unigram_tokenizer):
    store = store_of(unigram_tokenizer, ["the ke\u1797\u17b6y", "key"])
    assert store.documents.num_unknown_bytes.tolist() == [6, 0]
    assert store.documents.num_unknown_words.tolist() == [1, 0]


def test_bytes_are_never_unknown(store_of, byte_tokenizer):
    store = store_of(byte_tokenizer, TEXTS)
    assert not np.any(
        [
            store.documents.num_unknown_tokens,
            store.documents.num_unknown_bytes,
            store.documents.num_unknown_words,
        ]
    )
    assert store.unknown_characters == {}


def test_unknown_characters_are_described_by_code_point_and_name():
    counts = {"\u1797": 1200, "\u17b6": 30, "\u0085": 2, "\u6c49": 1, "e": 1, "f": 1}
    assert describe_unknown(counts, {}) == (
        "the characters that the tokenizer does not know, most frequent first: "
        "\u1797 (U+1797 KHMER LETTER PHO) 1,200 times, "
        "\u25cc\u17b6 (U+17B6 KHMER VOWEL SIGN AA) 30 times, "
        "U+0085 a character without a name 2 times, "
        "\u6c49 (U+6C49 CJK UNIFIED IDEOGRAPH-6C49) 1 time, "
        "e (U+0065 LATIN SMALL LETTER E) 1 time and 1 more"
    )
    assert "do_lower_case" in describe_unknown({"A": 3}, {"A": 5})
    assert "knows each of the characters" in describe_unknown({}, {})
