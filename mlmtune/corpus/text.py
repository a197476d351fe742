"""The text of a section of the config: its sources, their files, and its folders in the cache."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from mlmtune.config import CorpusConfig, SourceConfig, TokenizationConfig
from mlmtune.console import Console
from mlmtune.corpus.corpus import Corpus, read_corpus
from mlmtune.corpus.engine import Engine, ThisMachine
from mlmtune.corpus.listing import Listing
from mlmtune.corpus.part_files import PartFiles
from mlmtune.corpus.scanning import scan
from mlmtune.corpus.sources import SOURCES_KEY, CorpusSource, all_sources, corpus_sources
from mlmtune.errors import explaining_failures
from mlmtune.locations import cache_directory, expand_home


@dataclass(frozen=True)
class CorpusText:
    """The text of a section of the config.

    Attributes:
        config: The sources, and how they are cleaned and filtered.
        console: Shows what takes time.
        cache_dir: `tokenization.cache_dir`, the folder of everything that is made of the text.
        parts: `tokenization.parts`, the location of the cleaned text; None for the cache.
        store: The folder of the text's tokens, by `tokenization.store`; None for the cache.
        key: The key of the sources in the config, for errors.
        listing: The files of the sources; None before `listed`, and if only a finished store is on
            this machine.
        cluster: The engine that prepares the text; None for this machine.
    """

    config: CorpusConfig
    console: Console
    cache_dir: str | None = None
    parts: str | None = None
    store: Path | None = None
    key: str = SOURCES_KEY
    listing: Listing | None = None
    cluster: Engine | None = None

    @classmethod
    def of(
        cls,
        config: CorpusConfig,
        tokenization: TokenizationConfig,
        console: Console,
        cluster: Engine | None = None,
    ) -> Self:
        """Build the text of the section `corpus`; nothing is looked up yet.

        Raises:
            ConfigError: The store is in the home folder of an unknown user.
        """
        store = None if tokenization.store is None else expand_home(tokenization.store)
        return cls(
            config, console, tokenization.cache_dir, tokenization.parts, store, cluster=cluster
        )

    @property
    def engine(self) -> Engine:
        """What prepares the text."""
        return self.cluster or ThisMachine(self.console)

    @property
    def sources(self) -> tuple[CorpusSource, ...]:
        """The records of the sources, in the order of `corpus_sources`."""
        return corpus_sources(self.config, self.key)

    @property
    def store_setting(self) -> str:
        """The key that decides where the text's tokens are."""
        return "tokenization.cache_dir" if self.store is None else "tokenization.store"

    def cache(self, name: str) -> Path:
        """Return a folder of the cache, which is made if it does not exist."""
        return cache_directory(self.cache_dir, name)

    def listed(self, *, refresh: bool = False) -> Self:
        """Return the same text with a list of its files; see `scanning.scan`.

        Raises:
            MlmtuneError: The text cannot be reached.
        """
        sources = all_sources(self.config, self.key)
        listing = scan(sources, self.cache("git"), self.console.say, refresh=refresh)
        return replace(self, listing=listing)

    def read(self) -> Corpus:
        """Clean the listed text and filter its documents; see `read_corpus`."""
        assert self.listing is not None
        cleaned = self.cache("cleaned")
        place = PartFiles(cleaned, self.parts)
        # What is cleaned is in the cache, wherever the store is.
        with explaining_failures(cleaned, "tokenization.cache_dir"):
            return read_corpus(
                self.config, self.listing, place, self.console, self.engine, self.key
            )

    def general(self, sources: Sequence[SourceConfig]) -> Self:
        """Return the text of `evaluation.general`, which is cleaned like this text."""
        config = CorpusConfig(
            sources=list(sources),
            cleaning=self.config.cleaning,
            markdown=self.config.markdown,
            split_seed=self.config.split_seed,
            on_error=self.config.on_error,
        )
        # A folder inside the other store, so that both are copied together.
        store = None if self.store is None else self.store / "general"
        return replace(self, config=config, store=store, key="evaluation.general", listing=None)
