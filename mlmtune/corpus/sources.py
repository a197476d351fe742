"""The sources of a corpus as records, in the one order that everything made of it follows."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import Literal

from mlmtune.config import CorpusConfig, SourceConfig
from mlmtune.corpus.formats import format_of
from mlmtune.printable import printable
from mlmtune.redaction import public_location, without_secrets

Role = Literal["validation", "train", "reference"]

SOURCES_KEY = "corpus.sources"
"""Where the config names the text to train on."""


@dataclass(frozen=True, slots=True)
class CorpusSource:
    """One source of a corpus.

    Attributes:
        config: the source as the config describes it.
        name: its name in reports; no other source of the corpus has it.
        key: where the config names it, such as `corpus.sources[0]`.
        role: `reference` is text that must not be learned (`exclude_overlap_with`).
    """

    config: SourceConfig
    name: str
    key: str
    role: Role

    @property
    def is_validation(self) -> bool:
        """Whether it is one of `validation_sources`."""
        return self.role == "validation"

    @property
    def is_by_lines(self) -> bool:
        """Whether each of its lines is a sentence."""
        return self.config.dataset is None and format_of(self.config.format).is_by_lines

    @property
    def weight(self) -> float:
        """How often an epoch sees its text, unless it is replayed."""
        return self.config.weight

    @property
    def replay(self) -> float:
        """The share of the training tokens that it must have; 0 where it is not replayed."""
        return self.config.replay or 0.0


def all_sources(config: CorpusConfig, key: str = SOURCES_KEY) -> Iterator[CorpusSource]:
    """Yield the sources of a corpus: those of validation, those of training, then references.

    Args:
        config: the section `corpus`.
        key: where the config names `config.sources`.
    """
    sections: tuple[tuple[Role, str, list[SourceConfig]], ...] = (
        ("validation", "corpus.validation_sources", config.validation_sources),
        ("train", key, config.sources),
        ("reference", "corpus.exclude_overlap_with", config.exclude_overlap_with),
    )
    taken: set[str] = set()
    for role, section, sources in sections:
        for index, source in enumerate(sources):
            numbers = count(2)
            name = wanted = source_name(source)
            while name in taken:
                name = f"{wanted} ({next(numbers)})"
            taken.add(name)
            yield CorpusSource(source, name, f"{section}[{index}]", role)


def corpus_sources(config: CorpusConfig, key: str = SOURCES_KEY) -> tuple[CorpusSource, ...]:
    """Return the sources that a corpus consists of; a document's source is an index into them."""
    return tuple(source for source in all_sources(config, key) if source.role != "reference")


def source_name(source: SourceConfig) -> str:
    """Return what a source is called in reports: without secrets, in a form that prints."""
    name = source.name or ", ".join(map(public_location, source.locations))
    return printable(without_secrets(name))
