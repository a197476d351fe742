"""Weights as people have saved them: all of them arrive, or it is said."""

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModelForMaskedLM,
    AutoTokenizer,
    BertConfig,
    BertForPreTraining,
)  # fmt: skip

from mlmtune.config import ModelConfig
from mlmtune.errors import ConfigError
from mlmtune.modeling.loading import LoadedModel, ModelRequest, load_pretrained


def load(folder: Path) -> LoadedModel:
    config = ModelConfig(name_or_path=str(folder))
    request = ModelRequest(config, 16, torch.device("cpu"), "fp32", seed=0)
    return load_pretrained(request, "mlm")


@pytest.fixture
def saved(model_dir: Path, tmp_path: Path) -> Callable[..., Path]:
    """Saves the tiny model with weights that a function has changed."""

    def save(change: Callable[[dict[str, Any]], Any], file: str = "model.safetensors") -> Path:
        folder = shutil.copytree(model_dir, tmp_path / "tiny", dirs_exist_ok=True)
        content = change(load_file(folder / "model.safetensors"))
        (folder / "model.safetensors").unlink()
        if file.endswith(".safetensors"):
            save_file(content, folder / file, {"format": "pt"})
        else:
            torch.save(content, folder / file)
        return folder

    return save


def renamed(rename: Callable[[str], str]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda weights: {rename(name): tensor for name, tensor in weights.items()}


WRAPPED = {
    "module": lambda name: f"module.{name}",
    "_orig_mod": lambda name: f"_orig_mod.{name}",
    "_orig_mod, module": lambda name: f"module._orig_mod.{name}",
    "_fsdp_wrapped_module": lambda name: name.replace("layer.0.", "layer.0._fsdp_wrapped_module."),
    "model": lambda name: f"model.{name}",
    "my_bert": lambda name: f"my_bert.{name}",
    "encoder": lambda name: name.replace("bert.", "encoder."),
}


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("left_out", WRAPPED)
def test_weights_with_a_wrappers_names_are_read_and_it_is_said(
    model_dir: Path, saved: Callable[..., Path], left_out: str, file: str
) -> None:
    folder = saved(renamed(WRAPPED[left_out]), file)
    loaded = load(folder)
    expected = AutoModelForMaskedLM.from_pretrained(model_dir).state_dict()
    assert loaded.new_weights == ()
    assert all(torch.equal(loaded.model.state_dict()[name], w) for name, w in expected.items())
    assert loaded.notes == (
        f"{folder}: its weights have the names of a wrapper; they are read without {left_out}",
    )
    # What is saved has its own names again.
    loaded.model.save_pretrained(folder / "again")
    assert (
        load_file(folder / "again" / "model.safetensors").keys()
        == load_file(model_dir / "model.safetensors").keys()
    )


@pytest.mark.parametrize("is_bare", [True, False])
def test_what_is_kept_of_a_wrapped_model_has_its_own_names(
    tokenizer: Any, tmp_path: Path, is_bare: bool
) -> None:
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=24, max_position_embeddings=64,
    )  # fmt: skip
    model = BertForPreTraining(config)
    (model.bert if is_bare else model).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    plain = load(tmp_path)
    path = tmp_path / "model.safetensors"
    save_file(renamed("module.{}".format)(load_file(path)), path, {"format": "pt"})
    wrapped = load(tmp_path)
    assert wrapped.kept_weights.keys() == plain.kept_weights.keys()
    assert wrapped.new_weights == plain.new_weights
    assert "bert.pooler.dense.weight" in wrapped.kept_weights


def test_weights_under_two_prefixes_are_refused(saved: Callable[..., Path]) -> None:
    def both(weights: dict[str, Any]) -> dict[str, Any]:
        return {f"{of}.{n}": w.clone() for of in ("query", "passage") for n, w in weights.items()}

    with pytest.raises(ConfigError, match="lacks weights of its encoder"):
        load(saved(both))


def test_a_checkpoint_of_training_is_no_file_of_weights(saved: Callable[..., Path]) -> None:
    folder = saved(lambda weights: {"state_dict": weights, "epoch": 3}, "pytorch_model.bin")
    with pytest.raises(ConfigError, match=r"holds no weights but state_dict, epoch; save"):
        load(folder)


class Code:
    """Runs when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_pickle_is_refused_and_not_run(
    saved: Callable[..., Path], tmp_path: Path, zipped: bool
) -> None:
    folder = saved(lambda weights: weights, "pytorch_model.bin")
    weights = torch.load(folder / "pytorch_model.bin", weights_only=True)
    torch.save(
        {**weights, "code": Code(tmp_path / "was-run")},
        folder / "pytorch_model.bin",
        _use_new_zipfile_serialization=zipped,
    )
    with pytest.raises(ConfigError, match="holds objects besides, which could run code"):
        load(folder)
    assert not (tmp_path / "was-run").exists()


def test_a_pickle_that_is_cut_off_is_said(saved: Callable[..., Path]) -> None:
    folder = saved(lambda weights: weights, "pytorch_model.bin")
    path = folder / "pytorch_model.bin"
    path.write_bytes(path.read_bytes()[:4000])
    with pytest.raises(ConfigError, match=r"has a pytorch_model\.bin that is damaged"):
        load(folder)


def as_integers(weights: dict[str, Any]) -> dict[str, Any]:
    return {n: w.mul(100).to(torch.int8) if w.ndim == 2 else w for n, w in weights.items()}


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_quantised_weights_are_refused(saved: Callable[..., Path], file: str) -> None:
    with pytest.raises(ConfigError, match=r"is quantised \(bert\.\S+ is saved as \S*(I8|int8)\)"):
        load(saved(as_integers, file))


def test_weights_that_are_not_finite_are_refused(saved: Callable[..., Path]) -> None:
    def spoil(weights: dict[str, Any]) -> dict[str, Any]:
        weights["bert.encoder.layer.1.output.dense.bias"][3] = float("nan")
        return weights

    with pytest.raises(ConfigError, match=r"not finite numbers \(bert\S+layer\.1\.output"):
        load(saved(spoil))


@pytest.mark.parametrize(
    "fault", [MemoryError(), OSError(errno.EIO, "Input/output error"),
              RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")]
)  # fmt: skip
@pytest.mark.parametrize("place", [AutoModelForMaskedLM, AutoTokenizer, AutoConfig])
def test_a_fault_of_the_machine_is_none_of_the_models(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch, place: Any, fault: Exception
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise fault

    monkeypatch.setattr(place, "from_pretrained", fail)
    with pytest.raises(type(fault)) as error:
        load(model_dir)
    assert error.value is fault


def test_half_of_a_wrapped_model_is_read_as_fp32(saved: Callable[..., Path]) -> None:
    folder = saved(lambda weights: {f"module.{n}": w.half() for n, w in weights.items()})
    assert {p.dtype for p in load(folder).model.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"num_hidden_layers": 3}, r"lacks weights of its encoder \(bert\.encoder\.layer\.2"),
     ({"hidden_size": 32}, r"does not fit its weights \(\S+ is \(\S+ in the file and \("),
     ({"is_decoder": True}, r"has is_decoder: true in its config\.json"),
     ({"hidden_act": "none such"}, "names 'none such', which transformers does not know")],
)  # fmt: skip
def test_a_config_that_does_not_fit_is_refused(
    saved: Callable[..., Path], changes: dict[str, Any], message: str
) -> None:
    folder = saved(lambda weights: weights)
    config = BertConfig.from_pretrained(folder)
    config.update(changes)
    config.save_pretrained(folder)
    with pytest.raises(ConfigError, match=message):
        load(folder)


def test_layers_that_the_config_leaves_out_are_said(saved: Callable[..., Path]) -> None:
    folder = saved(lambda weights: weights)
    config = BertConfig.from_pretrained(folder)
    config.num_hidden_layers = 1
    config.save_pretrained(folder)
    (note,) = load(folder).notes
    assert "its weights have more layers than its config.json says; bert.encoder.layer.1." in note
