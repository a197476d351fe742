import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mlmtune.config import ChunkingConfig, MaskingConfig
from mlmtune.errors import ConfigError
from mlmtune.masking.collator import COUNT_MULTIPLE, IGNORE_INDEX, MaskingCollator
from mlmtune.masking.selection import STRATEGIES
from mlmtune.randomness import key
from mlmtune.tokens.chunking import ChunkView
from mlmtune.tokens.special_tokens import SpecialTokens

LENGTHS = [37, 3, 55, 8, 21, 16, 90, 1]


@pytest.fixture(scope="session")
def view(make_store, tokenizer):
    draw = np.random.default_rng(0)
    documents = [draw.integers(10, len(tokenizer), length).tolist() for length in LENGTHS]
    config = ChunkingConfig(chunk_length=16, mode="per_document")
    special = SpecialTokens.of(tokenizer)
    return ChunkView.of(make_store(documents), np.arange(len(LENGTHS)), config, special, 0)


@pytest.fixture(scope="session")
def collate(tokenizer):
    def collate_chunks(chunks, keys, with_token_type_ids=False, padded=False, **settings):
        collator = MaskingCollator(
            tokenizer,
            MaskingConfig(**settings),
            with_token_type_ids=with_token_type_ids,
            is_for_compiled_model=padded,
        )
        return collator(chunks, keys, settings.get("mlm_probability", 0.15))

    return collate_chunks


@pytest.mark.parametrize("strategy", STRATEGIES)
@given(seed=st.integers(0, 2**63), rate=st.floats(0.01, 1.0), data=st.data())
def test_the_laws_of_a_masked_batch(view, collate, tokenizer, strategy, seed, rate, data):
    chosen = np.asarray(data.draw(st.lists(st.integers(0, len(view) - 1), min_size=1, max_size=9)))
    chunks = view.batch(chosen)
    batch = collate(chunks, key(seed, chosen), mlm_probability=rate, strategy=strategy)
    ids, labels = batch.input_ids.numpy(), batch.labels.numpy()
    selected = labels != IGNORE_INDEX

    assert ids.shape == labels.shape == chunks.input_ids.shape
    assert not (selected & chunks.special_tokens_mask).any()
    assert np.array_equal(labels[selected], chunks.input_ids[selected])
    assert np.array_equal(ids[~selected], chunks.input_ids[~selected])
    assert not np.isin(ids[selected & (ids != 4)], tokenizer.all_special_ids).any()
    assert np.array_equal(batch.masked_positions.numpy(), np.flatnonzero(selected))
    assert batch.num_masked_tokens == selected.sum()


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_unknown_tokens_are_neither_predicted_nor_drawn(make_store, tokenizer, collate, strategy):
    """Every second token is [UNK], in one document all of them."""
    unknown, known = tokenizer.unk_token_id, tokenizer.convert_tokens_to_ids("azure")
    documents = [[unknown, known] * 20, [unknown] * 40]
    config = ChunkingConfig(chunk_length=64, mode="per_document")
    view = ChunkView.of(make_store(documents), np.arange(2), config, SpecialTokens.of(tokenizer), 0)
    chunks = view.batch(np.arange(2))
    batch = collate(
        chunks, key(0, np.arange(2)), strategy=strategy, mlm_probability=1.0,
        mask_replace_prob=0.0, random_replace_prob=1.0,
    )  # fmt: skip
    labels = batch.labels.numpy()
    assert set(labels[0].tolist()) == {IGNORE_INDEX, known}
    assert batch.num_masked_tokens == 20
    assert (labels[1] == IGNORE_INDEX).all()
    drawn = batch.input_ids.numpy()[labels != IGNORE_INDEX]
    assert unknown not in drawn


@given(seed=st.integers(0, 2**63), rate=st.floats(0.01, 1.0), size=st.integers(1, 40))
def test_padding_the_positions_adds_only_what_is_not_predicted(view, collate, seed, rate, size):
    chosen = np.arange(size) % len(view)
    chunks, keys = view.batch(chosen), key(seed, np.arange(size))
    plain = collate(chunks, keys, mlm_probability=rate)
    padded = collate(chunks, keys, mlm_probability=rate, padded=True)
    num_masked = plain.num_masked_tokens
    assert padded.num_masked_tokens == num_masked
    assert torch.equal(padded.labels, plain.labels)
    assert torch.equal(padded.masked_positions[:num_masked], plain.masked_positions)
    assert torch.equal(padded.masked_labels()[:num_masked], plain.masked_labels())
    assert (padded.masked_labels()[num_masked:] == IGNORE_INDEX).all()
    count = len(padded.masked_positions)
    assert count % COUNT_MULTIPLE == 0 or count == plain.labels.numel()


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_padded_counts_are_the_same_for_batches_of_one_shape(view, collate, strategy):
    chunks = view.batch(np.arange(len(view)).repeat(50))
    starts = np.random.default_rng(0).random(chunks.word_starts.shape) < 0.5
    chunks = replace(chunks, word_starts=(starts | chunks.word_starts[:, :1]) & chunks.word_starts)
    counts = {
        len(
            collate(
                chunks, key(seed, np.arange(50 * len(view))), padded=True, strategy=strategy
            ).masked_positions
        )
        for seed in range(50)
    }
    assert len(counts) == 1


def test_a_moving_rate_is_padded_up_to_its_highest(view, collate, tokenizer):
    chunks, keys = view.batch(np.arange(len(view)).repeat(50)), key(0, np.arange(50 * len(view)))
    collator = MaskingCollator(
        tokenizer,
        MaskingConfig(mlm_probability={"start": 0.1, "end": 0.4}),
        with_token_type_ids=False,
        is_for_compiled_model=True,
    )
    counts = {len(collator(chunks, keys, rate).masked_positions) for rate in (0.1, 0.25, 0.4)}
    assert len(counts) == 1


def test_pairs_bring_their_token_types_and_labels(view, collate):
    chunks, keys = view.batch(np.arange(3)), key(0, np.arange(3))
    types = np.zeros_like(chunks.input_ids)
    types[:, 5:] = 1
    pairs = replace(chunks, token_type_ids=types, pair_labels=np.asarray([0, 1, 1]))
    batch = collate(pairs, keys, with_token_type_ids=True)
    assert batch.token_type_ids.tolist() == types.tolist()
    assert batch.pair_labels.tolist() == [0, 1, 1]
    assert batch.to(torch.device("meta")).pair_labels.device.type == "meta"
    assert collate(pairs, keys).token_type_ids is None
    assert collate(chunks, keys).pair_labels is None


@given(seed=st.integers(0, 2**63), data=st.data())
def test_the_same_keys_give_the_same_masks_in_any_batch(view, collate, seed, data):
    """Batches of other chunks are padded to other lengths, too."""
    chosen = np.asarray(data.draw(st.lists(st.integers(0, len(view) - 1), min_size=1, max_size=9)))
    together = collate(view.batch(chosen), key(seed, chosen))
    for row, chunk in enumerate(chosen):
        chunks = view.batch(np.asarray([chunk]))
        alone, length = collate(chunks, key(seed, chunk)), int(chunks.lengths[0])
        assert torch.equal(alone.input_ids[0], together.input_ids[row, :length])
        assert torch.equal(alone.labels[0], together.labels[row, :length])
        assert (together.labels[row, length:] == IGNORE_INDEX).all()


def test_the_strategys_rate_and_shares_come_from_the_config(view, collate):
    chunks = view.batch(np.arange(len(view)))
    keys = key(1, np.arange(len(view)))
    everything = collate(
        chunks, keys, mlm_probability=1.0, mask_replace_prob=1.0, random_replace_prob=0.0
    )
    assert everything.num_masked_tokens == sum(LENGTHS)
    assert (everything.input_ids.reshape(-1)[everything.masked_positions] == 4).all()
    kept = collate(chunks, keys, mlm_probability=1.0, mask_replace_prob=0.0,
                   random_replace_prob=0.0)  # fmt: skip
    assert np.array_equal(kept.input_ids.numpy(), chunks.input_ids)
    assert kept.num_masked_tokens == sum(LENGTHS)


def test_attention_is_masked_at_padding_and_only_where_there_is_some(view, collate):
    lengths = view.lengths(np.arange(len(view)))
    full = np.flatnonzero(lengths == 16)
    for padded in (False, True):  # a mask of ones would rule out the flash kernel
        assert collate(view.batch(full), key(0, full), padded=padded).attention_mask is None
    mixed = np.asarray([full[0], int(np.argmin(lengths))])
    mask = collate(view.batch(mixed), key(0, mixed)).attention_mask
    assert mask.dtype == torch.int64
    assert mask.sum(1).tolist() == lengths[mixed].tolist() == [16, 3]
    assert mask[1].tolist() == [1] * 3 + [0] * 13


def test_token_types_are_given_where_they_are_asked_for(view, collate):
    chunks, keys = view.batch(np.arange(3)), key(0, np.arange(3))
    without = collate(chunks, keys)
    assert without.token_type_ids is None
    with_types = collate(chunks, keys, with_token_type_ids=True)
    assert torch.equal(with_types.token_type_ids, torch.zeros_like(with_types.input_ids))
    assert set(without.model_inputs()) == {"input_ids", "attention_mask"}
    assert set(with_types.model_inputs()) == {"input_ids", "attention_mask", "token_type_ids"}


def test_a_batch_moves_whole(view, collate):
    moved = collate(view.batch(np.arange(3)), key(0, np.arange(3))).to(torch.device("meta"))
    assert moved.token_type_ids is None
    for tensor in (moved.input_ids, moved.labels, moved.masked_positions, moved.attention_mask):
        assert tensor.device.type == "meta"


def test_a_tokenizer_without_a_mask_token_is_refused(tokenizer):
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.mask_token = None
    with pytest.raises(ConfigError, match="no mask token"):
        MaskingCollator(tokenizer, MaskingConfig(), with_token_type_ids=False)
