"""A model of each family in each runtime, for sequences of any number and length."""

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForMaskedLM

from mlmtune.commands.export_plan import TARGETS, Target
from mlmtune.config import ModelConfig
from mlmtune.errors import ConfigError
from mlmtune.modeling.loading import LoadedModel, ModelRequest, load_pretrained
from mlmtune.modeling.masked_head import MaskedHead

SIZES = {
    "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
    "max_position_embeddings": 64, "pad_token_id": 0,
}  # fmt: skip
SETTINGS: dict[str, dict[str, Any]] = {
    "bert": {},
    "distilbert": {"dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 16},
    "roberta": {"max_position_embeddings": 65},
    "albert": {"embedding_size": 8},
    "deberta-v2": {
        "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_biased_input": False,
    },
    # A layer whose tokens attend to all others, and one with a window.
    "modernbert": {"num_hidden_layers": 2, "global_attn_every_n_layers": 2, "local_attention": 8},
}  # fmt: skip


@pytest.fixture
def load(tokenizer: Any, tmp_path: Path) -> Any:
    def save_and_load(model_type: str) -> LoadedModel:
        sizes = SIZES if model_type != "distilbert" else {"max_position_embeddings": 64}
        ids = dict.fromkeys(("bos_token_id", "cls_token_id"), tokenizer.cls_token_id)
        ids |= dict.fromkeys(("eos_token_id", "sep_token_id"), tokenizer.sep_token_id)
        settings = sizes | ids | SETTINGS[model_type]
        config = AutoConfig.for_model(model_type, vocab_size=len(tokenizer), **settings)
        torch.manual_seed(0)
        folder = tmp_path / model_type
        AutoModelForMaskedLM.from_config(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        request = ModelRequest(
            ModelConfig(name_or_path=str(folder)), 64, torch.device("cpu"), "fp32", 0
        )
        return load_pretrained(request, "mlm")

    return save_and_load


@pytest.mark.parametrize("model_type", SETTINGS)
def test_a_family_predicts_the_same_in_onnx(load: Any, tmp_path: Path, model_type: str) -> None:
    assert_predicts_the_same(load(model_type), TARGETS["onnx"], tmp_path)


@pytest.mark.own_process
def test_every_family_predicts_the_same_in_openvino(load: Any, tmp_path: Path) -> None:
    for model_type in SETTINGS:
        assert_predicts_the_same(load(model_type), TARGETS["openvino"], tmp_path / model_type)


def assert_predicts_the_same(loaded: LoadedModel, target: Target, tmp_path: Path) -> None:
    runtime = import_module(target.module)
    MaskedHead(loaded.model, len(loaded.tokenizer))  # its hooks must not be in the file
    file = tmp_path / target.fp32
    runtime.write(loaded, file)
    exported = runtime.open_model(file)
    loaded.model.eval()
    for num_sequences, length in ((1, 3), (1, 64), (5, 33)):
        ids = torch.randint(5, len(loaded.tokenizer), (num_sequences, length))
        lengths = length - torch.arange(num_sequences)[:, None] * length // num_sequences
        inputs = {"input_ids": ids, "attention_mask": (torch.arange(length) < lengths).long()}
        if loaded.has_token_types:
            inputs["token_type_ids"] = (torch.arange(length) > length // 2).long().expand_as(ids)
        keep = inputs["attention_mask"].bool()
        with torch.inference_mode():
            expected = loaded.model(**inputs).logits[keep]
        torch.testing.assert_close(exported(**inputs).logits[keep], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "target",
    [TARGETS["onnx"], pytest.param(TARGETS["openvino"], marks=pytest.mark.own_process)],
    ids=TARGETS.keys(),
)
def test_an_architecture_that_cannot_be_exported_is_refused(
    load: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: Any
) -> None:
    def fail(*arguments: Any, **settings: Any) -> None:
        try:
            raise ValueError("the length is fixed\nin many lines")
        except ValueError as cause:
            raise RuntimeError("step 1 of 3") from cause

    loaded, runtime = load("bert"), import_module(target.module)
    told = rf"a bert model cannot be exported to {target.title} \(ValueError: the length is fixed\)"
    monkeypatch.setattr(torch.export, "export", fail)
    with pytest.raises(ConfigError, match=told):
        runtime.write(loaded, tmp_path / target.fp32)
    assert not (tmp_path / target.fp32).exists()


@pytest.mark.own_process
def test_openvino_sends_nothing_to_its_maker() -> None:
    import_module(TARGETS["openvino"].module)
    for name in ("openvino.tools.ovc", "nncf.telemetry"):
        assert "openvino_telemetry" not in type(sys.modules[name].telemetry).__module__
    assert sys.modules["openvino_telemetry"] is None
