from dataclasses import replace

import numpy as np
import pytest

from mlmtune.config import ChunkingConfig
from mlmtune.evaluation.known_text import KnownText, compares
from mlmtune.tokens.chunking import ChunkView
from mlmtune.tokens.special_tokens import SpecialTokens


def test_words_and_bytes_are_those_of_known_text(make_store, tokenizer):
    """Of the first document a third of the tokens is unknown; the second is not in the view."""
    store = make_store([[10] * 12, [10] * 20])
    documents = replace(
        store.documents,
        num_unknown_tokens=np.asarray([4, 20]),
        num_unknown_bytes=np.asarray([32, 120]),
        num_unknown_words=np.asarray([2, 10]),
    )
    store = replace(store, documents=documents)
    config, special = ChunkingConfig(chunk_length=16), SpecialTokens.of(tokenizer)
    known = KnownText.of(ChunkView.of(store, np.arange(1), config, special, 0))
    assert known == KnownText(
        unknown_token_share=4 / 12,
        unknown_byte_share=32 / 72,
        words_per_token=4 / 8,
        bytes_per_token=40 / 8,
    )


@pytest.mark.parametrize(
    ("shares", "expected"),
    [([], True), ([0.3], True), ([0.3, 0.3], True), ([0.0, 0.0004], True), ([0.0, 0.3], False)],
)
def test_models_compare_where_they_know_the_same_share(shares, expected):
    assert compares(shares) == expected
