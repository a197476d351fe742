"""Attention by borders gives what attention by masks gives."""

import pytest
import torch
from test_masked_head import ARCHITECTURES, make_model
from torch.nn import functional

from mlmtune.modeling import varlen_attention
from mlmtune.modeling.attention import why_not
from mlmtune.modeling.varlen_attention import VARLEN, sequence_arguments

ROWS, HEADS, LENGTH, SIZE = 2, 4, 12, 8
BORDERS = torch.tensor([0, 5, 12, 15, 24], dtype=torch.int32)
OWN_ATTENTION = {"deberta-v2", "mpnet"}


def by_segment(query, key, value, cu_q, cu_k, max_q, max_k, *, scale, window_size):
    """What PyTorch documents of varlen_attn, one sequence after the other."""
    assert torch.equal(cu_q, cu_k)
    assert cu_q.dtype == torch.int32
    assert query.shape == key.shape == value.shape
    assert query.dtype == key.dtype == value.dtype
    outputs = []
    for start, end in zip(cu_q[:-1].tolist(), cu_q[1:].tolist(), strict=True):
        assert end - start <= min(max_q, max_k)
        columns = torch.arange(end - start)
        distance = columns[None] - columns[:, None]
        left, right = (end if size == -1 else size for size in window_size)
        mask = (distance >= -left) & (distance <= right)
        one = [t[start:end].transpose(0, 1) for t in (query, key, value)]
        attended = functional.scaled_dot_product_attention(*one, attn_mask=mask, scale=scale)
        outputs.append(attended.transpose(0, 1))
    return torch.cat(outputs)


@pytest.mark.parametrize("key_heads", [HEADS, 2])
@pytest.mark.parametrize("borders", [None, BORDERS])
@pytest.mark.parametrize("sliding_window", [None, 3])
def test_the_kernel_is_asked_for_what_the_mask_says(
    sliding_window, borders, key_heads, monkeypatch
):
    torch.manual_seed(0)
    query = torch.randn(ROWS, HEADS, LENGTH, SIZE)
    key, value = (torch.randn(ROWS, key_heads, LENGTH, SIZE) for _ in range(2))
    layer = torch.nn.Module()
    layer.num_key_value_groups = HEADS // key_heads

    def attend():
        others = {} if borders is None else sequence_arguments(borders, LENGTH)
        return varlen_attention.varlen_attention(
            layer, query, key, value, None, scaling=0.3, sliding_window=sliding_window, **others
        )[0]

    expected = attend()
    calls = []
    monkeypatch.setattr(varlen_attention, "_kernel_takes", lambda value: True)
    monkeypatch.setattr(
        varlen_attention, "varlen_attn", lambda *a, **kw: calls.append(1) or by_segment(*a, **kw)
    )
    assert torch.allclose(attend(), expected, atol=1e-6)
    assert len(calls) == (sliding_window is not None or borders is not None)


def test_dropout_and_a_mask_go_to_the_usual_attention(monkeypatch):
    monkeypatch.setattr(varlen_attention, "_kernel_takes", lambda value: True)
    monkeypatch.setattr(varlen_attention, "varlen_attn", None)  # a call would fail
    query = torch.randn(ROWS, HEADS, LENGTH, SIZE)
    layer = torch.nn.Module()
    mask = torch.ones(ROWS, 1, LENGTH, LENGTH, dtype=torch.bool).tril()
    attended, _ = varlen_attention.varlen_attention(
        layer, query, query, query, mask, sliding_window=3
    )
    expected = functional.scaled_dot_product_attention(query, query, query, attn_mask=mask)
    assert torch.allclose(attended, expected.transpose(1, 2))
    attended, _ = varlen_attention.varlen_attention(
        layer, query, query, query, None, sliding_window=3, dropout=0.5
    )
    assert attended.shape == expected.transpose(1, 2).shape


@pytest.mark.parametrize("name", ["position_bias", "softcap"])
def test_what_it_does_not_know_is_refused(name):
    query = torch.randn(ROWS, HEADS, LENGTH, SIZE)
    with pytest.raises(ValueError, match="neither a bias"):
        varlen_attention.varlen_attention(
            torch.nn.Module(), query, query, query, None, **{name: 1.0}
        )


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_an_architecture_takes_it_or_stays_as_it_is(model_type):
    settings = dict(ARCHITECTURES[model_type])
    if model_type == "modernbert":
        settings |= {"local_attention": 4, "global_attn_every_n_layers": 2}
    model = make_model(model_type, settings)
    before = model.config._attn_implementation
    ids = torch.randint(5, 30, (2, 18), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, 7:] = 0
    with torch.no_grad():
        expected = [model(input_ids=ids)[0], model(input_ids=ids, attention_mask=mask)[0]]
        reason = why_not(model, VARLEN, 18)
        assert (reason is None) == (model_type not in OWN_ATTENTION), reason
        assert model.config._attn_implementation == (VARLEN if reason is None else before)
        actual = [model(input_ids=ids)[0], model(input_ids=ids, attention_mask=mask)[0]]
    assert torch.allclose(actual[0], expected[0], atol=1e-5)
    assert torch.allclose(actual[1][0], expected[1][0], atol=1e-5)
    assert torch.allclose(actual[1][1, :7], expected[1][1, :7], atol=1e-5)


def test_windows_that_a_layer_does_not_pass_on_are_noticed():
    settings = ARCHITECTURES["modernbert"] | {"local_attention": 4, "global_attn_every_n_layers": 2}
    model = make_model("modernbert", settings)
    for layer in model.model.layers:
        layer.attn.sliding_window = None
    reason = why_not(model, VARLEN, 18)
    assert reason is not None
    assert reason == "ModernBertForMaskedLM gives other results with it"
    assert model.config._attn_implementation == "eager"


def test_an_encoder_that_cannot_be_probed_stays_as_it_is(monkeypatch):
    model = make_model("bert", ARCHITECTURES["bert"])
    monkeypatch.setattr(model.base_model, "forward", lambda **_: 1 / 0)
    assert why_not(model, VARLEN, 18) == "division by zero"
    assert model.config._attn_implementation == "eager"
