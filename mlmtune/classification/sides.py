"""Training, validation and test of a task: no two share a text."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, Protocol, Self, TypeVar

import numpy as np
import xxhash
from numpy.typing import NDArray

from mlmtune.classification.labelled_examples import ReadSide
from mlmtune.classification.rows import SideName
from mlmtune.config import DataConfig
from mlmtune.corpus.cleaning import content_hash
from mlmtune.corpus.records import listed
from mlmtune.errors import DataError
from mlmtune.randomness import UInt64Array, key, uniform

_SPLIT_STREAM, _SUBSET_STREAM = 0xC1A5_5B17, 0xC1A5_50B5
"""Separate the uses of a seed: splitting, and choosing a subset."""


class Labelled(Protocol):
    """An example, as far as dividing examples needs to know it."""

    @property
    def texts(self) -> tuple[str, ...]:
        """The texts of which no two sides have the same."""
        ...

    @property
    def label(self) -> str:
        """Each side gets the same share of every label."""
        ...

    @property
    def content(self) -> tuple[Any, ...]:
        """All that is learned from the example."""
        ...


ExampleT = TypeVar("ExampleT", bound=Labelled)


@dataclass(frozen=True)
class Divided(Generic[ExampleT]):
    """The examples of each side.

    Attributes:
        num_left_out: How many examples are not trained on because their texts are held out.
        label_order: All labels in their order, if the training data defines one.
    """

    train: list[ExampleT]
    validation: list[ExampleT]
    test: list[ExampleT] | None
    num_left_out: int
    label_order: Sequence[str] | None

    @property
    def held_out(self) -> Iterator[tuple[SideName, list[ExampleT]]]:
        """The sides that are not trained on, with their names."""
        yield "validation", self.validation
        if self.test is not None:
            yield "test", self.test


class Side(Protocol):
    """The n examples of one side, with the numbers of their labels."""

    def __len__(self) -> int: ...

    @property
    def labels(self) -> NDArray[np.int64]:
        """The numbers of all labels, one example after the other."""
        ...

    @property
    def strata(self) -> NDArray[np.int64]:
        """(n,) What subsets of the examples have equal shares of."""
        ...

    @property
    def texts(self) -> Sequence[tuple[str, ...]]:
        """The texts of each example."""
        ...

    def take(self, numbers: NDArray[np.int64]) -> Self:
        """Return the examples with some numbers."""
        ...


SideT = TypeVar("SideT", bound=Side)


@dataclass(frozen=True)
class TaskData(Generic[SideT]):
    """All examples of a task.

    Attributes:
        labels: The names of the labels, or the tags, by number.
        num_left_out: How many examples are not trained on because their texts are held out.
        notes: Lines for the user about the data.
        fingerprint: A hash that changes with any example, and with its side.
    """

    labels: tuple[str, ...]
    train: SideT
    validation: SideT
    test: SideT | None
    num_left_out: int
    notes: tuple[str, ...]
    fingerprint: str

    @classmethod
    def of(
        cls,
        divided: Divided[ExampleT],
        labels: tuple[str, ...],
        notes: Sequence[str],
        number: Callable[[Sequence[ExampleT], Sequence[str]], SideT],
    ) -> Self:
        """Give the labels of examples their numbers, by a function of a side and the labels."""
        test = divided.test
        return cls(
            labels=labels,
            train=number(divided.train, labels),
            validation=number(divided.validation, labels),
            test=None if test is None else number(test, labels),
            num_left_out=divided.num_left_out,
            notes=tuple(notes),
            fingerprint=_fingerprint(labels, (divided.train, divided.validation, test or ())),
        )

    def with_train_examples(self, size: int | None, seed: int) -> Self:
        """Return the data with some of the training examples; see `subset`. None keeps all."""
        if size is None:
            return self
        return replace(self, train=self.train.take(subset(self.train.strata, size, seed)))


def _fingerprint(labels: Sequence[str], sides: Iterable[Sequence[Labelled]]) -> str:
    digest = xxhash.xxh3_128(repr(tuple(labels)).encode())
    for examples in sides:
        digest.update(f"\0{len(examples)}\0".encode())
        for example in examples:
            digest.update(repr(example.content).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def missing(name: SideName, what: str, names: Iterable[str], found: Iterable[str]) -> Iterator[str]:
    """Yield a line for the user if a side lacks some labels, or types of entities."""
    known = set(found)
    if lacking := [one for one in names if one not in known]:
        yield f"{name} has no {what}{'s' * (len(lacking) > 1)} {listed(lacking)}"


def read_divided(
    config: DataConfig, read: Callable[[SideName], ReadSide[ExampleT]], notes: list[str]
) -> Divided[ExampleT]:
    """Read the sides that the config names, keep them apart, and split off the others.

    Examples of `train` whose text is in `validation` or `test` are left out, and so are those of
    `validation` whose text is in `test`; `notes` receives a line on them.

    Args:
        config: The section `data`.
        read: Reads a side.
        notes: Receives lines for the user.

    Raises:
        DataError: A side is empty, or half of the held-out texts are in training.
        MlmtuneError: Whatever `read` raises.
    """
    side = read("train")
    train = side.examples
    validation = read("validation").examples if config.validation else None
    test = read("test").examples if config.test else None
    if test is not None:
        train = _without(train, "train", test, "test", notes)
        if validation is not None:
            validation = _without(validation, "validation", test, "test", notes)
            if not validation:
                raise DataError(
                    "data.validation: every text is in data.test, too; give examples of its own, "
                    "or remove data.validation"
                )
    if validation is not None:
        train = _without(train, "train", validation, "validation", notes)
    num_left_out = len(side.examples) - len(train)
    if not train:
        raise DataError("data.train: no example is left to train on")
    if validation is None or config.test_fraction is not None:
        fractions = (
            config.validation_fraction if validation is None else 0.0, config.test_fraction or 0.0
        )  # fmt: skip
        train, drawn_validation, drawn_test = _split(train, fractions, config.split_seed)
        validation = drawn_validation if validation is None else validation
        test = drawn_test if config.test_fraction is not None else test
    return Divided(train, validation, test, num_left_out, side.label_order)


def text_hash(texts: Iterable[str]) -> int:
    """Return a hash of 64 bits that ignores white space and Unicode composition."""
    return int(key(*(np.uint64(content_hash(text)) for text in texts))[0])


def _without(
    examples: list[ExampleT], name: str, held_out: Sequence[ExampleT], other: str, notes: list[str]
) -> list[ExampleT]:
    """Return the examples whose text is not held out, and add a note on the others."""
    hashes = [text_hash(example.texts) for example in examples]
    avoided = {text_hash(example.texts) for example in held_out}
    num_shared = len(avoided.intersection(hashes))
    # A few shared texts are duplicates by chance; half of them is the same data given twice.
    if 2 * num_shared >= len(avoided):
        raise DataError(
            f"data.{other}: {num_shared:,} of its {len(avoided):,} texts are in data.{name}, too; "
            f"give examples of their own, or remove data.{other} and have some split off"
        )
    kept = [
        example for example, hash_ in zip(examples, hashes, strict=True) if hash_ not in avoided
    ]
    if len(kept) < len(examples):
        notes.append(
            f"{len(examples) - len(kept):,} of {len(examples):,} examples of data.{name} are left "
            f"out: their text is in data.{other}"
        )
    return kept


def _split(
    examples: list[ExampleT], fractions: tuple[float, float], seed: int
) -> tuple[list[ExampleT], list[ExampleT], list[ExampleT]]:
    """Split examples into training, validation and test, each with the same share of every label.

    A text that occurs more than once is on one side only. Its draw is keyed by its content, so the
    order of the examples does not matter. Nothing is split off for a fraction of 0.
    """
    validation_fraction, test_fraction = fractions
    label_of_text: dict[int, str] = {}
    hashes = [text_hash(example.texts) for example in examples]
    for example, hash_ in zip(examples, hashes, strict=True):
        # A text with several labels counts for the first by name, whatever the examples' order is.
        label_of_text[hash_] = min(example.label, label_of_text.get(hash_, example.label))

    side_of_text: dict[int, int] = {}
    for label in sorted(set(label_of_text.values())):
        texts = np.asarray([t for t, of in label_of_text.items() if of == label], dtype=np.uint64)
        draws = uniform(key(seed, _SPLIT_STREAM, texts), np.zeros(1, dtype=np.uint64))
        # A test text needs three texts of a label, so that validation and training get one each.
        num_test = _num_drawn(test_fraction, len(texts), at_least=3)
        num_validation = _num_drawn(validation_fraction, len(texts) - num_test, at_least=2)
        for rank, text in enumerate(texts[np.lexsort((texts, draws))].tolist()):
            in_test, in_validation = rank < num_test, rank < num_test + num_validation
            side_of_text[text] = 2 if in_test else 1 if in_validation else 0

    sides: tuple[list[ExampleT], list[ExampleT], list[ExampleT]] = ([], [], [])
    for example, hash_ in zip(examples, hashes, strict=True):
        sides[side_of_text[hash_]].append(example)
    for fraction, side, name in (
        (validation_fraction, sides[1], "validation"),
        (test_fraction, sides[2], "test"),
    ):
        if fraction and not side:
            raise DataError(
                f"data.train: no label has enough examples to split some off; give data.{name}, or "
                "more examples"
            )
    return sides


def _num_drawn(fraction: float, size: int, at_least: int) -> int:
    """Return how many of a label's texts a side gets; none if there are fewer than `at_least`."""
    if fraction == 0.0 or size < at_least:
        return 0
    return min(max(1, round(fraction * size)), size - 1)


def subset(labels: NDArray[np.int64], size: int, seed: int) -> NDArray[np.int64]:
    """Choose examples with the same share of every label; a larger subset contains a smaller one.

    The examples of each label are shuffled and spread evenly over one line, and the first of each
    label comes before all others. The subset is the beginning of that line.

    Args:
        labels: (n,) The labels of the examples.
        size: The size of the subset; all examples if there are fewer.
        seed: The seed of the draw.

    Returns:
        The numbers (min(size, n),) of the examples, in ascending order.
    """
    counters: UInt64Array = np.arange(len(labels), dtype=np.uint64)
    order = np.argsort(uniform(key(seed, _SUBSET_STREAM), counters), kind="stable")
    position = np.empty(len(labels), dtype=np.float64)
    for label in np.unique(labels):
        of_label = order[labels[order] == label]
        position[of_label] = (np.arange(len(of_label)) + 0.5) / len(of_label)
        position[of_label[0]] = -1.0
    # A stable sort, so that the draw decides between equal positions.
    return np.sort(order[np.argsort(position[order], kind="stable")][:size])
