"""Token stores of small texts, for tests that look at what a store holds."""

from typing import Any
from unittest.mock import patch

import numpy as np

from mlmtune.config import CorpusConfig, TokenizationConfig
from mlmtune.console import Console
from mlmtune.corpus.text import CorpusText
from mlmtune.tokens import opening
from mlmtune.tokens.opening import find_text, open_store
from mlmtune.tokens.store import TokenStore

TEXTS = [
    "The storage account.",
    "scale-set, running: update deployed services!",
    "word " * 37 + "end",
    "Ünïcode né 服务 test",
    "xyzzy [unused1] 100% -- a",
]


def text_of(
    config: CorpusConfig,
    tokenization: TokenizationConfig | None = None,
    console: Console | None = None,
) -> CorpusText:
    """The text of a corpus, bound and listed."""
    text = CorpusText.of(
        config, tokenization or TokenizationConfig(), console or Console(is_quiet=True)
    )
    return find_text(text)


def build(config: CorpusConfig, tokenizer: Any) -> tuple[TokenStore, bool]:
    """The store of a corpus, and whether it had to be built."""
    with patch.object(opening, "write_store", wraps=opening.write_store) as write:
        return open_store(text_of(config), tokenizer), write.called


def ids_of(store: TokenStore) -> list[int]:
    """The ids of all tokens."""
    return store.tokens_at(np.arange(store.num_tokens))[0].tolist()


def documents_of(store: TokenStore) -> list[list[int]]:
    """The ids of each document."""
    ids = ids_of(store)
    return [ids[a:b] for a, b in zip(store.offsets, store.offsets[1:], strict=False)]
