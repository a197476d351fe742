"""Merged weights: exact at both ends, between them elsewhere, in the layout of the run."""

import gc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForMaskedLM

from mlmtune.config import ModelConfig
from mlmtune.errors import ConfigError
from mlmtune.merging.interpolation import Interpolation
from mlmtune.modeling.loading import LoadedModel, ModelRequest, load_pretrained
from mlmtune.modeling.weight_files import weight_files
from mlmtune.training.checkpoint import save_model

Adapt = Callable[..., Path]
NO_FIXTURE_PER_EXAMPLE = settings(
    max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def load(folder: Path) -> LoadedModel:
    request = ModelRequest(
        ModelConfig(name_or_path=str(folder)), 16, torch.device("cpu"), "fp32", seed=3
    )
    return load_pretrained(request, "mlm")


@pytest.fixture
def adapt(tmp_path: Path) -> Adapt:
    """Saves what training could have made of a model: every parameter has moved."""

    def save(base: Path, name: str = "adapted", seed: int = 0) -> Path:
        loaded, generator = load(base), torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in loaded.model.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator))
        save_model(tmp_path / name, loaded)
        return tmp_path / name

    return save


def read(folder: Path) -> dict[str, torch.Tensor]:
    return {n: t for file in weight_files(folder, {}) for n, t in load_file(file).items()}


def merged(weights: Interpolation, alpha: float, folder: Path) -> dict[str, torch.Tensor]:
    folder.mkdir(exist_ok=True)
    weights.write(folder, alpha)
    return read(folder)


def assert_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "modernbert"])
def test_the_ends_are_the_base_and_the_run_to_the_bit(
    tiny_models: Callable[[str], Path], adapt: Adapt, family: str, tmp_path: Path
) -> None:
    base = tiny_models(family)
    adapted, untouched = adapt(base), tmp_path / "untouched"
    save_model(untouched, load(base))
    weights = Interpolation(load(base), "base", [adapted], tmp_path / "kept")
    assert weights.new_weights == ()
    assert_equal(merged(weights, 1.0, tmp_path / "m"), read(adapted))
    assert_equal(merged(weights, 0.0, tmp_path / "m"), read(untouched))
    file = "model.safetensors"
    assert (tmp_path / "m" / file).read_bytes() == (untouched / file).read_bytes()


def test_a_base_whose_file_has_the_names_of_old_or_of_a_wrapper_is_understood(
    model_dir: Path, tokenizer: Any, adapt: Adapt, tmp_path: Path
) -> None:
    old, untouched = tmp_path / "old", tmp_path / "untouched"
    AutoModelForMaskedLM.from_pretrained(model_dir).save_pretrained(old)
    tokenizer.save_pretrained(old)
    renamed = {
        f"module.{name}".replace("Norm.weight", "Norm.gamma").replace("Norm.bias", "Norm.beta"): t
        for name, t in read(old).items()
    }
    save_file(renamed, old / "model.safetensors", {"format": "pt"})
    save_model(untouched, load(old))
    weights = Interpolation(load(old), "base", [adapt(old)], tmp_path / "kept")
    assert weights.new_weights == ()
    assert_equal(merged(weights, 0.0, tmp_path / "m"), read(untouched))


@NO_FIXTURE_PER_EXAMPLE
@given(alpha=st.floats(0, 1))
def test_between_them_every_weight_is_their_mean(
    model_dir: Path, adapt: Adapt, tmp_path: Path, alpha: float
) -> None:
    adapted = adapt(model_dir)
    weights = Interpolation(load(model_dir), "base", [adapted], tmp_path / "kept")
    of_base, of_run = read(model_dir), read(adapted)
    for name, tensor in merged(weights, alpha, tmp_path / "m").items():
        expected = (1 - alpha) * of_base[name].double() + alpha * of_run[name].double()
        torch.testing.assert_close(tensor.double(), expected, rtol=1e-6, atol=1e-6)


def test_the_base_is_not_kept_in_memory(model_dir: Path, adapt: Adapt, tmp_path: Path) -> None:
    adapted, base = adapt(model_dir), load(model_dir)
    weights = Interpolation(base, "base", [adapted], tmp_path / "kept")
    tensors = [weakref.ref(t) for t in base.model.parameters()]
    del base
    gc.collect()
    assert not [t for t in tensors if t() is not None]
    assert_equal(merged(weights, 1.0, tmp_path / "m"), read(adapted))


def test_a_soup_is_the_mean_of_its_runs(model_dir: Path, adapt: Adapt, tmp_path: Path) -> None:
    runs = [adapt(model_dir, f"run-{seed}", seed) for seed in range(3)]
    soup = merged(
        Interpolation(load(model_dir), "base", runs, tmp_path / "kept"), 1.0, tmp_path / "m"
    )
    each = [read(run) for run in runs]
    for name, tensor in soup.items():
        torch.testing.assert_close(tensor, sum(e[name] for e in each) / 3)
    # Equal runs are their own mean, to the bit.
    same = Interpolation(load(model_dir), "base", [runs[0]] * 3, tmp_path / "kept")
    assert_equal(merged(same, 1.0, tmp_path / "m"), each[0])


def test_a_new_head_is_the_runs_at_every_alpha_and_other_heads_stay(
    pair_model_dir: Path, tokenizer: Any, adapt: Adapt, tmp_path: Path
) -> None:
    """A base without a masked-LM head, with a pooler, which training does not touch."""
    base = tmp_path / "headless"
    AutoModel.from_pretrained(pair_model_dir).save_pretrained(base)
    tokenizer.save_pretrained(base)
    adapted = adapt(base)
    weights = Interpolation(load(base), "base", [adapted], tmp_path / "kept")
    of_run, of_base = read(adapted), read(base)
    assert weights.new_weights
    assert all(name.startswith("cls.predictions.") for name in weights.new_weights)
    for alpha in (0.0, 0.3):
        result = merged(weights, alpha, tmp_path / "m")
        for name in weights.new_weights:
            assert torch.equal(result[name], of_run[name])
        pooler = "pooler.dense.weight"
        assert torch.equal(result[f"bert.{pooler}"], of_base[pooler])
    encoder = {n: t for n, t in merged(weights, 0.0, tmp_path / "m").items() if n.startswith("b")}
    assert_equal({n.removeprefix("bert."): t for n, t in encoder.items()}, of_base)


def test_tied_weights_stay_tied(model_dir: Path, adapt: Adapt, tmp_path: Path) -> None:
    adapted = adapt(model_dir)
    load(adapted).model.config.save_pretrained(tmp_path / "m")
    merged(
        Interpolation(load(model_dir), "base", [adapted], tmp_path / "kept"), 0.5, tmp_path / "m"
    )
    model = AutoModelForMaskedLM.from_pretrained(tmp_path / "m")
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_shards_and_the_precision_of_the_run_are_kept(
    model_dir: Path, adapt: Adapt, tmp_path: Path
) -> None:
    whole = adapt(model_dir)
    shards = tmp_path / "shards"
    model = AutoModelForMaskedLM.from_pretrained(whole, dtype=torch.bfloat16)
    model.save_pretrained(shards, max_shard_size="5KB")
    assert len(weight_files(shards, {})) > 1
    result = tmp_path / "m"
    result.mkdir()
    (result / "model.safetensors.index.json").write_bytes(
        (shards / "model.safetensors.index.json").read_bytes()
    )
    written = merged(
        Interpolation(load(model_dir), "base", [shards], tmp_path / "kept"), 0.5, result
    )
    of_base, of_run = read(model_dir), read(shards)
    for name, tensor in written.items():
        mean = (of_base[name] + of_run[name].float()) / 2
        torch.testing.assert_close(tensor, mean.bfloat16(), rtol=0, atol=2e-2)
    for file in weight_files(shards, {}):
        with safe_open(file, "pt") as one, safe_open(result / file.name, "pt") as other:
            assert one.offset_keys() == other.offset_keys()
            assert one.metadata() == other.metadata()


def change(adapted: Path, edit: Callable[[dict[str, torch.Tensor]], None]) -> None:
    tensors = read(adapted)
    edit(tensors)
    save_file(tensors, adapted / "model.safetensors", {"format": "pt"})


BIAS = "cls.predictions.transform.dense.bias"


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda t: t.update({BIAS: torch.zeros(17)}), rf"{BIAS} as \[17\], .* has it as \[16\]"),
        (lambda t: t.update(another=torch.zeros(1)), r"another as \[1\], .* lacks it"),
        (lambda t: t.pop(BIAS), f"lacks the weight {BIAS} of its base"),
    ],
)
def test_another_architecture_is_refused(
    model_dir: Path,
    adapt: Adapt,
    edit: Callable[[Any], None],
    message: str,
    tmp_path: Path,
) -> None:
    adapted = adapt(model_dir)
    change(adapted, edit)
    with pytest.raises(ConfigError, match=message):
        Interpolation(load(model_dir), "base", [adapted], tmp_path / "kept")


def test_runs_of_different_layouts_are_refused(
    model_dir: Path, adapt: Adapt, tmp_path: Path
) -> None:
    first, second = adapt(model_dir, "first"), adapt(model_dir, "second")
    change(second, lambda t: t.pop(BIAS))
    with pytest.raises(ConfigError, match=f"second: its weight {BIAS} is not as in"):
        Interpolation(load(model_dir), "base", [first, second], tmp_path / "kept")


def test_equal_integers_are_taken_over_and_others_are_refused(
    model_dir: Path, adapt: Adapt, tmp_path: Path
) -> None:
    adapted, base = adapt(model_dir), load(model_dir)
    base.model.register_buffer("count", torch.tensor([3]))
    change(adapted, lambda t: t.update(count=torch.tensor([3])))
    result = merged(Interpolation(base, "base", [adapted], tmp_path / "kept"), 0.5, tmp_path / "m")
    assert torch.equal(result["count"], torch.tensor([3]))
    change(adapted, lambda t: t.update(count=torch.tensor([4])))
    with pytest.raises(ConfigError, match="count holds integers that differ"):
        Interpolation(base, "base", [adapted], tmp_path / "kept")
