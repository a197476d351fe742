"""What `check` says is worth a try."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM

from mlmtune.config import Config, OptimizerConfig
from mlmtune.modeling.loading import LoadedModel
from mlmtune.training.advice import MOST_PARAMETERS, describe, faster_settings
from mlmtune.training.plan import Phase, Plan

PHASE = Phase("", 100, 12_800, global_batch_size=10, num_steps=30, optimizer=OptimizerConfig())
PLAN = Plan((PHASE,), micro_batch_size=10, num_processes=1)
LONGER = replace(PLAN, phases=(replace(PHASE, num_steps=40),))
ALL = {
    "model": {"dropout": 0.0},
    "masking": {"mlm_probability": 0.3},
    "optimizer": {"learning_rate": 2e-4},
}


def config_of(**sections: Any) -> Config:
    least: dict[str, Any] = {
        "run": {"output_dir": "x"},
        "model": {"name_or_path": "x"},
        "corpus": {"sources": [{"format": "text", "path": "x"}]},
    }
    return Config.model_validate(least | sections)


def loaded_model(dropout: float = 0.1, *new_weights: str, **shape: int) -> LoadedModel:
    sizes = {"vocab_size": 30, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = BertConfig(
        **(sizes | shape), hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout
    )
    with torch.device("meta"):
        model = BertForMaskedLM(config)
    tokenizer: Any = None
    return LoadedModel(model, tokenizer, new_weights, (), {}, "eager", None)


def without(*sections: str) -> dict[str, Any]:
    return {name: settings for name, settings in ALL.items() if name not in sections}


@pytest.mark.parametrize(
    ("sections", "plan", "loaded", "advised"),
    [
        ({}, PLAN, loaded_model(), ALL),
        ({}, PLAN, loaded_model(0.0), without("model")),
        ({}, LONGER, loaded_model(), without("model")),
        ({"masking": {"mlm_probability": 0.4}}, PLAN, loaded_model(), without("masking")),
        (
            {"masking": {"mlm_probability": {"start": 0.3, "end": 0.15}}}, PLAN, loaded_model(),
            without("masking"),
        ),
        ({"masking": {"strategy": "span"}}, PLAN, loaded_model(), without("masking")),
        ({"optimizer": {"learning_rate": 2e-4}}, PLAN, loaded_model(), without("optimizer")),
        (
            {"optimizer": {"learning_rate": 2e-4}}, PLAN,
            loaded_model(0.1, "cls.predictions.bias"),
            ALL | {"optimizer": {"learning_rate": 5e-4}},
        ),
        ({}, PLAN, loaded_model(vocab_size=MOST_PARAMETERS // 8), without("optimizer")),
    ],
)  # fmt: skip
def test_what_was_measured_to_be_faster_is_advised_unless_it_is_set(
    sections: Any, plan: Plan, loaded: LoadedModel, advised: Any
) -> None:
    assert faster_settings(config_of(**sections), loaded, plan) == advised


def test_the_advice_can_be_copied_to_the_command_line() -> None:
    assert describe(ALL).startswith(
        "model.dropout=0 masking.mlm_probability=0.3 optimizer.learning_rate=0.0002: "
    )
