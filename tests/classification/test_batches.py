"""Batches of like length: every example once an epoch, by the seed alone."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlmtune.classification.batches import EncodedExamples, ExampleSequences


def encoded(lengths: list[int]) -> EncodedExamples:
    ids = [np.full(length, number, dtype=np.int32) for number, length in enumerate(lengths)]
    ones = np.ones(len(ids), dtype=np.float32)
    tokenizer: Any = None  # nothing is padded
    return EncodedExamples(
        ids, tokenizer, False, ids, np.zeros(len(ids), dtype=np.int64), ones, num_truncated=0
    )


def order(sequences: ExampleSequences, epoch: int) -> list[int]:
    places = np.arange(len(sequences))
    return sequences._numbers(np.full_like(places, epoch), places).tolist()


@given(
    st.lists(st.integers(1, 50), min_size=1, max_size=200),
    st.integers(1, 16),
    st.integers(0, 3),
)
def test_each_example_comes_once_an_epoch(lengths: list[int], batch: int, epoch: int) -> None:
    sequences = ExampleSequences(encoded(lengths), batch, seed=1)
    assert sorted(order(sequences, epoch)) == list(range(len(lengths)))


def test_epochs_and_seeds_differ() -> None:
    lengths = np.random.default_rng(0).integers(4, 60, 300).tolist()
    orders = [
        order(ExampleSequences(encoded(lengths), 8, seed), epoch)
        for seed, epoch in ((1, 0), (1, 1), (2, 0))
    ]
    assert orders[0] == order(ExampleSequences(encoded(lengths), 8, 1), 0)
    assert len({tuple(found) for found in orders}) == 3


def test_examples_of_like_length_go_together_and_lengths_come_mixed() -> None:
    lengths = np.random.default_rng(0).integers(4, 200, 1000)
    sequences = ExampleSequences(encoded(lengths.tolist()), 10, seed=3)
    batches = lengths[np.asarray(order(sequences, 0))].reshape(-1, 10)
    padded = 10 * batches.max(axis=1).sum()
    assert padded / lengths.sum() < 1.1  # drawn without sorting: 1.8
    # Batches do not go from short to long.
    assert abs(np.corrcoef(np.arange(100), batches.mean(axis=1))[0, 1]) < 0.3


@pytest.mark.parametrize("side", ["right", "left"])
def test_a_batch_is_padded_to_its_longest(side: str, tokenizer: Any) -> None:
    tokenizer.padding_side, before = side, tokenizer.padding_side
    try:
        examples = EncodedExamples(
            [np.asarray([7, 8], dtype=np.int32), np.asarray([9, 9, 9], dtype=np.int32)],
            tokenizer, True,
            [np.asarray([0, 1], dtype=np.int32), np.asarray([0, 1, 1], dtype=np.int32)],
            np.asarray([1, 0]), np.asarray([0.5, 2.0], dtype=np.float32), 0,
        )  # fmt: skip
        batch = examples.batch(np.asarray([0, 1]))
    finally:
        tokenizer.padding_side = before
    pad = tokenizer.pad_token_id
    rows = {
        "right": ([7, 8, pad], [1, 1, 0], [0, 1, 0]),
        "left": ([pad, 7, 8], [0, 1, 1], [0, 0, 1]),
    }
    names = ("input_ids", "attention_mask", "token_type_ids")
    assert tuple(batch.inputs[name][0].tolist() for name in names) == rows[side]
    assert batch.labels.tolist() == [1, 0]
    assert batch.weights.tolist() == [0.5, 2.0]
    assert batch.num_targets == 2
