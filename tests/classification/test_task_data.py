"""Labels, sides and subsets, by the laws they are to obey."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlmtune.classification.sides import TaskData, subset
from mlmtune.classification.task_data import TextSide, read_task_data
from mlmtune.errors import DataError

Pairs = list[tuple[str, Any]]
Read = Callable[..., TaskData[TextSide]]


@pytest.fixture
def read(tmp_path: Path, data_config: Callable[..., Any]) -> Read:
    def of(train: Pairs, validation: Pairs | None = None, test: Pairs | None = None, **keys: Any):
        for name, pairs in (("train", train), ("validation", validation), ("test", test)):
            if pairs is not None:
                lines = (json.dumps({"text": text, "label": label}) + "\n" for text, label in pairs)
                (tmp_path / f"{name}.jsonl").write_text("".join(lines))
                keys[name] = f"{name}.jsonl"
        return read_task_data(data_config(**keys), lambda _: None)

    return of


def numbered(size: int, labels: str = "ab", prefix: str = "text") -> Pairs:
    return [(f"{prefix} {number}", labels[number % len(labels)]) for number in range(size)]


def texts(side: TextSide | None) -> list[str]:
    assert side is not None
    return [text for (text,) in side.texts]


# ---------------------------------------------------------------------------------------- labels


@pytest.mark.parametrize(
    ("found", "given_", "labels"),
    [
        (["b", "a", "b"], None, ("a", "b")),
        ([10, 9, 2], None, ("2", "9", "10")),
        (["10", "9", "x"], None, ("10", "9", "x")),
        (["b", "a"], ["b", "a"], ("b", "a")),
    ],
)
def test_the_order_of_the_labels(
    read: Read, found: list[Any], given_: list[str] | None, labels: tuple[str, ...]
) -> None:
    pairs = [(f"{label} {number}", label) for label in found for number in range(3)]
    data = read(pairs, [("other", found[0])], labels=given_)
    assert data.labels == labels
    assert [labels[number] for number in data.train.labels] == [str(label) for _, label in pairs]


@pytest.mark.parametrize(
    ("train", "validation", "keys", "message"),
    [
        (numbered(4, "a"), None, {}, r"data.train: every example has the label 'a'; .* two at"),
        (
            numbered(4),
            [("x", "c")],
            {},
            r"validation.jsonl:1: the label 'c' is not that of any training example; .*: a, b$",
        ),
        (
            numbered(4, "abc"),
            None,
            {"labels": ["a", "b"]},
            r"train.jsonl:3: the label 'c' is not that of data.labels; there are: a, b$",
        ),
        (
            numbered(4),
            None,
            {"labels": ["a", "b", "c"]},
            r"data.labels: no training example has the label 'c'; those found are: a, b$",
        ),
        ([("x", "a"), ("y", "b")], None, {}, r"data.train: no label has enough .* data.validation"),
    ],
)
def test_labels_that_do_not_fit_are_said(
    read: Read, train: Pairs, validation: Pairs | None, keys: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        read(train, validation, **keys)


def test_a_label_that_validation_or_test_lacks_is_noted(read: Read) -> None:
    data = read(numbered(9, "abc"), [("x", "a")], [("y", "a"), ("z", "b")])
    assert data.notes == (
        "validation has no example of the labels b, c",
        "test has no example of the label c",
    )


# ----------------------------------------------------------------------------------------- sides


def test_a_text_that_is_held_out_is_trained_on_nowhere(read: Read) -> None:
    data = read(
        [*numbered(6), ("in  validation", "a"), ("in\ntest", "b"), ("in test", "b")],
        [("in validation", "a"), ("in test ", "b"), ("v", "a"), ("w", "b")],
        [("in test", "b"), ("t", "a"), ("u", "a")],
    )
    assert texts(data.train) == texts(data.train)[:6]
    assert texts(data.validation) == ["in validation", "v", "w"]
    assert texts(data.test) == ["in test", "t", "u"]
    assert data.num_left_out == 3
    assert data.notes == (
        "2 of 9 examples of data.train are left out: their text is in data.test",
        "1 of 4 examples of data.validation are left out: their text is in data.test",
        "1 of 7 examples of data.train are left out: their text is in data.validation",
    )


def test_a_test_set_inside_the_training_set_is_refused(read: Read) -> None:
    with pytest.raises(DataError, match=r"data.test: 3 of its 4 texts are in data.train, too; "):
        read(numbered(8), [("v", "a")], [*numbered(3), ("t", "a")])
    with pytest.raises(DataError, match=r"data.validation: 3 of its 4 texts are in data.train"):
        read(numbered(8), [*numbered(3), ("t", "a")])


def test_a_validation_set_inside_the_test_set_is_refused(read: Read) -> None:
    test = numbered(8, prefix="other")
    with pytest.raises(DataError, match=r"data.validation: every text is in data.test, too; "):
        read(numbered(20), test[:3], test)


def test_a_split_keeps_shares_and_texts_together_and_forgets_order(read: Read) -> None:
    pairs = [*numbered(80, "aaab"), *[("often", "a")] * 5]
    data = read(pairs, validation_fraction=0.2, test_fraction=0.1)
    sides = [data.train, data.validation, data.test]
    for first, second in ((0, 1), (0, 2), (1, 2)):
        assert not set(texts(sides[first])) & set(texts(sides[second]))
    assert sorted(text for side in sides for text in texts(side)) == sorted(
        text for text, _ in pairs
    )
    assert [Counter(side.labels.tolist())[1] for side in sides if side] == [14, 4, 2]

    again = read(pairs[::-1], validation_fraction=0.2, test_fraction=0.1)
    assert sorted(texts(again.test)) == sorted(texts(data.test))
    other = read(pairs, validation_fraction=0.2, test_fraction=0.1, split_seed=1)
    assert sorted(texts(other.test)) != sorted(texts(data.test))


def test_a_test_is_split_off_beside_given_validation(read: Read) -> None:
    data = read(numbered(20), [("v", "a")], test_fraction=0.5)
    assert texts(data.validation) == ["v"]
    assert (len(data.train), len(data.test or ())) == (10, 10)


def test_the_fingerprint_tells_any_change(read: Read) -> None:
    def of(train: Pairs, **keys: Any) -> str:
        return read(train, [("v", "a")], **keys).fingerprint

    pairs = numbered(6)
    assert of(pairs) == of(pairs)
    changed = [
        pairs[:-1],
        pairs[::-1],
        [("changed", "a"), *pairs[1:]],
        [("text 0", "b"), *pairs[1:]],
    ]
    assert len({of(pairs), of(pairs, labels=["b", "a"]), *map(of, changed)}) == 6


# --------------------------------------------------------------------------------------- subsets


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.integers(0, 5), st.data())
def test_subsets_are_nested_and_keep_the_shares(labels: list[int], seed: int, data: Any) -> None:
    size = data.draw(st.integers(1, len(labels)))
    larger = data.draw(st.integers(size, len(labels)))
    numbers = subset(np.asarray(labels), size, seed).tolist()
    assert len(numbers) == size
    assert numbers == sorted(set(numbers))
    assert set(numbers) <= set(subset(np.asarray(labels), larger, seed).tolist())

    counts, all_counts = Counter(labels[number] for number in numbers), Counter(labels)
    if size >= len(all_counts):
        assert counts.keys() == all_counts.keys()
        for label, count in all_counts.items():
            share = size * count / len(labels)
            assert abs(counts[label] - share) <= len(all_counts)


def test_another_seed_takes_other_examples() -> None:
    labels = np.arange(100) % 2
    assert subset(labels, 10, 0).tolist() != subset(labels, 10, 1).tolist()
    assert subset(labels, 200, 0).tolist() == list(range(100))
