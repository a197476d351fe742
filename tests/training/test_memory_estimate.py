"""What training holds, by estimate, for models without weights."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import AutoModelForMaskedLM, BertConfig, EuroBertConfig

from mlmtune.training.memory_estimate import Load, estimate, has_scores

LOAD = Load(4, 512, 1000, "bf16", is_checkpointed=False, has_scores=False)
EURO = EuroBertConfig(
    hidden_size=2304, intermediate_size=6144, num_hidden_layers=32, num_attention_heads=18,
    num_key_value_heads=6,
)  # fmt: skip


def on_meta(config: Any) -> Any:
    with torch.device("meta"):
        return AutoModelForMaskedLM.from_config(config)


def test_the_parts_of_a_large_encoder() -> None:
    model = on_meta(EURO)
    memory = estimate(model, LOAD)
    num_parameters, words = 2_403_092_736, 128_256 * 2304  # as published; the head is not tied
    assert memory.weights == memory.gradients == 4 * num_parameters
    assert memory.moments == 8 * num_parameters
    assert memory.copies == 2 * (num_parameters - 2 * words)
    assert memory.vocabulary == 8 * words + 12 * 1000
    # A gate, what it multiplies, and both with and without the activation.
    assert memory.activations == 4 * 512 * 32 * (34 * 2304 + 2 * 4 * 6144)
    assert memory.total == sum(vars(memory).values())
    assert estimate(model, replace(LOAD, precision="fp32")).copies == 0


def test_sharded_moments_are_those_of_the_process_that_keeps_the_most() -> None:
    model = on_meta(BertConfig(vocab_size=50_000, num_hidden_layers=2))
    shares = [estimate(model, replace(LOAD, num_shards=n)) for n in (1, 2, 50)]
    assert 0.5 <= shares[1].moments / shares[0].moments < 0.74
    assert shares[2].moments == 8 * 50_000 * 768  # the embeddings, which are not divided
    assert len({replace(memory, moments=0) for memory in shares}) == 1


def test_checkpointing_keeps_one_layer_and_the_inputs_of_all() -> None:
    config = BertConfig(num_hidden_layers=6)
    whole, fewer = (
        estimate(on_meta(config), replace(LOAD, is_checkpointed=value)) for value in (False, True)
    )
    assert fewer.activations == whole.activations // 6 + 4 * 512 * 6 * 4 * 768
    assert fewer.copies == whole.copies // 6


def test_attention_that_keeps_scores_grows_with_the_square_of_the_length() -> None:
    model = on_meta(BertConfig())

    def scores(num_tokens: int) -> int:
        load = replace(LOAD, num_tokens=num_tokens)
        with_scores = estimate(model, replace(load, has_scores=True))
        return with_scores.activations - estimate(model, load).activations

    assert scores(1024) == 4 * scores(512) > 0


@pytest.mark.parametrize(("implementation", "expected"), [("eager", True), ("auto", False)])
def test_eager_attention_keeps_scores(implementation: str, expected: bool) -> None:
    assert has_scores(on_meta(BertConfig(num_hidden_layers=1)), implementation) is expected
