"""What the tests of retrieval share: views of documents that are lists of ids."""

from dataclasses import replace

import numpy as np
import pytest

from mlmtune.config import ChunkingConfig
from mlmtune.tokens.chunking import ChunkView
from mlmtune.tokens.special_tokens import SpecialTokens


@pytest.fixture
def view_of(make_store, tokenizer):
    """A view of all documents, which are lists of ids and may have a title."""

    def view(documents, titles=None):
        store = make_store(documents)
        lengths = np.asarray(titles or [0] * len(documents), dtype=np.int64)
        store = replace(store, documents=replace(store.documents, title_lengths=lengths))
        config, special = ChunkingConfig(chunk_length=16), SpecialTokens.of(tokenizer)
        return ChunkView.of(store, np.arange(len(documents)), config, special, 0)

    return view


@pytest.fixture(scope="session")
def drawn():
    """Documents of random ids, which have no five tokens in common."""

    def draw(num_documents, length=80, seed=0):
        return np.random.default_rng(seed).integers(5, 60, (num_documents, length)).tolist()

    return draw
