"""The sources of a corpus as records, in the order of all documents, tokens and counts."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, count
from typing import Literal

from mlmtune.config import CorpusConfig, SourceConfig
from mlmtune.corpus.formats import format_of
from mlmtune.printable import printable
from mlmtune.redaction import public_location, without_secrets

Role = Literal["validation", "train", "reference"]

SOURCES_KEY = "corpus.sources"
"""The key in the config of the text to train on."""


@dataclass(frozen=True, slots=True)
class CorpusSource:
    """One source of a corpus.

    Attributes:
        name: Its name in reports, which no other source of the corpus has.
        key: Its key in the config, such as `corpus.sources[0]`.
        role: `reference` for text that must not be learned (`exclude_overlap_with`).
    """

    config: SourceConfig
    name: str
    key: str
    role: Role

    @property
    def is_validation(self) -> bool:
        """Whether it is one of `corpus.validation_sources`."""
        return self.role == "validation"

    @property
    def is_by_lines(self) -> bool:
        """Whether each of its lines is a sentence."""
        return self.config.dataset is None and format_of(self.config.format).is_by_lines

    @property
    def weight(self) -> float:
        """The number of times that its text is in an epoch, unless it is replayed."""
        return self.config.weight

    @property
    def replay(self) -> float:
        """Its share of the training tokens if it is replayed, else 0."""
        return self.config.replay or 0.0


def all_sources(config: CorpusConfig, key: str = SOURCES_KEY) -> Iterator[CorpusSource]:
    """Yield the sources for validation, those for training (at `key`), then the references."""
    sections: tuple[tuple[Role, str, list[SourceConfig]], ...] = (
        ("validation", "corpus.validation_sources", config.validation_sources),
        ("train", key, config.sources),
        ("reference", "corpus.exclude_overlap_with", config.exclude_overlap_with),
    )
    used: set[str] = set()
    for role, section, sources in sections:
        for index, source in enumerate(sources):
            wanted = source_name(source)
            names = chain([wanted], (f"{wanted} ({number})" for number in count(2)))
            name = next(name for name in names if name not in used)
            used.add(name)
            yield CorpusSource(source, name, f"{section}[{index}]", role)


def corpus_sources(config: CorpusConfig, key: str = SOURCES_KEY) -> tuple[CorpusSource, ...]:
    """Return the sources of a corpus's documents; `Document.source` is an index into them."""
    return tuple(source for source in all_sources(config, key) if source.role != "reference")


def source_name(source: SourceConfig) -> str:
    """Return the name of a source in reports, without secrets and control characters."""
    name = source.name or ", ".join(map(public_location, source.locations))
    return printable(without_secrets(name))
