"""Which parameters decay, and the learning rate as a pure function of the step."""

import math
from typing import Any, get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import BertForMaskedLM, DistilBertConfig, DistilBertForMaskedLM

from mlmtune.config import OptimizerConfig
from mlmtune.training.optimization import (
    SCHEDULES,
    build_optimizer,
    learning_rate_at,
    num_warmup_steps,
)

PEAK = 0.001


def rates(max_steps: int, **settings: Any) -> list[float]:
    config = OptimizerConfig(learning_rate=PEAK, **settings)
    return [learning_rate_at(step, max_steps, config) for step in range(max_steps)]


@given(
    schedule=st.sampled_from(sorted(SCHEDULES)),
    max_steps=st.integers(1, 200),
    warmup=st.one_of(st.none(), st.integers(0, 250)),
    ratio=st.floats(0, 1),
    decay=st.floats(0, 1),
)
def test_every_step_learns_and_none_passes_the_peak(
    schedule: Any, max_steps: int, warmup: int | None, ratio: float, decay: float
) -> None:
    taken = rates(
        max_steps, schedule=schedule, warmup_steps=warmup, warmup_ratio=ratio, decay_ratio=decay
    )
    assert all(0 < rate <= PEAK for rate in taken)
    top = taken.index(max(taken))
    assert taken[: top + 1] == sorted(taken[: top + 1])
    assert taken[top:] == sorted(taken[top:], reverse=True)


@pytest.mark.parametrize("schedule", sorted(SCHEDULES))
def test_warmup_reaches_the_peak_at_its_last_step(schedule: Any) -> None:
    taken = rates(100, schedule=schedule, warmup_steps=10)
    assert taken[:10] == pytest.approx([PEAK * (step + 1) / 10 for step in range(10)])
    assert taken[9] == taken[10] == PEAK


def test_no_warmup_starts_at_the_peak() -> None:
    assert rates(10, warmup_steps=0)[0] == PEAK


def test_warmup_steps_take_the_place_of_the_ratio() -> None:
    config = OptimizerConfig(warmup_ratio=0.5, warmup_steps=3)
    assert num_warmup_steps(100, config) == 3
    assert num_warmup_steps(100, OptimizerConfig(warmup_ratio=0.5)) == 50
    assert num_warmup_steps(100, OptimizerConfig(warmup_ratio=0.5, warmup_steps=0)) == 0


def test_linear_falls_by_equal_parts() -> None:
    assert rates(14, schedule="linear", warmup_steps=4)[4:] == pytest.approx(
        [PEAK * (1 - step / 10) for step in range(10)]
    )


def test_cosine_falls_along_half_a_wave() -> None:
    assert rates(14, schedule="cosine", warmup_steps=4)[4:] == pytest.approx(
        [PEAK * (1 + math.cos(math.pi * step / 10)) / 2 for step in range(10)]
    )


def test_one_minus_sqrt_falls_fast_at_first() -> None:
    assert rates(14, schedule="one_minus_sqrt", warmup_steps=4)[4:] == pytest.approx(
        [PEAK * (1 - math.sqrt(step / 10)) for step in range(10)]
    )


@pytest.mark.parametrize("schedule", sorted(set(SCHEDULES) - {"constant"}))
def test_the_rate_falls_to_a_share_of_the_peak(schedule: Any) -> None:
    whole, part = (
        rates(500, schedule=schedule, final_learning_rate_ratio=ratio) for ratio in (0.0, 0.4)
    )
    assert part[30:] == pytest.approx([0.4 * PEAK + 0.6 * rate for rate in whole[30:]])
    assert 0.4 * PEAK < part[-1] < 0.45 * PEAK


def test_constant_stays() -> None:
    assert rates(14, schedule="constant", warmup_steps=4)[3:] == [PEAK] * 11


def test_warmup_stable_decay_stays_and_then_falls() -> None:
    taken = rates(100, schedule="warmup_stable_decay", warmup_steps=10, decay_ratio=0.2)
    assert taken[9:81] == [PEAK] * 72
    assert taken[80:] == pytest.approx([PEAK * (1 - step / 20) for step in range(20)])


def test_schedules_are_those_of_the_config() -> None:
    annotation = OptimizerConfig.model_fields["schedule"].annotation
    assert set(SCHEDULES) == set(get_args(annotation))


@pytest.fixture(scope="module")
def distilbert() -> torch.nn.Module:
    return DistilBertForMaskedLM(
        DistilBertConfig(vocab_size=50, dim=16, n_layers=1, n_heads=2, hidden_dim=32)
    )


def decay_by_name(model: torch.nn.Module) -> dict[str, float]:
    optimizer = build_optimizer(model, OptimizerConfig(weight_decay=0.1))
    return {
        name: group["weight_decay"]
        for group in optimizer.param_groups
        for name in group["param_names"]
    }


def test_only_matrices_decay(distilbert: torch.nn.Module, model_dir: Any) -> None:
    for model in (distilbert, BertForMaskedLM.from_pretrained(model_dir)):
        decay = decay_by_name(model)
        assert decay == {
            name: 0.1 if parameter.ndim == 2 else 0.0
            for name, parameter in model.named_parameters()
        }
        norms = [name for name in decay if "norm" in name.lower()]
        assert norms
        assert not any(decay[name] for name in [*norms, *(n for n in decay if "bias" in n)])
    # Lists of names ("LayerNorm", "layer_norm" at the end) miss this one.
    assert decay_by_name(distilbert)["distilbert.transformer.layer.0.sa_layer_norm.weight"] == 0.0


def test_frozen_parameters_are_left_out(distilbert: torch.nn.Module) -> None:
    embeddings = distilbert.get_input_embeddings().weight
    embeddings.requires_grad_(False)
    try:
        names = decay_by_name(distilbert)
    finally:
        embeddings.requires_grad_(True)
    assert names
    assert not any("word_embeddings" in name for name in names)


def test_settings_reach_the_optimizer(distilbert: torch.nn.Module) -> None:
    config = OptimizerConfig(learning_rate=0.5, adam_beta1=0.8, adam_beta2=0.9, adam_epsilon=1e-3)
    for group in build_optimizer(distilbert, config).param_groups:
        assert (group["lr"], group["betas"], group["eps"]) == (0.5, (0.8, 0.9), 1e-3)
