"""What no logit depends on is not trained, and what one does is."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForMaskedLM, AutoModelForPreTraining

from mlmtune.modeling.unreached_weights import freeze_unreached_weights

SIZES = {
    "vocab_size": 99, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
    "intermediate_size": 24, "max_position_embeddings": 40,
}  # fmt: skip
CASES = {
    "bert": (AutoModelForMaskedLM, {}, set()),
    "bert with pairs": (AutoModelForPreTraining, {}, set()),
    "albert": (AutoModelForMaskedLM, {"embedding_size": 8}, set()),
    "big_bird": (AutoModelForMaskedLM, {}, {"bert.pooler.weight", "bert.pooler.bias"}),
    "big_bird with pairs": (AutoModelForPreTraining, {}, set()),
    "fnet": (AutoModelForMaskedLM, {}, {"fnet.pooler.dense.weight", "fnet.pooler.dense.bias"}),
    "longformer": (
        AutoModelForMaskedLM,
        {"attention_window": 4},
        {
            f"longformer.encoder.layer.{layer}.attention.self.{name}_global.{kind}"
            for layer in range(2)
            for name in ("query", "key", "value")
            for kind in ("weight", "bias")
        },
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_exactly_what_has_no_gradient_is_frozen(case):
    auto_class, settings, expected = CASES[case]
    config = AutoConfig.for_model(case.split()[0], **SIZES, **settings)
    model = auto_class.from_config(config).train()
    freeze_unreached_weights(model)
    assert model.training
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen == expected

    logits = model(input_ids=torch.full((2, 12), 7)).values()
    sum(output.sum() for output in logits).backward()
    assert {name for name, p in model.named_parameters() if p.grad is None} == expected
