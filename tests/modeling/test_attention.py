"""How attention is computed: by the table, by name, and where flash attention cannot be had."""

import os

import pytest
import torch
import transformers
from transformers import (
    AttentionInterface,
    BertConfig,
    BertForMaskedLM,
    ModernBertConfig,
    ModernBertForMaskedLM,
)

from mlmtune.config import ModelConfig
from mlmtune.errors import ConfigError
from mlmtune.modeling import attention
from mlmtune.modeling.attention import attention_for, check_flash, has_windows, why_not
from mlmtune.modeling.masked_head import MaskedHead

VOCAB_SIZE = 40
SIZES = {
    "vocab_size": VOCAB_SIZE, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
    "intermediate_size": 24, "pad_token_id": 0,
}  # fmt: skip


def modernbert():
    special = {"cls_token_id": 2, "bos_token_id": 2, "sep_token_id": 3, "eos_token_id": 3}
    return ModernBertForMaskedLM(ModernBertConfig(**SIZES, **special))


@pytest.mark.parametrize(
    ("device", "precision", "length", "has_dropout", "expected"),
    [
        ("cpu", "bf16", 256, False, "eager"),
        ("cpu", "bf16", 257, False, "sdpa"),
        ("cpu", "fp32", 128, False, "sdpa"),
        ("cpu", "fp32", 512, True, "eager"),
        ("cuda", "bf16", 128, True, "sdpa"),
        ("cuda", "bf16", 1023, False, "sdpa"),
        ("cuda", "bf16", 1024, False, "varlen"),
        ("cuda", "fp16", 8192, False, "varlen"),
        ("cuda", "fp16", 8192, True, "sdpa"),
        ("cuda", "fp32", 8192, False, "sdpa"),
        ("mps", "bf16", 8192, False, "sdpa"),
    ],
)
def test_auto_is_taken_from_the_table(device, precision, length, has_dropout, expected):
    assert attention_for(device, precision, length, has_dropout=has_dropout) == expected


def test_windows_are_seen_in_the_model_s_config():
    assert has_windows(ModernBertConfig())
    assert not has_windows(BertConfig())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("flash_attention", "did you mean flash_attention_"),
        ("someone/flash-attn", "kernels-community/flash-attn2"),
        ("spda", "did you mean sdpa"),
    ],
)
def test_other_names_are_refused(name, message):
    with pytest.raises(ValueError, match=message):
        ModelConfig(name_or_path="model", attn_implementation=name)


@pytest.mark.parametrize("name", ["flash_attention_3", "kernels-community/flash-attn2"])
@pytest.mark.parametrize(
    ("device", "precision", "has_dropout", "message"),
    [
        ("cpu", "bf16", False, "needs a GPU"),
        ("cuda", "fp32", False, "needs a GPU and 16 bits"),
        ("cuda", "bf16", True, "has no dropout"),
        ("cuda", "bf16", False, None),
    ],
)
def test_flash_attention_is_refused_where_it_cannot_run(
    name, device, precision, has_dropout, message
):
    assert ModelConfig(name_or_path="model", attn_implementation=name)
    if message is None or (has_dropout and name.endswith("2")):
        check_flash(name, device, precision, has_dropout=has_dropout)
        return
    with pytest.raises(ConfigError, match=message):
        check_flash(name, device, precision, has_dropout=has_dropout)


@pytest.fixture
def flash(monkeypatch):
    """The name of an attention that, as flash attention does, fails on a CPU."""

    def fail(*arguments, **settings):
        raise RuntimeError("FlashAttention only supports CUDA")

    monkeypatch.setattr(
        transformers.modeling_utils, "lazy_import_flash_attention", lambda *a, **kw: None
    )
    monkeypatch.delenv("FLASH_ATTENTION_DETERMINISTIC", raising=False)
    AttentionInterface.register("flash_on_a_gpu", fail)
    return "flash_on_a_gpu"


def test_flash_attention_has_gradients_of_the_same_bits(flash):
    model = modernbert()
    assert why_not(model, flash, 8) is None
    assert model.config._attn_implementation == flash
    assert os.environ["FLASH_ATTENTION_DETERMINISTIC"] == "1"
    assert all(layer.attn.deterministic_flash_attn for layer in model.model.layers)
    assert not model.config.deterministic_flash_attn  # the result is the user's


def test_a_gpu_before_ampere_has_none(flash, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla T4")
    model = modernbert()
    assert why_not(model, flash, 8) == "Tesla T4 is older than Ampere"
    assert model.config._attn_implementation == "sdpa"


def test_the_head_of_a_model_with_flash_attention_is_probed_on_the_cpu(flash):
    model = BertForMaskedLM(BertConfig(**SIZES)).eval()
    assert why_not(model, flash, 8) is None
    head = MaskedHead(model, VOCAB_SIZE)
    assert head.is_sparse
    assert head.output_layer is not None
    assert model.config._attn_implementation == flash
    with pytest.raises(RuntimeError, match="only supports CUDA"):
        model(input_ids=torch.ones(1, 4, dtype=torch.long))


@pytest.mark.parametrize("has_kernels", [False, True])
def test_flash_attention_that_cannot_be_had_leaves_the_model_as_it_is(has_kernels, monkeypatch):
    """With the package `kernels` but without a network, too."""
    model = modernbert()
    before = model.config._attn_implementation
    monkeypatch.setattr(attention, "is_flash_attn_2_available", lambda: False)
    monkeypatch.setattr(attention, "is_kernels_available", lambda: has_kernels)
    reason = why_not(model, "flash_attention_2", 8)
    assert reason is not None
    assert "\n" not in reason
    assert model.config._attn_implementation == before
