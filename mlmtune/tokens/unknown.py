"""What a tokenizer does not know."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_IN_NO_VOCABULARY = "\U0010ffff"
"""A code point that Unicode will never give to a character."""


def unknown_token_id(tokenizer: "PreTrainedTokenizerFast") -> int | None:
    """The id of the token that stands for unknown text ([UNK]); None where there is none.

    The tokenizer's model is asked, not its list of special tokens: what text becomes counts, also
    where a folder's settings do not name the token.
    """
    try:
        pieces = tokenizer.backend_tokenizer.model.tokenize(_IN_NO_VOCABULARY)
    except Exception:  # `tokenizers` raises nothing narrower where a Unigram model has no such id
        pieces = []
    if len(pieces) == 1:  # more are the bytes that the model falls back to
        return int(pieces[0].id)
    return None if tokenizer.unk_token_id is None else int(tokenizer.unk_token_id)
