"""Several sequences in a row have the losses and gradients that they have in rows of their own."""

from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_masked_head import ARCHITECTURES, VOCAB_SIZE, gradients, make_model
from torch import nn

from mlmtune.masking.collator import IGNORE_INDEX, MaskedBatch
from mlmtune.masking.packed_batch import PackedBatch
from mlmtune.masking.places import Places
from mlmtune.modeling.losses import LOSS
from mlmtune.modeling.masked_head import MaskedHead
from mlmtune.modeling.packing import Packing
from mlmtune.modeling.varlen_attention import VARLEN

LENGTHS = (18, 3, 9, 11, 2, 7)
MIXES_NEIGHBOURS = {"mobilebert"}  # its embeddings are those of three tokens in a row
WITHOUT_SDPA = {"deberta-v2", "mpnet"}


class Tokenizer(SimpleNamespace):
    def __len__(self):
        return VOCAB_SIZE


def packing_of(model, head):
    tokenizer = Tokenizer(pad_token_id=model.config.pad_token_id, mask_token_id=4)
    loaded = SimpleNamespace(
        model=model, tokenizer=tokenizer, has_token_types=False, context_length=36
    )
    return Packing.if_possible(loaded, max(LENGTHS), partial(head.outputs, model))


def uneven_batch(model):
    torch.manual_seed(2)
    pad = model.config.pad_token_id
    is_token = torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]
    ids = torch.where(is_token, torch.randint(5, VOCAB_SIZE, is_token.shape), pad)
    masked = is_token.reshape(-1).nonzero().squeeze(1)[::3]
    labels = torch.full_like(ids, IGNORE_INDEX)
    labels.view(-1)[masked] = torch.randint(5, VOCAB_SIZE, (len(masked),))
    return MaskedBatch(
        ids, labels, masked, len(masked), is_token.long(), None,
        places=Places.padded(np.asarray(LENGTHS), max(LENGTHS)),
    )  # fmt: skip


def settings_of(model_type):
    settings = dict(ARCHITECTURES[model_type])
    if model_type == "mpnet":
        settings["pad_token_id"] = 1  # which MPNet's positions take for granted
    if model_type == "modernbert":
        settings |= {"local_attention": 4, "global_attn_every_n_layers": 2}
    return settings


@pytest.mark.parametrize(
    ("model_type", "implementation"),
    [
        (model_type, implementation)
        for model_type in ARCHITECTURES
        for implementation in ("eager", "sdpa", VARLEN)
        if model_type not in MIXES_NEIGHBOURS
        and (implementation == "eager" or model_type not in WITHOUT_SDPA)
    ],
)
def test_losses_and_gradients_equal_those_of_the_padded_batch(model_type, implementation):
    model = make_model(model_type, settings_of(model_type))
    model.set_attn_implementation(implementation)
    head, batch = MaskedHead(model, VOCAB_SIZE), uneven_batch(model)
    head.packing = packing_of(model, head)
    packed = head.packed(batch)
    assert isinstance(packed, PackedBatch)
    assert packed.input_ids.numel() < 0.55 * batch.input_ids.numel()

    expected = head.losses(model, batch).terms[LOSS]
    expected_gradients = gradients(model, expected)
    loss = head.losses(model, packed).terms[LOSS]
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    for name, gradient in gradients(model, loss).items():
        scale = expected_gradients[name].abs().max().clamp(min=1.0)
        assert (gradient - expected_gradients[name]).abs().max() <= 1e-5 * scale, name


@pytest.mark.parametrize("model_type", MIXES_NEIGHBOURS)
def test_an_architecture_that_mixes_neighbours_stays_padded(model_type):
    model = make_model(model_type, settings_of(model_type))
    head = MaskedHead(model, VOCAB_SIZE)
    head.packing = packing_of(model, head)
    batch = uneven_batch(model)
    assert head.packing is None
    assert head.packed(batch) is batch
    assert model.training is False


def test_a_batch_of_full_sequences_is_not_touched():
    model = make_model("bert", settings_of("bert"))
    head = MaskedHead(model, VOCAB_SIZE)
    head.packing = packing_of(model, head)
    ids = torch.full((3, 8), 7)
    batch = MaskedBatch(ids, ids, torch.tensor([1]), 1, None, None)
    assert head.packed(batch) is batch


@pytest.mark.parametrize("implementation", ["sdpa", VARLEN])
def test_attention_by_borders_needs_no_mask_of_padding_either(implementation):
    model = make_model("modernbert", settings_of("modernbert"))
    model.set_attn_implementation(implementation)
    head, batch = MaskedHead(model, VOCAB_SIZE), uneven_batch(model)
    long = batch.places.lengths[[0, 0]] - [0, 1]  # no row has room for both
    two = replace(
        batch,
        input_ids=batch.input_ids[[0, 0]],
        attention_mask=(torch.arange(max(LENGTHS)) < torch.from_numpy(long)[:, None]).long(),
        labels=batch.labels[:2],
        masked_positions=batch.masked_positions[:5],
        num_masked_tokens=5,
        places=Places.padded(long, max(LENGTHS)),
    )
    expected = torch.cat([*head.outputs(model, two).logits()])
    head.packing = packing_of(model, head)
    packed = head.packed(two)
    assert isinstance(packed, PackedBatch) == (implementation == VARLEN)
    assert packed.input_ids.shape == two.input_ids.shape
    actual = torch.cat([*head.outputs(model, packed).logits()])
    assert torch.allclose(actual, expected, atol=1e-5)


def test_what_the_encoder_does_counts_where_a_new_head_says_nothing():
    """All logits of a head of zeros are equal, whatever the encoder has mixed."""
    model = make_model("mobilebert", settings_of("mobilebert"))
    for parameter in model.cls.predictions.transform.parameters():
        nn.init.zeros_(parameter)
    assert packing_of(model, MaskedHead(model, VOCAB_SIZE)) is None
