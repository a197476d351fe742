import math

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers import AutoConfig, AutoModelForMaskedLM

from mlmtune.masking.places import Places
from mlmtune.modeling.dropout import KeyedDropout
from mlmtune.randomness import key

KEYS, SHARED = key(3, np.arange(8)), key(4)


def dropped(keys, *shape, p=0.1, calls=1):
    """Where dropout leaves zeros, as (elements of) the last of some calls."""
    with KeyedDropout(keys, SHARED):
        for _ in range(calls):
            result = functional.dropout(torch.ones(shape), p)
    return result == 0


@pytest.mark.parametrize("p", [0.01, 0.1, 0.5, 0.9])
def test_the_rate_is_as_asked_and_the_mean_is_kept(p):
    x = torch.full((8, 125, 1000), 2.0)
    with KeyedDropout(KEYS, SHARED):
        result = functional.dropout(x, p)
    share = float((result == 0).double().mean())
    deviation = math.sqrt(p * (1 - p) / x.numel())
    assert abs(share - p) < 5 * deviation + 0.5 / 2**16
    kept = result[result != 0]
    assert (kept == kept[0]).all()
    assert float(kept[0]) == pytest.approx(2.0 / (1 - p), rel=1e-4 / (1 - p))


def test_every_position_is_dropped_as_often_as_any_other():
    num_rows = 4096
    zeros = dropped(key(1, np.arange(num_rows)), num_rows, 64, 1, p=0.25)[..., 0]
    counts = zeros.sum(dim=0)
    deviation = math.sqrt(num_rows * 0.25 * 0.75)
    assert (counts - num_rows * 0.25).abs().max() < 5 * deviation
    # and neighbours, which share a draw of 64 bits, independently of each other
    both = float((zeros[:, :-1] & zeros[:, 1:]).double().mean())
    assert both == pytest.approx(0.25**2, abs=5 * math.sqrt(0.0625 / zeros.numel()))


@pytest.mark.parametrize("shape", [(5, 1), (3, 7), (2, 3, 5)])
def test_a_sequence_is_dropped_alike_in_any_batch(shape):
    whole = dropped(KEYS, 8, *shape, p=0.5)
    parts = torch.cat([dropped(KEYS[:3], 3, *shape, p=0.5), dropped(KEYS[3:], 5, *shape, p=0.5)])
    assert torch.equal(whole, parts)


def test_heads_in_the_first_dimension_belong_to_their_sequence():
    whole = dropped(KEYS, 8 * 2, 6, 6, p=0.5)
    assert torch.equal(whole[6:8], dropped(KEYS[3:4], 2, 6, 6, p=0.5))


@pytest.mark.parametrize("shape", [(6, 10), (2, 6, 6)], ids=["tokens", "attention"])
def test_a_sequence_is_dropped_alike_in_whatever_row_it_lies(shape):
    """Alone, in a padded row of its own, or behind another sequence in a row of 20."""
    lengths = np.asarray([14, 6, 18])
    shared = Places(np.asarray([0, 0, 1]), np.asarray([0, 14, 0]), lengths, (2, 20))
    padded = Places.padded(lengths, 18)
    found = []
    for places, row, start in ((shared, 0, 14), (padded, 1, 0)):
        num_rows, length = places.shape
        is_attention = len(shape) == 3
        size = (num_rows, 2, length, length) if is_attention else (num_rows, length, 10)
        with KeyedDropout(KEYS[:3], SHARED, places):
            zeros = functional.dropout(torch.ones(size), 0.5)[row] == 0
        columns = slice(start, start + 6)
        found.append(zeros[:, columns, columns] if is_attention else zeros[columns])
    alone = dropped(KEYS[1:2], 1, *shape, p=0.5)[0]
    assert torch.equal(found[0], alone)
    assert torch.equal(found[1], alone)
    assert 0 < int(alone.sum()) < alone.numel()


def test_calls_and_keys_draw_apart():
    first, second = dropped(KEYS, 8, 50, 10, p=0.5), dropped(KEYS, 8, 50, 10, p=0.5, calls=2)
    assert not torch.equal(first, second)
    assert not torch.equal(first[0], first[1])
    assert torch.equal(first, dropped(KEYS, 8, 50, 10, p=0.5))


def test_gradients_pass_where_values_do():
    x = torch.randn(8, 5, 10, requires_grad=True)
    with KeyedDropout(KEYS, SHARED):
        result = functional.dropout(x, 0.5)
    result.sum().backward()
    assert torch.equal(x.grad, torch.where(result == 0, 0.0, 2.0))


def test_half_precision_stays_half():
    with KeyedDropout(KEYS, SHARED):
        assert functional.dropout(torch.ones(8, 4, 2).bfloat16(), 0.5).dtype == torch.bfloat16


@pytest.mark.parametrize(("p", "training"), [(0.0, True), (0.5, False)])
def test_nothing_is_dropped_where_nothing_should_be(p, training):
    x = torch.randn(8, 5, 10)
    with KeyedDropout(KEYS, SHARED):
        assert torch.equal(functional.dropout(x, p, training), x)


def test_everything_can_be_dropped():
    with KeyedDropout(KEYS, SHARED):
        assert not functional.dropout(torch.ones(8, 5, 2), 1.0).any()


def test_what_belongs_to_no_sequence_is_dropped_alike_for_all():
    whole = dropped(KEYS, 8, 500, p=0.5)
    assert 0.4 < float(whole.double().mean()) < 0.6
    assert torch.equal(whole, dropped(KEYS[:3], 8, 500, p=0.5))


def test_other_shapes_are_left_to_pytorch():
    torch.manual_seed(0)
    expected = functional.dropout(torch.ones(9, 5, 10), 0.5)
    torch.manual_seed(0)
    with KeyedDropout(KEYS, SHARED):
        assert torch.equal(functional.dropout(torch.ones(9, 5, 10), 0.5), expected)


@pytest.mark.parametrize(
    ("model_type", "sizes"),
    [
        ("bert", {"hidden_size": 16, "num_hidden_layers": 2, "intermediate_size": 24}),
        ("distilbert", {"dim": 16, "n_layers": 2, "hidden_dim": 24, "n_heads": 2}),
        (
            "deberta-v2",
            {
                "hidden_size": 16,
                "num_hidden_layers": 2,
                "intermediate_size": 24,
                "relative_attention": True,
                "pos_att_type": ["p2c", "c2p"],
            },
        ),
    ],
)
def test_a_model_draws_nothing_else(model_type, sizes):
    """Of its hidden states and of its attention: PyTorch's generator stays where it was."""
    heads = {} if model_type == "distilbert" else {"num_attention_heads": 2}
    config = AutoConfig.for_model(model_type, vocab_size=99, **sizes, **heads)
    model = AutoModelForMaskedLM.from_config(config, attn_implementation="eager").train()
    ids = torch.randint(5, 99, (8, 12))
    before = torch.get_rng_state()
    with KeyedDropout(KEYS, SHARED):
        whole = model(input_ids=ids).logits
    assert torch.equal(torch.get_rng_state(), before)
    with KeyedDropout(KEYS[2:4], SHARED):
        part = model(input_ids=ids[2:4]).logits
    torch.testing.assert_close(part, whole[2:4])
    assert not torch.allclose(whole, model(input_ids=ids).logits)
