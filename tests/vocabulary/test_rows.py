"""New entries have rows in the embeddings, the output layer and its bias of any architecture."""

import numpy as np
import pytest
import torch
import transformers
from transformers import AutoModelForMaskedLM

from mlmtune.errors import ConfigError
from mlmtune.vocabulary.rows import extend_rows

OLD, NEW = 90, 128
PIECES = {7: (20, 21), 90: (30, 31, 32), 91: (40,), 92: (50, 50, 60)}
"""One of them was an unused entry."""

SIZES = {
    "vocab_size": OLD, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
    "intermediate_size": 24, "max_position_embeddings": 40, "pad_token_id": 0,
}  # fmt: skip
MODERN = {"bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}
CONFIGS = {
    "BERT": ("Bert", SIZES),
    "BERT, untied": ("Bert", SIZES | {"tie_word_embeddings": False}),
    "DistilBERT": (
        "DistilBert",
        {"vocab_size": OLD, "dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 24,
         "max_position_embeddings": 40},
    ),
    "RoBERTa": ("Roberta", SIZES),
    "RoBERTa, untied": ("Roberta", SIZES | {"tie_word_embeddings": False}),
    "ALBERT": ("Albert", SIZES | {"embedding_size": 8}),
    "ELECTRA": ("Electra", SIZES | {"embedding_size": 8}),
    "MPNet": ("MPNet", SIZES),
    "DeBERTa": ("DebertaV2", SIZES),
    "DeBERTa, legacy: false": ("DebertaV2", SIZES | {"legacy": False}),
    "ModernBERT": ("ModernBert", SIZES | MODERN),
    "ModernBERT, decoder without bias": ("ModernBert", SIZES | MODERN | {"decoder_bias": False}),
}  # fmt: skip


@pytest.fixture(params=CONFIGS)
def model(request):
    family, settings = CONFIGS[request.param]
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**settings)
    model = AutoModelForMaskedLM.from_config(config).eval()
    with torch.no_grad():  # a trained head has biases
        for name, parameter in model.named_parameters():
            if parameter.shape == (OLD,) or name.endswith(".bias"):
                parameter.normal_()
    return model


def logits(model, ids):
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids])).logits


@pytest.mark.parametrize("init", ["subword_mean", "random"])
def test_what_is_saved_has_the_new_width_and_the_same_logits(model, tmp_path, init):
    extend_rows(model, PIECES, NEW, init)
    ids = [3, 7, 91, 60, 92]
    expected = logits(model, ids)
    assert expected.shape[-1] == NEW == model.config.vocab_size
    model.save_pretrained(tmp_path)
    loaded, report = AutoModelForMaskedLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["mismatched_keys"]
    assert torch.equal(logits(loaded.eval(), ids), expected)


def test_old_ids_keep_their_rows_and_logits(model):
    ids = [3, 20, 60, 89]
    expected = logits(model, ids)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    extend_rows(model, PIECES, NEW)
    kept = [id_ for id_ in range(OLD) if id_ not in PIECES]
    for name, tensor in model.state_dict().items():
        if tensor.shape == before[name].shape:
            assert torch.equal(tensor, before[name]), name
        else:
            assert torch.equal(tensor[kept], before[name][kept]), name
    assert torch.allclose(logits(model, ids)[..., kept], expected[..., kept], atol=1e-5)


def test_rows_start_from_the_mean_of_their_pieces(model):
    old = model.get_input_embeddings().weight.detach().clone()
    extend_rows(model, PIECES, NEW)
    new = model.get_input_embeddings().weight
    for id_, pieces in PIECES.items():
        rows = old[list(pieces)]
        assert torch.allclose(new[id_].norm(), rows.norm(dim=1).mean(), rtol=1e-5)
        cosine = torch.cosine_similarity(new[id_], rows.mean(0), dim=0)
        assert cosine.item() == pytest.approx(1.0, abs=1e-5)
    assert torch.allclose(new[93:], old.mean(0).expand(NEW - 93, -1), atol=1e-6)


def test_the_output_layer_starts_from_its_own_rows():
    torch.manual_seed(0)
    config = transformers.BertConfig(**SIZES, tie_word_embeddings=False)
    model = AutoModelForMaskedLM.from_config(config)
    decoder = model.get_output_embeddings()
    rows = decoder.weight.detach()[[30, 31, 32]].mean(0)
    extend_rows(model, PIECES, NEW)
    new = model.get_output_embeddings().weight[90]
    assert torch.cosine_similarity(new, rows, dim=0).item() == pytest.approx(1.0, abs=1e-5)
    assert not torch.allclose(new, model.get_input_embeddings().weight[90])


def test_a_bias_that_is_a_log_frequency_stays_one():
    model = AutoModelForMaskedLM.from_config(transformers.BertConfig(**SIZES))
    counts = np.random.default_rng(0).integers(1, 1000, NEW)
    with torch.no_grad():
        before = counts[:OLD].copy()  # what is now a new word was its pieces
        for id_, pieces in PIECES.items():
            np.add.at(before, list(pieces), counts[id_])
        model.get_output_embeddings().bias.copy_(torch.from_numpy(np.log(before + 1.0)))
    extend_rows(model, PIECES, NEW, token_counts=counts)
    bias = model.get_output_embeddings().bias.detach().numpy()
    assert np.allclose(bias[[*PIECES]], np.log(counts[[*PIECES]] + 1.0), rtol=1e-5)


def test_random_rows_depend_on_the_seed_and_the_id_alone(model):
    family = type(model)
    others = [family(model.config) for _ in range(3)]
    torch.manual_seed(1)
    extend_rows(others[0], PIECES, NEW, "random", seed=5)
    state = torch.random.get_rng_state()
    extend_rows(others[1], {91: (40,)}, NEW, "random", seed=5)
    assert torch.equal(torch.random.get_rng_state(), state)
    extend_rows(others[2], PIECES, NEW, "random", seed=6)
    first, second, third = (other.get_input_embeddings().weight[91] for other in others)
    assert torch.equal(first, second)
    assert not torch.allclose(first, third)
    drawn = others[0].get_input_embeddings().weight[[*PIECES]]
    assert 0.5 < drawn.std().item() / model.config.initializer_range < 1.5


def test_rows_that_suffice_are_only_set(model):
    extend_rows(model, {7: (20, 21)}, OLD)
    assert model.config.vocab_size == OLD
    assert logits(model, [7]).shape[-1] == OLD


def test_training_reaches_new_rows(model):
    extend_rows(model, PIECES, NEW)
    ids = torch.tensor([[3, 90, 92, 5]])
    model(input_ids=ids, labels=ids).loss.backward()
    assert model.get_input_embeddings().weight.grad[90].abs().sum() > 0


def test_a_head_that_cannot_grow_is_refused(monkeypatch):
    model = AutoModelForMaskedLM.from_config(transformers.BertConfig(**SIZES))
    forward = model.forward

    def narrow(**inputs):
        output = forward(**inputs)
        output.logits = output.logits[..., :OLD]
        return output

    monkeypatch.setattr(model, "forward", narrow)
    with pytest.raises(ConfigError, match="head of bert"):
        extend_rows(model, PIECES, NEW)
