"""How much of a text a tokenizer knows. What it does not know is not measured, and this says so."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import numpy as np

from mlmtune.tokens.chunking import ChunkView

LARGEST_DIFFERENCE = 0.001
"""Models whose unknown shares of a text's bytes differ by more were not measured on one text."""


@dataclass(frozen=True)
class KnownText:
    """What of a text was measured.

    Attributes:
        unknown_token_share: share of the text's tokens that are unknown ([UNK]).
        unknown_byte_share: share of its bytes (UTF-8) that stand under them.
        words_per_token: words of the known text for each known token; words are the same for any
            tokenizer.
        bytes_per_token: bytes of the known text for each known token.
    """

    unknown_token_share: float
    unknown_byte_share: float
    words_per_token: float
    bytes_per_token: float

    @classmethod
    def of(cls, view: ChunkView) -> Self:
        """Of the documents of a view, whichever of its chunks are measured."""
        documents = view.store.documents
        tokens = view.total(documents.lengths)
        unknown_tokens = view.total(documents.num_unknown_tokens)
        num_bytes = view.total(documents.num_bytes)
        unknown_bytes = view.total(documents.num_unknown_bytes)
        words = view.total(documents.num_text_words)
        # A word with two unknown tokens in it is counted twice.
        unknown_words = view.total(
            np.minimum(documents.num_unknown_words, documents.num_text_words)
        )
        known_tokens = max(tokens - unknown_tokens, 1)
        return cls(
            unknown_token_share=unknown_tokens / max(tokens, 1),
            unknown_byte_share=unknown_bytes / max(num_bytes, 1),
            words_per_token=(words - unknown_words) / known_tokens,
            bytes_per_token=(num_bytes - unknown_bytes) / known_tokens,
        )


def compares(unknown_byte_shares: Iterable[float]) -> bool:
    """Whether models that leave out these shares of a text were measured on the same text."""
    shares = list(unknown_byte_shares)
    return max(shares, default=0.0) - min(shares, default=0.0) <= LARGEST_DIFFERENCE
