"""The examples of a task: their labels, their sides, and that no side knows another's texts."""

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
"""Keep the draws of one seed apart."""

_WHOLE_NUMBER = re.compile(r"-?\d+", re.ASCII)


@dataclass(frozen=True)
class Side:
    """Examples of one side, in their order. n of them.

    Attributes:
        texts: of each one, or the two of a pair.
        labels: (n,) their numbers.
        names: Identify the examples, for people.
    """

    texts: Sequence[tuple[str, ...]]
    labels: NDArray[np.int64]
    names: Sequence[str]

    @classmethod
    def of(cls, examples: Sequence[Example], labels: Sequence[str]) -> Self:
        """The examples, whose labels are among `labels`."""
        numbers = {label: number for number, label in enumerate(labels)}
        return cls(
            [example.texts for example in examples],
            np.asarray([numbers[example.label] for example in examples], dtype=np.int64),
            [example.name for example in examples],
        )

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, numbers: NDArray[np.int64]) -> Self:
        """Some of the examples."""
        return replace(
            self,
            texts=[self.texts[number] for number in numbers],
            labels=self.labels[numbers],
            names=[self.names[number] for number in numbers],
        )


@dataclass(frozen=True)
class TaskData:
    """All examples of a task.

    Attributes:
        labels: by number.
        train: what is trained on.
        validation: shares no text with `train`.
        test: shares no text with either; None without one.
        num_left_out: examples that are left out of training, as their texts are held out.
        notes: what a user should know of the data, a line each.
        fingerprint: changes when any example does, or its side.
    """

    labels: tuple[str, ...]
    train: Side
    validation: Side
    test: Side | None
    num_left_out: int
    notes: tuple[str, ...]
    fingerprint: str

    def with_train(self, train: Side) -> Self:
        """The same, trained on other examples."""
        return replace(self, train=train)


def read_task_data(config: DataConfig, say: Callable[[str], None]) -> TaskData:
    """Read, check and split the examples.

    A text that is held out is trained on nowhere: examples of `train` whose text is in `validation`
    or `test`, and those of `validation` whose text is in `test`, are left out.

    Args:
        config: the section `data`.
        say: told in one line where a dataset of the hub comes from.

    Raises:
        DataError: something is not there, broken or empty; training has one label, validation or
            the test has a label that training has not; half of what is held out is in training.
        MlmtuneError: a dataset of the hub cannot be had.
    """
    config = at_one_state(config, say)
    read = read_side(config, "train")
    train = read.examples
    validation = read_side(config, "validation").examples if config.validation else None
    test = read_side(config, "test").examples if config.test else None

    notes: list[str] = []
    num_read = len(train)
    if test is not None:
        train = _without(train, "train", test, "test", notes)
        if validation is not None:
            validation = _without(validation, "validation", test, "test", notes)
    if validation is not None:
        train = _without(train, "train", validation, "validation", notes)
    num_left_out = num_read - len(train)

    labels = _labels(config, replace(read, examples=train))
    if validation is None or config.test_fraction is not None:
        train, drawn_validation, drawn_test = _split(
            train,
            labels,
            0.0 if validation is not None else config.validation_fraction,
            config.test_fraction or 0.0,
            config.split_seed,
        )
        validation = drawn_validation if validation is None else validation
        test = drawn_test if config.test_fraction is not None else test
    for name, examples in (("validation", validation), ("test", test or ())):
        _check_labels(examples, labels, name)
    notes += _missing_labels(labels, "validation", validation)
    if test is not None:
        notes += _missing_labels(labels, "test", test)

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
    """64 bits that are equal for texts that differ in white space and composition only."""
    return int(key(*(np.uint64(content_hash(text)) for text in texts))[0])


def _without(
    examples: list[Example], name: str, held_out: Sequence[Example], other: str, notes: list[str]
) -> list[Example]:
    """The examples whose text isn't held out; what goes is noted."""
    own = [text_hash(example.texts) for example in examples]
    theirs = {text_hash(example.texts) for example in held_out}
    num_shared = len(theirs.intersection(own))
    if 2 * num_shared >= len(theirs):
        raise DataError(
            f"data.{other}: {num_shared:,} of its {len(theirs):,} texts are in data.{name}, too; "
            f"give examples of their own, or remove data.{other} and have some split off"
        )
    kept = [example for example, hash_ in zip(examples, own, strict=True) if hash_ not in theirs]
    if len(kept) < len(examples):
        notes.append(
            f"{len(examples) - len(kept):,} of {len(examples):,} examples of data.{name} are left "
            f"out: their text is in data.{other}"
        )
    return kept


# ---------------------------------------------------------------------------------------- labels


def _labels(config: DataConfig, train: ReadSide) -> tuple[str, ...]:
    """The labels in the order of their numbers.

    Raises:
        DataError: there are fewer than two, or the config's are others than those found.
    """
    found = {example.label for example in train.examples}
    if len(found) < 2:
        raise DataError(
            f"data.train: every example has the label '{next(iter(found))}'; a classifier needs "
            "two at least"
            if found
            else "data.train: no example is left to train on"
        )
    if config.labels is not None:
        _check_labels(train.examples, config.labels, "train")
        missing = [label for label in config.labels if label not in found]
        if missing:
            raise DataError(
                f"data.labels: no training example has the label '{missing[0]}'; those found are: "
                f"{listed(sorted(found))}"
            )
        return tuple(config.labels)
    if train.label_order is not None:
        return tuple(label for label in train.label_order if label in found)
    if all(map(_WHOLE_NUMBER.fullmatch, found)):
        return tuple(sorted(found, key=int))
    return tuple(sorted(found))


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
    examples: list[Example],
    labels: Sequence[str],
    validation_fraction: float,
    test_fraction: float,
    seed: int,
) -> tuple[list[Example], list[Example], list[Example]]:
    """Training, validation and test, each with the labels' shares.

    A text is on one side, however often it occurs, and its draw is keyed by its content, so that
    the order of the examples does not matter.

    Raises:
        DataError: no label has enough examples.
    """
    label_of_text: dict[int, str] = {}
    hashes = [text_hash(example.texts) for example in examples]
    for example, hash_ in zip(examples, hashes, strict=True):
        label_of_text[hash_] = min(example.label, label_of_text.get(hash_, example.label))

    side_of_text: dict[int, int] = {}
    for label in labels:
        texts = np.asarray([t for t, of in label_of_text.items() if of == label], dtype=np.uint64)
        draws = uniform(key(seed, _SPLIT_STREAM, texts), np.zeros(1, dtype=np.uint64))
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
    """How many of a label's texts a side gets: one where there are `at_least` so many."""
    if fraction == 0.0 or size < at_least:
        return 0
    return min(max(1, round(fraction * size)), size - 1)


def subset(labels: NDArray[np.int64], size: int, seed: int) -> NDArray[np.int64]:
    """Some of n examples, with the labels' shares; a larger subset holds the smaller ones.

    Each label's examples are put into a drawn order and spread evenly over the whole; the first of
    each label comes before all others. The subset is the beginning.

    Args:
        labels: (n,) of the examples.
        size: how many; all where there are no more.
        seed: of the draw.

    Returns:
        (min(size, n),) which, in their order.
    """
    counters: UInt64Array = np.arange(len(labels), dtype=np.uint64)
    order = np.argsort(uniform(key(seed, _SUBSET_STREAM), counters), kind="stable")
    position = np.empty(len(labels), dtype=np.float64)
    for label in np.unique(labels):
        of_label = order[labels[order] == label]
        position[of_label] = (np.arange(len(of_label)) + 0.5) / len(of_label)
        position[of_label[0]] = -1.0
    # Places that are equal go by the draw.
    return np.sort(order[np.argsort(position[order], kind="stable")][:size])


def _fingerprint(labels: Sequence[str], sides: Iterable[Sequence[Example]]) -> str:
    digest = xxhash.xxh3_128(repr(tuple(labels)).encode())
    for examples in sides:
        digest.update(f"\0{len(examples)}\0".encode())
        for example in examples:
            digest.update(repr((example.texts, example.label)).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()
