"""A Chinese ALBERT: what it fills in before any training."""

from pathlib import Path

import pytest
import torch

from mlmtune.config import ModelConfig
from mlmtune.evaluation.fill_mask import fill_mask
from mlmtune.modeling.loading import LoadedModel, ModelRequest, load_pretrained

pytestmark = pytest.mark.real_weights


@pytest.fixture(scope="module")
def loaded(albert_tiny_zh: Path) -> LoadedModel:
    config = ModelConfig(name_or_path=str(albert_tiny_zh))
    request = ModelRequest(config, 128, torch.device("cpu"), "fp32", seed=0)
    return load_pretrained(request, "mlm")


def test_it_loads_whole_with_its_head(loaded: LoadedModel) -> None:
    assert type(loaded.model).__name__ == "AlbertForMaskedLM"
    assert loaded.new_weights == ()
    assert not loaded.head_is_new
    assert len(loaded.tokenizer) == 21_128
    assert loaded.context_length == 512


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("今天[MASK]情很好", "心"),
        ("今天天[MASK]很好。", "气"),
        ("中国的首都是北[MASK]。", "京"),
        ("他在大[MASK]读书。", "学"),
        ("太[MASK]从东边升起。", "阳"),
    ],
)
def test_what_it_fills_in_is_chinese(loaded: LoadedModel, text: str, expected: str) -> None:
    """Among its first five of 21,128 tokens: the head is trained, and its order is that of ids."""
    (predictions,) = fill_mask(loaded.model, loaded.tokenizer, text)
    assert expected in [prediction.token_str for prediction in predictions]
