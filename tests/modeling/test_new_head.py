"""A new head starts from the frequencies of the training tokens."""

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, BertModel

from mlmtune.config import ModelConfig
from mlmtune.modeling.loading import LoadedModel, load_pretrained, start_from_frequencies


def load(folder) -> LoadedModel:
    return load_pretrained(
        ModelConfig(name_or_path=str(folder)),
        objective="mlm",
        chunk_length=16,
        device=torch.device("cpu"),
        precision="fp32",
        seed=0,
    )


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


def test_a_head_of_the_checkpoint_stays_as_it_is(model_dir):
    loaded = load(model_dir)
    before = loaded.model.get_output_embeddings().bias.detach().clone()
    counts = np.arange(loaded.model.config.vocab_size)
    assert not start_from_frequencies(loaded, counts)
    assert torch.equal(loaded.model.get_output_embeddings().bias, before)
    reference = BertForMaskedLM.from_pretrained(model_dir)
    assert torch.equal(before, reference.get_output_embeddings().bias)
