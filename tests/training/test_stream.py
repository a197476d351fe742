"""The endless stream: a step's batch is a function of its number, however it is shared."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from mlmtune.config import ChunkingConfig, MaskingConfig, OptimizerConfig
from mlmtune.masking.collator import IGNORE_INDEX, MaskedBatch, MaskingCollator
from mlmtune.tokens.chunking import ChunkView
from mlmtune.tokens.mixing import Mixture
from mlmtune.tokens.sequences import ChunkSequences
from mlmtune.tokens.special_tokens import SpecialTokens
from mlmtune.training.masked_lm import MaskedSequences
from mlmtune.training.plan import Phase, Plan
from mlmtune.training.stream import TrainingStream

BATCH = 8
NUM_CHUNKS = 29  # no multiple of the batch: epochs end within a batch
STEPS_OF_THREE_EPOCHS = -(-3 * NUM_CHUNKS // BATCH)


@pytest.fixture(scope="module")
def view(tokenizer: Any, make_store: Callable[..., Any]) -> ChunkView:
    """Chunks of different lengths, each with a content of its own."""
    draw = np.random.default_rng(0)
    documents = [draw.integers(10, 150, size=5 + number % 10) for number in range(NUM_CHUNKS)]
    return ChunkView.of(
        make_store(documents),
        np.arange(NUM_CHUNKS),
        ChunkingConfig(chunk_length=16, mode="per_document"),
        SpecialTokens.of(tokenizer),
        tokenizer.pad_token_id,
    )


@pytest.fixture(scope="module")
def stream(view: ChunkView, tokenizer: Any) -> Callable[..., TrainingStream]:
    assert len(view) == NUM_CHUNKS
    collator = MaskingCollator(
        tokenizer, MaskingConfig(mlm_probability=0.3), with_token_type_ids=True
    )

    def make(
        num_processes: int = 1,
        micro: int = BATCH,
        process: int = 0,
        seed: int = 1,
        times: int = 1,
    ) -> TrainingStream:
        whole = np.asarray([NUM_CHUNKS])
        mixture = Mixture(whole, times * whole, times * view.num_tokens, whole)
        phase = Phase("", len(mixture), view.num_tokens, BATCH, 100, OptimizerConfig())
        plan = Plan((phase,), micro_batch_size=micro, num_processes=num_processes)
        unmasked = ChunkSequences(view, mixture, seed)
        sequences = MaskedSequences(unmasked, collator, lambda batch: batch, 0.3, phase.num_steps)
        return TrainingStream([sequences], plan, seed=seed, process_index=process)

    return make


Row = tuple[tuple[int, ...], tuple[int, ...]]


def rows(batches: list[MaskedBatch]) -> list[Row]:
    """What the model sees and what it predicts, by sequence, without the padding."""
    found = []
    for batch in batches:
        present = (
            torch.ones_like(batch.input_ids)
            if batch.attention_mask is None
            else batch.attention_mask
        ).bool()
        for ids, labels, inside in zip(batch.input_ids, batch.labels, present, strict=True):
            assert (labels[~inside] == IGNORE_INDEX).all()
            found.append((tuple(ids[inside].tolist()), tuple(labels[inside].tolist())))
    return found


def originals(found: list[Row]) -> list[tuple[int, ...]]:
    return [
        tuple(
            seen if label == IGNORE_INDEX else label
            for seen, label in zip(ids, labels, strict=True)
        )
        for ids, labels in found
    ]


def test_each_epoch_is_a_permutation_of_all_chunks(
    view: ChunkView, stream: Callable[..., TrainingStream]
) -> None:
    everything = view.batch(np.arange(NUM_CHUNKS))
    chunks = [
        tuple(ids[:length].tolist())
        for ids, length in zip(everything.input_ids, everything.lengths, strict=True)
    ]
    seen = [
        chunk
        for step in range(STEPS_OF_THREE_EPOCHS)
        for chunk in originals(rows(stream().micro_batches(step)))
    ]
    epochs = [seen[start : start + NUM_CHUNKS] for start in range(0, 3 * NUM_CHUNKS, NUM_CHUNKS)]
    for epoch in epochs:
        assert sorted(epoch) == sorted(chunks)
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]
    assert epochs[0] != chunks


def test_repeats_within_an_epoch_have_masks_of_their_own(
    stream: Callable[..., TrainingStream],
) -> None:
    times = 3
    taken = [
        row
        for step in range(-(-times * NUM_CHUNKS // BATCH))
        for row in rows(stream(times=times).micro_batches(step))
    ][: times * NUM_CHUNKS]
    masks: dict[tuple[int, ...], set[Row]] = {}
    for original, row in zip(originals(taken), taken, strict=True):
        masks.setdefault(original, set()).add(row)
    assert len(masks) == NUM_CHUNKS
    # The shortest chunks have 5 words, of which now and then none is selected twice.
    assert sum(map(len, masks.values())) > 0.9 * len(taken)
    once = rows(stream().micro_batches(0))
    assert set(originals(once)) <= set(masks)


def test_masks_are_drawn_anew_each_epoch(stream: Callable[..., TrainingStream]) -> None:
    taken = [row for step in range(STEPS_OF_THREE_EPOCHS) for row in rows(
        stream().micro_batches(step))]  # fmt: skip
    first = dict(zip(originals(taken[:NUM_CHUNKS]), taken[:NUM_CHUNKS], strict=True))
    second = taken[NUM_CHUNKS : 2 * NUM_CHUNKS]
    same = [row == first[chunk] for chunk, row in zip(originals(second), second, strict=True)]
    assert sum(same) < NUM_CHUNKS / 3


@pytest.mark.parametrize(
    ("num_processes", "micro"),
    [(1, 8), (1, 4), (1, 3), (1, 1), (2, 4), (2, 3), (3, 3), (3, 2), (5, 1), (8, 1)],
)
def test_processes_and_micro_batches_only_share_the_same_batch(
    stream: Callable[..., TrainingStream], num_processes: int, micro: int
) -> None:
    for step in (0, 3, 11):  # 3 spans the end of the first epoch
        whole = rows(stream().micro_batches(step))
        shared = []
        for process in range(num_processes):
            batches = stream(num_processes, micro, process).micro_batches(step)
            assert batches
            assert all(1 <= len(batch.input_ids) <= micro for batch in batches)
            shared += rows(batches)
        assert shared == whole


def test_a_batch_does_not_depend_on_earlier_calls(stream: Callable[..., TrainingStream]) -> None:
    used = stream()
    for step in (7, 0, 3):
        used.micro_batches(step)
    assert rows(used.micro_batches(5)) == rows(stream().micro_batches(5))
    assert rows(used.micro_batches(5)) == rows(used.micro_batches(5))


def test_another_seed_gives_another_order_and_other_masks(
    stream: Callable[..., TrainingStream],
) -> None:
    steps = range(-(-NUM_CHUNKS // BATCH))
    one = [r for s in steps for r in rows(stream(seed=1).micro_batches(s))][:NUM_CHUNKS]
    two = [r for s in steps for r in rows(stream(seed=2).micro_batches(s))][:NUM_CHUNKS]
    assert originals(one) != originals(two)
    assert sorted(originals(one)) == sorted(originals(two))
    assert len(set(one) & set(two)) < NUM_CHUNKS / 3


@pytest.mark.parametrize("num_processes", [1, 3])
def test_num_tokens_counts_all_processes_and_no_padding(
    stream: Callable[..., TrainingStream], num_processes: int
) -> None:
    for step in (0, 3):
        whole = rows(stream().micro_batches(step))
        for process in range(num_processes):
            counted = stream(num_processes, 2, process).num_tokens(step)
            assert counted == sum(len(ids) for ids, _ in whole)


def test_a_sequence_has_its_dropout_key_in_whatever_process_and_micro_batch(
    stream: Callable[..., TrainingStream],
) -> None:
    whole = stream(1, BATCH).dropout_keys(3, 0)
    assert len(set(whole.tolist())) == BATCH
    parts = []
    for process in range(2):
        share = stream(2, 2, process)
        num_micro_batches = len(share.micro_batches(3))
        parts += [share.dropout_keys(3, micro) for micro in range(num_micro_batches)]
    assert np.array_equal(np.concatenate(parts), whole)
    assert not np.isin(stream(1, BATCH).dropout_keys(4, 0), whole).any()


def test_generator_seeds_are_all_different(stream: Callable[..., TrainingStream]) -> None:
    processes = [stream(2, 1, process) for process in range(2)]
    seeds = [
        made.generator_seed(step, micro)
        for step in range(20)
        for micro in range(4)
        for made in processes
    ]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert seeds[0] != stream(seed=2).generator_seed(0, 0)


def test_batches_that_were_prepared_are_the_same(stream: Callable[..., TrainingStream]) -> None:
    prepared = stream()
    prepared.prepare(2)
    for step in (2, 2, 3):  # once from what was prepared, and then without
        assert rows(prepared.micro_batches(step)) == rows(stream().micro_batches(step))
