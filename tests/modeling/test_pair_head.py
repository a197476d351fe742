"""Which architectures judge pairs of segments, and what their classes call it."""

import pytest
import torch
from transformers import (
    MODEL_FOR_NEXT_SENTENCE_PREDICTION_MAPPING,
    AutoConfig,
    AutoModelForMaskedLM,
    AutoModelForPreTraining,
)

from mlmtune.modeling.pair_head import (
    has_pair_head,
    model_types_with_pair_head,
    pair_logits,
    token_logits,
)

SIZES = {
    "vocab_size": 99, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
    "intermediate_size": 24, "max_position_embeddings": 40, "pad_token_id": 0,
    "embedding_size": 8,  # of ALBERT and MobileBERT, as is what follows
    "intra_bottleneck_size": 8, "true_hidden_size": 8,
}  # fmt: skip
WITH_PAIR_HEAD = {"albert", "bert", "big_bird", "ernie", "fnet", "megatron-bert", "mobilebert"}


def model_of(auto_class, model_type):
    torch.manual_seed(0)
    return auto_class.from_config(AutoConfig.for_model(model_type, **SIZES)).eval()


def outputs_of(model):
    return model(input_ids=torch.arange(5, 29).reshape(2, 12))


def test_the_model_types_that_have_one():
    found = set(model_types_with_pair_head())
    assert found >= WITH_PAIR_HEAD
    for_next_sentence = {c.model_type for c in MODEL_FOR_NEXT_SENTENCE_PREDICTION_MAPPING}
    assert found >= for_next_sentence


@pytest.mark.parametrize(
    "model_type", ["electra", "roberta", "distilbert", "deberta-v2", "modernbert", "gpt2"]
)
def test_a_class_for_pretraining_alone_is_no_head_for_pairs(model_type):
    assert not has_pair_head(type(AutoConfig.for_model(model_type)))
    assert model_type not in model_types_with_pair_head()


@pytest.mark.parametrize("model_type", sorted(WITH_PAIR_HEAD))
def test_both_logits_are_found_whatever_the_class_calls_them(model_type):
    output = outputs_of(model_of(AutoModelForPreTraining, model_type))
    assert has_pair_head(type(AutoConfig.for_model(model_type)))
    assert token_logits(output).shape == (2, 12, 99)
    assert pair_logits(output).shape == (2, 2)


def test_a_masked_language_model_has_logits_of_tokens_alone():
    output = outputs_of(model_of(AutoModelForMaskedLM, "bert"))
    assert token_logits(output) is output.logits
    assert pair_logits(output) is None
