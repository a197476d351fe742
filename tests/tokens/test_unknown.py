import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from mlmtune.tokens.unknown import unknown_token_id

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
