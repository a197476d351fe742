from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional

from mlmtune.masking.collator import MaskedBatch
from mlmtune.modeling.losses import LOSS
from mlmtune.modeling.masked_head import MaskedHead
from mlmtune.modeling.output_layer import LOGITS_AT_ONCE

VOCAB_SIZE = 99
SIZES = {
    "vocab_size": VOCAB_SIZE, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
    "intermediate_size": 24, "max_position_embeddings": 40, "pad_token_id": 0,
}  # fmt: skip
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}

# model type -> its config, apart from AutoConfig's defaults
ARCHITECTURES = {
    "bert": SIZES | NO_DROPOUT,
    "distilbert": {
        "vocab_size": VOCAB_SIZE, "dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 24,
        "max_position_embeddings": 40, "dropout": 0.0, "attention_dropout": 0.0,
    },
    "roberta": SIZES | NO_DROPOUT,
    "albert": SIZES | NO_DROPOUT | {"embedding_size": 8},
    "electra": SIZES | NO_DROPOUT | {"embedding_size": 8},
    "deberta-v2": SIZES | NO_DROPOUT | {
        "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_biased_input": False,
    },
    "modernbert": SIZES | {
        "cls_token_id": 2, "bos_token_id": 2, "sep_token_id": 3, "eos_token_id": 3,
    },
    "mpnet": SIZES | NO_DROPOUT,
    "mobilebert": SIZES | NO_DROPOUT | {
        "embedding_size": 8, "intra_bottleneck_size": 8, "true_hidden_size": 8,
    },
}  # fmt: skip

# MobileBERT multiplies by two matrices together.
WITHOUT_OUTPUT_LAYER = {"mobilebert"}

# The vocabulary-wide head is not the last thing these do with the encoder's output.
OTHER_ARCHITECTURES = {
    "perceiver": {
        "vocab_size": VOCAB_SIZE, "d_model": 16, "d_latents": 16, "num_latents": 4,
        "num_blocks": 1, "num_self_attends_per_block": 1, "num_self_attention_heads": 2,
        "num_cross_attention_heads": 2, "max_position_embeddings": 12,
        "attention_probs_dropout_prob": 0.0,
    },
}  # fmt: skip
BART = {
    "vocab_size": VOCAB_SIZE, "d_model": 16, "encoder_layers": 1, "decoder_layers": 1,
    "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 16,
    "decoder_ffn_dim": 16, "max_position_embeddings": 40, "dropout": 0.0,
}  # fmt: skip


def make_model(model_type, settings):
    from transformers import AutoConfig, AutoModelForMaskedLM

    torch.manual_seed(0)
    config = AutoConfig.for_model(model_type, **settings)
    model = AutoModelForMaskedLM.from_config(config, attn_implementation="eager")
    # Weights as drawn give logits so alike that mixed-up rows could pass for right.
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model.eval()


def make_batch(num_masked=9, padded=True):
    torch.manual_seed(1)
    ids = torch.randint(5, VOCAB_SIZE, (3, 12))
    attention_mask = None
    if padded:
        attention_mask = torch.ones_like(ids)
        attention_mask[1, 7:] = 0
        ids[1, 7:] = 0
    places = torch.randperm(3 * 12)
    places = places[~((places >= 19) & (places < 24))][:num_masked].sort().values
    labels = torch.full_like(ids, -100)
    labels.view(-1)[places] = torch.randint(5, VOCAB_SIZE, (num_masked,))
    return MaskedBatch(ids, labels, places, num_masked, attention_mask, None)


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def dense_logits(model, batch):
    logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
    return logits.reshape(-1, VOCAB_SIZE)[batch.masked_positions]


def logits_of(head, model, batch):
    return torch.cat([*head.outputs(model, batch).logits()])


def summed_loss(logits, batch):
    labels = batch.labels.reshape(-1)[batch.masked_positions]
    return functional.cross_entropy(logits, labels, reduction="sum")


@pytest.mark.parametrize("rows_at_once", [9, 4], ids=["whole", "in chunks"])
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_logits_loss_and_gradients_equal_those_of_the_whole_head(
    model_type, training, rows_at_once, monkeypatch
):
    monkeypatch.setitem(LOGITS_AT_ONCE, "cpu", rows_at_once * VOCAB_SIZE)
    model, batch = make_model(model_type, ARCHITECTURES[model_type]), make_batch()
    model.train(training)
    expected = dense_logits(model, batch)
    expected_loss = summed_loss(expected, batch)
    expected_gradients = gradients(model, 0.3 * expected_loss)

    head = MaskedHead(model, VOCAB_SIZE)
    assert head.is_sparse
    assert (head.output_layer is None) is (model_type in WITHOUT_OUTPUT_LAYER)
    assert model.training is training
    logits = logits_of(head, model, batch)
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)
    assert max(map(len, head.outputs(model, batch).logits())) <= rows_at_once
    loss = head.losses(model, batch).terms[LOSS]
    torch.testing.assert_close(loss, expected_loss, rtol=1e-6, atol=0)
    with torch.no_grad():
        torch.testing.assert_close(head.losses(model, batch).terms[LOSS], loss, rtol=1e-6, atol=0)
    actual_gradients = gradients(model, 0.3 * loss)
    assert actual_gradients.keys() == expected_gradients.keys()
    for name, expected_gradient in expected_gradients.items():
        scale = expected_gradient.abs().max().clamp(min=1.0)
        difference = (actual_gradients[name] - expected_gradient).abs().max()
        assert difference <= 3e-6 * scale, name


@pytest.mark.parametrize("model_type", ["bert", "distilbert"])
@pytest.mark.parametrize(("precision", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.half)])
def test_chunks_in_16_bits_are_as_exact_as_the_whole(model_type, precision, dtype, monkeypatch):
    """The reference is fp32; what autocast gives on the whole head may be off by as much."""
    monkeypatch.setitem(LOGITS_AT_ONCE, "cpu", 4 * VOCAB_SIZE)
    model, batch = make_model(model_type, ARCHITECTURES[model_type]), make_batch()
    head = MaskedHead(model, VOCAB_SIZE, precision)

    def off_by(loss, others):
        found = gradients(model, loss)
        return {name: (found[name] - others[name]).norm() / others[name].norm() for name in found}

    exact = gradients(model, summed_loss(dense_logits(model, batch), batch))
    with torch.autocast("cpu", dtype=dtype):
        dense = dense_logits(model, batch)
        outputs = head.outputs(model, batch)
    of_whole = off_by(summed_loss(dense.float(), batch), exact)
    of_chunks = off_by(outputs.summed_loss(batch.masked_labels()), exact)
    assert sum(of_chunks.values()) <= 1.2 * sum(of_whole.values())


def test_the_head_is_run_on_masked_positions_only():
    model, seen = make_model("bert", ARCHITECTURES["bert"]), []
    head = MaskedHead(model, VOCAB_SIZE)
    model.cls.register_forward_hook(lambda module, args, output: seen.append(output.shape))
    head.outputs(model, make_batch())
    assert seen == [(1, 9, 16)]  # what the output layer takes


@pytest.mark.parametrize("model_type", ["bert", "modernbert"])
def test_an_ordinary_forward_call_is_as_before(model_type):
    model, batch = make_model(model_type, ARCHITECTURES[model_type]), make_batch(padded=False)
    before = model(input_ids=batch.input_ids).logits
    head = MaskedHead(model, VOCAB_SIZE)
    assert torch.equal(model(input_ids=batch.input_ids).logits, before)
    head.outputs(model, batch)
    assert torch.equal(model(input_ids=batch.input_ids).logits, before)
    with_tuple = model(input_ids=batch.input_ids, return_dict=False)
    assert torch.equal(with_tuple[0], before)


def test_a_failed_call_has_no_effect_on_the_next():
    model, batch = make_model("bert", ARCHITECTURES["bert"]), make_batch(padded=False)
    head = MaskedHead(model, VOCAB_SIZE)
    too_long = replace(batch, input_ids=torch.full((1, 50), 7))
    with pytest.raises((RuntimeError, IndexError)):
        head.outputs(model, too_long)
    assert model(input_ids=batch.input_ids).logits.shape == (3, 12, VOCAB_SIZE)


@pytest.mark.parametrize("model_type", ["bert", "mobilebert"])
def test_a_batch_without_masked_tokens_has_a_loss_of_zero_with_gradients(model_type):
    """A process whose micro-batch has none must take part in the backward pass all the same."""
    model, batch = make_model(model_type, ARCHITECTURES[model_type]), make_batch(num_masked=0)
    loss = MaskedHead(model, VOCAB_SIZE).losses(model, batch).terms[LOSS]
    assert loss == 0
    found = gradients(model, loss)
    assert found.keys() == {name for name, _ in model.named_parameters()}
    assert all((gradient == 0).all() for gradient in found.values())


@pytest.mark.parametrize("model_type", OTHER_ARCHITECTURES)
def test_an_architecture_that_does_not_allow_it_runs_the_whole_head(model_type):
    model, batch = make_model(model_type, OTHER_ARCHITECTURES[model_type]), make_batch()
    expected = dense_logits(model, batch)
    head = MaskedHead(model, VOCAB_SIZE)
    assert not head.is_sparse
    torch.testing.assert_close(logits_of(head, model, batch), expected, rtol=1e-5, atol=1e-5)


def test_an_encoder_with_a_decoder_has_the_right_logits_either_way():
    model, batch = make_model("bart", BART), make_batch()
    expected = dense_logits(model, batch)
    torch.testing.assert_close(
        logits_of(MaskedHead(model, VOCAB_SIZE), model, batch), expected, rtol=1e-5, atol=1e-5
    )


class Encoder(nn.Module):
    def __init__(self, as_tuple):
        super().__init__()
        self.embeddings = nn.Embedding(VOCAB_SIZE, 8)
        self.as_tuple = as_tuple

    def forward(self, input_ids):
        hidden = self.embeddings(input_ids)
        return (hidden, "more") if self.as_tuple else Output(last_hidden_state=hidden)


class Output(SimpleNamespace):
    def __getitem__(self, place):
        return [self.last_hidden_state][place]


class Model(nn.Module):
    """A head that sees one row at a time, or one that looks at neighbouring rows."""

    def __init__(self, looks_around=False, as_tuple=False, after=None):
        super().__init__()
        torch.manual_seed(0)
        self.base_model = Encoder(as_tuple)
        self.head = nn.Linear(8, VOCAB_SIZE)
        self.looks_around = looks_around
        self.after = after or (lambda logits: logits)

    def get_output_embeddings(self):
        return self.head

    def forward(self, input_ids, attention_mask=None):
        hidden = self.base_model(input_ids)[0]
        if self.looks_around:
            hidden = hidden + hidden.mean(dim=1, keepdim=True)
        return SimpleNamespace(logits=self.after(self.head(hidden)))


@pytest.mark.parametrize("as_tuple", [False, True])
def test_encoders_that_return_tuples_or_records_are_both_cut(as_tuple):
    model, batch = Model(as_tuple=as_tuple), make_batch()
    expected = dense_logits(model, batch)
    head = MaskedHead(model, VOCAB_SIZE)
    assert head.is_sparse
    torch.testing.assert_close(logits_of(head, model, batch), expected)


def test_a_head_that_looks_at_neighbours_is_found_out():
    """Its logits have the right shape on masked positions alone, and the wrong values."""
    model, batch = Model(looks_around=True), make_batch()
    expected = dense_logits(model, batch)
    head = MaskedHead(model, VOCAB_SIZE)
    assert not head.is_sparse
    torch.testing.assert_close(logits_of(head, model, batch), expected)


@pytest.mark.parametrize(
    "after",
    [lambda logits: 1e3 * torch.tanh(logits / 1e3), lambda logits: logits + 0.0, torch.relu],
    ids=["soft cap", "bias of zeros", "relu"],
)
def test_logits_that_are_changed_after_the_output_layer_are_computed_whole(after):
    """A soft cap and a bias of zeros do not change the logits of a probe."""
    model, batch = Model(after=after), make_batch()
    expected = dense_logits(model, batch)
    head = MaskedHead(model, VOCAB_SIZE)
    assert head.is_sparse
    assert head.output_layer is None
    torch.testing.assert_close(logits_of(head, model, batch), expected)
