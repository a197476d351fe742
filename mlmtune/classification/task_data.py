"""The examples of a task: labels and sides. No two sides share a text."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import xxhash
from numpy.typing import NDArray

from mlmtune.classification.labelled_examples import Example, ReadSide, at_one_state, read_side
from mlmtune.config import DataConfig
from mlmtune.corpus.cleaning import content_hash
from mlmtune.corpus.records import listed
from mlmtune.errors import DataError
from mlmtune.randomness import UInt64Array, key, uniform

_SPLIT_STREAM, _SUBSET_STREAM = 0xC1A5_5B17, 0xC1A5_50B5
"""Separate the uses of a seed: splitting, and choosing a subset."""

_WHOLE_NUMBER = re.compile(r"-?\d+", re.ASCII)


@dataclass(frozen=True)
class Side:
    """The n examples of one side.

    Attributes:
        texts: One text, or the two of a pair, for each example.
        labels: (n,) The numbers of the labels.
        names: The names of the examples, for people.
    """

    texts: Sequence[tuple[str, ...]]
    labels: NDArray[np.int64]
    names: Sequence[str]

    @classmethod
    def of(cls, examples: Sequence[Example], labels: Sequence[str]) -> Self:
        numbers = {label: number for number, label in enumerate(labels)}
        return cls(
            [example.texts for example in examples],
            np.asarray([numbers[example.label] for example in examples], dtype=np.int64),
            [example.name for example in examples],
        )

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, numbers: NDArray[np.int64]) -> Self:
        """Return the examples with some numbers."""
        return type(self)(
            [self.texts[number] for number in numbers],
            self.labels[numbers],
            [self.names[number] for number in numbers],
        )


@dataclass(frozen=True)
class TaskData:
    """All examples of a task.

    Attributes:
        labels: The names of the labels, by number.
        num_left_out: How many examples are not trained on because their texts are held out.
        notes: Lines for the user about the data.
        fingerprint: A hash that changes with any example, and with its side.
    """

    labels: tuple[str, ...]
    train: Side
    validation: Side
    test: Side | None
    num_left_out: int
    notes: tuple[str, ...]
    fingerprint: str


def read_task_data(config: DataConfig, say: Callable[[str], None]) -> TaskData:
    """Read, check and split the examples.

    Examples of `train` whose text is in `validation` or `test` are left out, and so are those of
    `validation` whose text is in `test`. `say` receives one line on where a dataset comes from.

    Raises:
        DataError: Data is missing, broken or empty; training has a single label; validation or the
            test has a label that training lacks; or half of the held-out texts are in training.
        MlmtuneError: See `hub_datasets.locate`.
    """
    config = at_one_state(config, say)
    read = read_side(config, "train")
    train = read.examples
    validation = read_side(config, "validation").examples if config.validation else None
    test = read_side(config, "test").examples if config.test else None

    notes: list[str] = []
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
    num_left_out = len(read.examples) - len(train)

    labels = _labels(config, replace(read, examples=train))
    if validation is None or config.test_fraction is not None:
        fractions = (
            config.validation_fraction if validation is None else 0.0, config.test_fraction or 0.0
        )  # fmt: skip
        train, drawn_validation, drawn_test = _split(train, labels, fractions, config.split_seed)
        validation = drawn_validation if validation is None else validation
        test = drawn_test if config.test_fraction is not None else test
    held_out = {"validation": validation} | ({} if test is None else {"test": test})
    for name, examples in held_out.items():
        _check_labels(examples, labels, name)
        notes += _missing_labels(labels, name, examples)

    return TaskData(
        labels=labels,
        train=Side.of(train, labels),
        validation=Side.of(validation, labels),
        test=None if test is None else Side.of(test, labels),
        num_left_out=num_left_out,
        notes=tuple(notes),
        fingerprint=_fingerprint(labels, (train, validation, test or ())),
    )


def text_hash(texts: Iterable[str]) -> int:
    """Return a hash of 64 bits that ignores white space and Unicode composition."""
    return int(key(*(np.uint64(content_hash(text)) for text in texts))[0])


def _without(
    examples: list[Example], name: str, held_out: Sequence[Example], other: str, notes: list[str]
) -> list[Example]:
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


# ---------------------------------------------------------------------------------------- labels


def _labels(config: DataConfig, train: ReadSide) -> tuple[str, ...]:
    """Return the labels in the order of their numbers, and refuse data with fewer than two."""
    labels = {example.label for example in train.examples}
    if not labels:
        raise DataError("data.train: no example is left to train on")
    if len(labels) < 2:
        raise DataError(
            f"data.train: every example has the label '{labels.pop()}'; a classifier needs two at "
            "least"
        )
    if config.labels is not None:
        _check_labels(train.examples, config.labels, "train")
        missing = [label for label in config.labels if label not in labels]
        if missing:
            raise DataError(
                f"data.labels: no training example has the label '{missing[0]}'; those found are: "
                f"{listed(sorted(labels))}"
            )
        return tuple(config.labels)
    if train.label_order is not None:
        return tuple(label for label in train.label_order if label in labels)
    if all(map(_WHOLE_NUMBER.fullmatch, labels)):
        return tuple(sorted(labels, key=int))
    return tuple(sorted(labels))


def _check_labels(examples: Sequence[Example], labels: Sequence[str], name: str) -> None:
    for example in examples:
        if example.label not in labels:
            others = "data.labels" if name == "train" else "any training example"
            raise DataError(
                f"{example.where}: the label '{example.label}' is not that of {others}; there are: "
                f"{listed(labels)}"
            )


def _missing_labels(labels: Sequence[str], name: str, examples: Sequence[Example]) -> Iterable[str]:
    missing = sorted(set(labels) - {example.label for example in examples}, key=labels.index)
    if missing:
        yield f"{name} has no example of the label{'s' * (len(missing) > 1)} {listed(missing)}"


# --------------------------------------------------------------------------------------- drawing


def _split(
    examples: list[Example], labels: Sequence[str], fractions: tuple[float, float], seed: int
) -> tuple[list[Example], list[Example], list[Example]]:
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
    for label in labels:
        texts = np.asarray([t for t, of in label_of_text.items() if of == label], dtype=np.uint64)
        draws = uniform(key(seed, _SPLIT_STREAM, texts), np.zeros(1, dtype=np.uint64))
        # A test text needs three texts of a label, so that validation and training get one each.
        num_test = _num_drawn(test_fraction, len(texts), at_least=3)
        num_validation = _num_drawn(validation_fraction, len(texts) - num_test, at_least=2)
        for rank, text in enumerate(texts[np.lexsort((texts, draws))].tolist()):
            in_test, in_validation = rank < num_test, rank < num_test + num_validation
            side_of_text[text] = 2 if in_test else 1 if in_validation else 0

    sides: tuple[list[Example], list[Example], list[Example]] = ([], [], [])
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


def _fingerprint(labels: Sequence[str], sides: Iterable[Sequence[Example]]) -> str:
    digest = xxhash.xxh3_128(repr(tuple(labels)).encode())
    for examples in sides:
        digest.update(f"\0{len(examples)}\0".encode())
        for example in examples:
            digest.update(repr((example.texts, example.label)).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()
