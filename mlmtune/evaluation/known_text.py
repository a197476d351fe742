"""How much of a text a tokenizer knows: unknown tokens are not measured."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import numpy as np

from mlmtune.tokens.chunking import ChunkView

LARGEST_DIFFERENCE = 0.001
"""Models whose `unknown_byte_share` differs by more were measured on different text."""


@dataclass(frozen=True)
class KnownText:
    """How much of a text was measured.

    Attributes:
        unknown_token_share: Share of the text's tokens that are unknown ([UNK]).
        unknown_byte_share: Share of the text's bytes (UTF-8) that those tokens stand for.
        words_per_token: Words per token of the known text; words are the same for any tokenizer.
        bytes_per_token: Bytes per token of the known text.
    """

    unknown_token_share: float
    unknown_byte_share: float
    words_per_token: float
    bytes_per_token: float

    @classmethod
    def of(cls, view: ChunkView) -> Self:
        """Count over all documents of a view, even if only some chunks are measured."""
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
