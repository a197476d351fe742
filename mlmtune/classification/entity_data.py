"""The sentences of an entity task, with the numbers of their tags."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Self

import numpy as np
from numpy.typing import NDArray

from mlmtune.classification.entity_metrics import check_available
from mlmtune.classification.labelled_sentences import Sentence, read_sentences
from mlmtune.classification.rows import at_one_state
from mlmtune.classification.sides import Divided, TaskData, missing, read_divided
from mlmtune.classification.tags import OUTSIDE, Tags, split_tag
from mlmtune.config import DataConfig
from mlmtune.corpus.records import listed
from mlmtune.errors import DataError


@dataclass(frozen=True)
class SentenceSide:
    """The n sentences of one side, which have W tokens.

    Attributes:
        tokens: The tokens of each sentence.
        tags: The tags of each sentence.
        labels: (W,) The numbers of all tags, one sentence after the other.
        names: The names of the sentences, for people.
        strata: (n,) Whether a sentence has an entity.
    """

    tokens: Sequence[tuple[str, ...]]
    tags: Sequence[Tags]
    labels: NDArray[np.int64]
    names: Sequence[str]
    strata: NDArray[np.int64]

    @classmethod
    def of(cls, sentences: Sequence[Sentence], labels: Sequence[str]) -> Self:
        numbers = {label: number for number, label in enumerate(labels)}
        flat = [numbers[tag] for sentence in sentences for tag in sentence.tags]
        return cls(
            [sentence.tokens for sentence in sentences],
            [sentence.tags for sentence in sentences],
            np.asarray(flat, dtype=np.int64),
            [sentence.name for sentence in sentences],
            np.asarray([sentence.label != OUTSIDE for sentence in sentences], dtype=np.int64),
        )

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def texts(self) -> list[tuple[str, ...]]:
        """The sentences, with a space between tokens."""
        return [(" ".join(tokens),) for tokens in self.tokens]

    @property
    def ends(self) -> NDArray[np.int64]:
        """The number (n,) of the token after each sentence."""
        return np.cumsum([len(tokens) for tokens in self.tokens], dtype=np.int64)

    def take(self, numbers: NDArray[np.int64]) -> Self:
        """Return the sentences with some numbers."""
        ends = self.ends
        spans = [self.labels[ends[n] - len(self.tokens[n]) : ends[n]] for n in numbers]
        return type(self)(
            [self.tokens[number] for number in numbers],
            [self.tags[number] for number in numbers],
            np.concatenate([np.empty(0, dtype=np.int64), *spans]),
            [self.names[number] for number in numbers],
            self.strata[numbers],
        )


class EntityData(TaskData[SentenceSide]):
    """All sentences of a task; the labels are `O`, then `B-` and `I-` of each type."""

    @property
    def types(self) -> tuple[str, ...]:
        """The types of entities, in the order of their tags."""
        return tuple(label[2:] for label in self.labels[1::2])


def read_entity_data(config: DataConfig, say: Callable[[str], None]) -> EntityData:
    """Read, check and divide the sentences; see `sides.read_divided`.

    `say` receives one line on where a dataset comes from.

    Raises:
        ConfigError: seqeval is not installed.
        DataError: Data is missing, broken or empty; a side has no entity; validation or the test
            has a type that training lacks; or half of the held-out sentences are in training.
        MlmtuneError: See `hub_datasets.locate`.
    """
    check_available()
    config = at_one_state(config, say)
    notes: list[str] = []
    divided = read_divided(config, lambda name: read_sentences(config, name, notes), notes)
    types = _types(config, divided)
    labels = (OUTSIDE, *chain.from_iterable((f"B-{type_}", f"I-{type_}") for type_ in types))
    for name, sentences in divided.held_out:
        _check_types(sentences, types)
        found = set(_types_of(sentences))
        if not found:
            raise DataError(
                f"data.{name}: every tag is {OUTSIDE}, so there is no entity to find; give other "
                "sentences"
            )
        notes += missing(name, "entity of the type", types, found)
    return EntityData.of(divided, labels, notes, SentenceSide.of)


def _types_of(sentences: Iterable[Sentence]) -> Iterable[str]:
    tags = dict.fromkeys(tag for sentence in sentences for tag in sentence.tags if tag != OUTSIDE)
    return dict.fromkeys(tag[2:] for tag in tags)


def _types(config: DataConfig, divided: Divided[Sentence]) -> tuple[str, ...]:
    """Return the types of entities in the order of their tags, and refuse data without any."""
    found = set(_types_of(divided.train))
    if not found:
        key = "data.tag_column" if config.format == "conll" else "data.label_field"
        raise DataError(
            f"data.train: every tag is {OUTSIDE}, so there is no entity to learn; set {key} if the "
            "tags are elsewhere"
        )
    if divided.label_order is None:
        return tuple(sorted(found))
    parts = [split_tag(label) for label in divided.label_order]
    ordered = dict.fromkeys(part[1] for part in parts if part is not None)
    return tuple(type_ for type_ in ordered if type_ in found)


def _check_types(sentences: Iterable[Sentence], types: Sequence[str]) -> None:
    known = {OUTSIDE, *(f"{prefix}-{type_}" for prefix in "BI" for type_ in types)}
    for sentence in sentences:
        for place, tag in enumerate(sentence.tags):
            if tag not in known:
                raise DataError(
                    f"{sentence.where_token(place)}: no training sentence has an entity of the "
                    f"type '{tag[2:]}'; there are: {listed(types)}"
                )
