"""The text of one section of the config, bound to where it is, what it holds and how it is read."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from mlmtune.config import CorpusConfig, SourceConfig, TokenizationConfig
from mlmtune.console import Console
from mlmtune.corpus.corpus import Corpus, read_corpus
from mlmtune.corpus.document import Document
from mlmtune.corpus.listing import Listing
from mlmtune.corpus.scanning import scan
from mlmtune.corpus.sources import SOURCES_KEY, CorpusSource, all_sources, corpus_sources
from mlmtune.locations import cache_directory, expand_home


@dataclass(frozen=True)
class CorpusText:
    """The text that a part of the config names.

    Attributes:
        config: the sources, and how they are cleaned and filtered.
        console: shows what takes time.
        cache_dir: `tokenization.cache_dir`, below which all that is made of the text is kept.
        store: the folder that `tokenization.store` names for the text's tokens; None for the cache.
        key: where the config names the sources, which errors begin with.
        listing: what the sources hold; None before `listed`, and where only a finished store is on
            this machine.
    """

    config: CorpusConfig
    console: Console
    cache_dir: str | None = None
    store: Path | None = None
    key: str = SOURCES_KEY
    listing: Listing | None = None

    @classmethod
    def of(cls, config: CorpusConfig, tokenization: TokenizationConfig, console: Console) -> Self:
        """Bind the section `corpus`; nothing is looked up yet.

        Raises:
            ConfigError: the store is in the home folder of an unknown user.
        """
        store = None if tokenization.store is None else expand_home(tokenization.store)
        return cls(config, console, tokenization.cache_dir, store)

    @property
    def sources(self) -> tuple[CorpusSource, ...]:
        """The records of the sources; a document's source is an index into them."""
        return corpus_sources(self.config, self.key)

    def cache(self, room: str) -> Path:
        """Return a folder of the cache, made if it is not there; see `cache_directory`."""
        return cache_directory(self.cache_dir, room)

    def listed(self, *, refresh: bool = False) -> Self:
        """Return the same text with what its sources hold; repositories are fetched.

        Args:
            refresh: look up again where branches of git repositories are.

        Raises:
            MlmtuneError: the text cannot be reached; see `scanning.scan`.
        """
        sources = all_sources(self.config, self.key)
        listing = scan(sources, self.cache("git"), self.console.say, refresh=refresh)
        return replace(self, listing=listing)

    def read(self) -> Corpus:
        """Clean the listed text, and decide what of it stays; see `read_corpus`."""
        assert self.listing is not None
        return read_corpus(self.config, self.listing, self.cache("cleaned"), self.console, self.key)

    def documents(self, start: int = 0) -> Iterator[Document]:
        """Yield the documents that stay, in order, from a number on."""
        return self.read().documents(start)

    def general(self, sources: Sequence[SourceConfig]) -> Self:
        """Return the text of `evaluation.general`, which is cleaned as this text is.

        With `tokenization.store` its store is the folder `general` in that one, so that both are
        copied together.
        """
        config = CorpusConfig(
            sources=list(sources),
            cleaning=self.config.cleaning,
            markdown=self.config.markdown,
            split_seed=self.config.split_seed,
            on_error=self.config.on_error,
        )
        store = None if self.store is None else self.store / "general"
        return replace(self, config=config, store=store, key="evaluation.general", listing=None)
