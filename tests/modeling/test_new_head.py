"""A new head starts from the frequencies of the training tokens."""

import numpy as np
import pytest
import torch
import transformers
from transformers import BertConfig, BertForMaskedLM, BertModel

from mlmtune.config import ModelConfig
from mlmtune.modeling.loading import LoadedModel, ModelRequest, load_pretrained
from mlmtune.modeling.new_head import start_from_frequencies


def load(folder) -> LoadedModel:
    config = ModelConfig(name_or_path=str(folder))
    request = ModelRequest(config, 16, torch.device("cpu"), "fp32", seed=0)
    return load_pretrained(request, "mlm")


@pytest.fixture
def encoder_dir(tmp_path, tokenizer):
    """An encoder without a masked-LM head, with more embeddings than the tokenizer has tokens."""
    config = BertConfig(
        vocab_size=len(tokenizer) + 6,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
    )
    BertModel(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    return tmp_path


def test_a_new_head_predicts_the_frequencies_before_it_has_learned_anything(encoder_dir):
    loaded = load(encoder_dir)
    counts = np.random.default_rng(0).integers(0, 1000, loaded.model.config.vocab_size)
    assert start_from_frequencies(loaded, counts)
    bias = loaded.model.get_output_embeddings().bias
    expected = (counts + 1) / (counts + 1).sum()
    assert np.allclose(bias.detach().softmax(0).numpy(), expected, rtol=1e-5)
    # Tied in BERT: what is saved must be the same bias.
    assert loaded.model.cls.predictions.bias is bias


@pytest.mark.parametrize("version", ["Deberta", "DebertaV2"])
@pytest.mark.parametrize("legacy", [True, False])
def test_both_heads_of_deberta_start_from_the_frequencies(tmp_path, tokenizer, version, legacy):
    config = getattr(transformers, f"{version}Config")(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
        legacy=legacy,
    )
    getattr(transformers, f"{version}Model")(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded = load(tmp_path)
    counts = np.random.default_rng(0).integers(0, 1000, len(tokenizer))
    assert start_from_frequencies(loaded, counts)
    ids = torch.arange(5, 13)[None]
    before = loaded.model.eval()(input_ids=ids).logits
    with torch.no_grad():  # what is left of the logits is the bias
        loaded.model.get_input_embeddings().weight.zero_()
    expected = torch.from_numpy((counts + 1) / (counts + 1).sum()).log().float()
    logits = loaded.model(input_ids=ids).logits
    assert torch.allclose(logits, expected.expand_as(logits), atol=1e-5)
    assert not torch.equal(before, logits)


def test_a_head_of_the_checkpoint_stays_as_it_is(model_dir):
    loaded = load(model_dir)
    before = loaded.model.get_output_embeddings().bias.detach().clone()
    counts = np.arange(loaded.model.config.vocab_size)
    assert not start_from_frequencies(loaded, counts)
    assert torch.equal(loaded.model.get_output_embeddings().bias, before)
    reference = BertForMaskedLM.from_pretrained(model_dir)
    assert torch.equal(before, reference.get_output_embeddings().bias)
