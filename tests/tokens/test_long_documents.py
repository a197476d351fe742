"""Memory for the tokens of a long document stays a few bytes for each, whatever is in it."""

import tracemalloc
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

from mlmtune.config import NearDuplicatesConfig
from mlmtune.corpus import cleaning
from mlmtune.corpus.document import Document
from mlmtune.corpus.near_duplicates import signature
from mlmtune.tokens import pieces, sentences, words
from mlmtune.tokens.encoding import Encoder, plain_backend
from mlmtune.tokens.sentences import sentence_marker
from mlmtune.tokens.tokenization import BatchTokenizer, offsets_of, tokenize_batch
from mlmtune.tokens.unknown import unknown_token_id
from mlmtune.tokens.words import word_marker

NUM_CHARACTERS = 100_000
PIECE = 1_000
MOST_BYTES_PER_CHARACTER = 10
"""More than ids, marks and where words begin, and less than the offsets of all tokens."""


def tokenized(tokenizer: Any, text: str) -> None:
    batch_tokenizer = BatchTokenizer(plain_backend(tokenizer), unknown_token_id(tokenizer))
    tokenize_batch([Document(text, "", 0, 0)], batch_tokenizer)


def marked(marker: Any, tokenizer: Any, text: str) -> None:
    encode = Encoder(plain_backend(tokenizer))
    own = np.ones(len(text), dtype=bool)
    own = own[: sum(len(offsets.starts) for _, offsets in offsets_of([text], encode))]
    places = (offsets for _, offsets in offsets_of([text], encode))
    marker.mark(Document(text, "", 0, 0), places, own)


@pytest.mark.parametrize(
    ("unit", "work"),
    [
        ("!?", tokenized),
        ("\u6c49 ", tokenized),
        ("!? ", partial(marked, sentence_marker("en"))),
        ("A.\n\n", partial(marked, sentence_marker("en"))),
        ("\u6587\u6c49", partial(marked, word_marker("rjieba"))),
        ("a b ", lambda _, text: signature(text, NearDuplicatesConfig())),
    ],
    ids=["punctuation", "unknown", "one sentence", "sentences", "words", "shingles"],
)
def test_a_long_document_takes_a_few_bytes_for_each_token(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch, unit: str, work: Callable[[Any, str], None]
) -> None:
    """With pieces as small against the document as they are against the longest that is read."""
    monkeypatch.setattr(pieces, "PIECE_CHARACTERS", PIECE)
    monkeypatch.setattr(pieces, "GROUP_TOKENS", PIECE)
    monkeypatch.setattr(sentences, "WINDOW_CHARACTERS", PIECE)
    monkeypatch.setattr(sentences, "MARGIN_CHARACTERS", PIECE // 10)
    monkeypatch.setattr(words, "MOST_CHARACTERS_PER_CUT", PIECE)
    monkeypatch.setattr(cleaning, "SLICE_CHARACTERS", PIECE)
    text = unit * (NUM_CHARACTERS // len(unit))
    work(tokenizer, unit)  # what is made once, is made
    tracemalloc.start()
    try:
        work(tokenizer, text)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < MOST_BYTES_PER_CHARACTER * len(text)
