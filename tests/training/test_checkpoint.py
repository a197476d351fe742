"""Checkpoints: whole or absent, verified before use, without pickles."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoModelForPreTraining, AutoTokenizer

from mlmtune.config import OptimizerConfig
from mlmtune.errors import CheckpointError
from mlmtune.modeling.loading import LoadedModel
from mlmtune.training.checkpoint import (
    TrainState,
    drop_checkpoints_after,
    find_checkpoint,
    find_fault,
    list_checkpoints,
    load_optimizer,
    load_state,
    load_weights,
    moments_of,
    prune,
    save_checkpoint,
    step_of,
)
from mlmtune.training.optimization import build_optimizer
from mlmtune.training.window import Window

FILES = ["config.json", "model.safetensors", "optimizer.safetensors", "state.json",
         "tokenizer.json", "tokenizer_config.json", "MANIFEST.json"]  # fmt: skip


@pytest.fixture(scope="module")
def trained(model_dir: Path, tokenizer: Any) -> tuple[LoadedModel, torch.optim.Optimizer]:
    """A model and an optimizer that have taken two steps, with no weights kept besides."""
    model = AutoModelForMaskedLM.from_pretrained(model_dir)
    optimizer = build_optimizer(model, OptimizerConfig(learning_rate=0.01))
    torch.manual_seed(1)
    for _ in range(2):
        for parameter in model.parameters():
            parameter.grad = torch.randn_like(parameter)
        optimizer.step()
    return LoadedModel(model, tokenizer, (), (), {}, "eager", None), optimizer


def save(folder: Path, trained: Any, state: TrainState) -> Path:
    loaded, optimizer = trained
    return save_checkpoint(folder, loaded, moments_of(optimizer), state)


@pytest.fixture
def saved(tmp_path: Path, trained: Any) -> Path:
    """A folder with the checkpoints of steps 2, 4 and 10."""
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    for step in (2, 10, 4):
        save(folder, trained, TrainState(identity={}, step=step))
    return folder


# ------------------------------------------------------------------------------ what is saved


def test_a_checkpoint_holds_these_files_and_no_pickle(saved: Path) -> None:
    names = {path.name for path in (saved / "checkpoint-10").iterdir()}
    assert names >= set(FILES)
    assert {Path(name).suffix for name in names} <= {".json", ".safetensors", ".txt"}
    for path in (saved / "checkpoint-10").glob("*.json"):
        json.loads(path.read_text(encoding="utf-8"))


def test_a_checkpoint_loads_with_from_pretrained(saved: Path, trained: Any) -> None:
    model = AutoModelForMaskedLM.from_pretrained(saved / "checkpoint-4")
    for name, weight in trained[0].model.state_dict().items():
        assert torch.equal(model.state_dict()[name], weight)
    tokenizer = AutoTokenizer.from_pretrained(saved / "checkpoint-4")
    assert tokenizer("the cluster")["input_ids"] == trained[0].tokenizer("the cluster")["input_ids"]


def test_weights_and_optimizer_come_back_to_the_bit(
    saved: Path, trained: Any, model_dir: Path
) -> None:
    model = AutoModelForMaskedLM.from_pretrained(model_dir)
    optimizer = build_optimizer(model, OptimizerConfig(learning_rate=0.01))
    load_weights(saved / "checkpoint-4", model)
    load_optimizer(saved / "checkpoint-4", optimizer)
    for (name, expected), (_, actual) in zip(
        trained[0].model.named_parameters(), model.named_parameters(), strict=True
    ):
        assert torch.equal(expected, actual), name
        state = optimizer.state[actual]
        assert state.keys() == {"step", "exp_avg", "exp_avg_sq"}
        for key, value in trained[1].state[expected].items():
            assert torch.equal(value, state[key]), (name, key)
            assert value.dtype == state[key].dtype


def test_weights_that_are_kept_are_saved_and_loaded_by_the_class_that_has_them(
    tmp_path: Path, trained: Any, model_dir: Path
) -> None:
    loaded, optimizer = trained
    kept = {
        "cls.seq_relationship.weight": torch.ones(2, 16),
        "bert.pooler.dense.bias": torch.ones(16),
    }
    state = TrainState(identity={}, step=1)
    path = save(tmp_path, (replace(loaded, kept_weights=kept), optimizer), state)
    whole, report = AutoModelForPreTraining.from_pretrained(path, output_loading_info=True)
    assert report["missing_keys"] == {"cls.seq_relationship.bias", "bert.pooler.dense.weight"}
    assert all(torch.equal(whole.state_dict()[name], tensor) for name, tensor in kept.items())
    again = AutoModelForMaskedLM.from_pretrained(model_dir)
    load_weights(path, again)
    assert all(torch.equal(again.state_dict()[n], w) for n, w in loaded.model.state_dict().items())


def test_state_comes_back(tmp_path: Path, trained: Any) -> None:
    window = Window({"loss": 0.1}, {"loss": 3})
    state = TrainState({"run.seed": 3}, step=7, window=window, best_criterion=1 / 3)
    state.evaluations["7"] = {"loss": 1 / 3, "perplexity_interval": [1.0, 2.0]}
    assert load_state(save(tmp_path, trained, state)) == state


def test_the_state_of_another_format_is_refused(saved: Path) -> None:
    file = saved / "checkpoint-4" / "state.json"
    state = json.loads(file.read_text(encoding="utf-8"))
    del state["format_version"]  # as before there was a number
    file.write_text(json.dumps(state), encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"of format 1, .* reads format 3; finish the run"):
        load_state(saved / "checkpoint-4")


def test_an_optimizer_of_another_model_is_refused(saved: Path) -> None:
    other = torch.nn.Linear(2, 2)
    with pytest.raises(CheckpointError, match="does not fit weight"):
        load_optimizer(saved / "checkpoint-4", build_optimizer(other, OptimizerConfig()))


def test_weights_of_another_shape_are_refused(saved: Path, trained: Any) -> None:
    config = trained[0].model.config
    config = config.__class__.from_dict({**config.to_dict(), "intermediate_size": 64})
    with pytest.raises(CheckpointError, match="checkpoint-4"):
        load_weights(saved / "checkpoint-4", AutoModelForMaskedLM.from_config(config))


# --------------------------------------------------------------------------- what is damaged


def test_every_flipped_bit_of_the_manifest_is_found(saved: Path) -> None:
    manifest = saved / "checkpoint-10" / "MANIFEST.json"
    content = manifest.read_bytes()
    entry = content.index(b"config.json")
    # Its beginning, and one whole entry: name, keys, size and hash.
    for place in (*range(20), *range(entry, entry + 100)):
        damaged = bytearray(content)
        damaged[place] ^= 1 << (place % 8)
        manifest.write_bytes(damaged)
        assert find_fault(saved / "checkpoint-10") is not None, bytes(damaged)


@pytest.mark.parametrize("content", ["[]", "null", '{"files": []}', '{"files": {"model.safetensors": 1, "optimizer.safetensors": 2, "state.json": 3}}'])  # fmt: skip  # noqa: E501
def test_a_manifest_of_another_shape_is_a_fault(saved: Path, content: str) -> None:
    (saved / "checkpoint-10" / "MANIFEST.json").write_text(content, encoding="utf-8")
    assert "MANIFEST.json" in str(find_fault(saved / "checkpoint-10"))


def test_no_checkpoint_is_no_error(tmp_path: Path) -> None:
    assert find_checkpoint(tmp_path, pytest.fail) is None
    assert find_checkpoint(tmp_path / "missing", pytest.fail) is None


def test_other_names_are_never_taken(saved: Path) -> None:
    newest = saved / "checkpoint-10"
    for name in (".writing-checkpoint-11", "checkpoint-12-old", "checkpoint-", "checkpoint--3"):
        shutil.copytree(newest, saved / name)
    assert find_checkpoint(saved, pytest.fail) == newest


# ----------------------------------------------------------------------------- what is kept


@pytest.mark.parametrize(
    ("keep", "best", "kept"),
    [(1, None, [10]), (2, None, [4, 10]), (1, 2, [2, 10]), (2, 10, [4, 10]), (5, None, [2, 4, 10])],
)
def test_prune_keeps_the_newest_and_the_best(
    saved: Path, keep: int, best: int | None, kept: list[int]
) -> None:
    (saved / ".writing-checkpoint-3").mkdir()
    (saved / "notes.txt").write_text("mine", encoding="utf-8")
    prune(saved, keep, {best})
    assert {path.name for path in saved.iterdir()} == {
        "notes.txt", *(f"checkpoint-{step}" for step in kept)
    }  # fmt: skip


def test_checkpoints_of_later_steps_are_dropped(saved: Path) -> None:
    assert drop_checkpoints_after(saved, 4) == [saved / "checkpoint-10"]
    assert {path.name for path in saved.iterdir()} == {"checkpoint-2", "checkpoint-4"}


def test_saving_a_step_again_replaces_it(saved: Path, trained: Any) -> None:
    save(saved, trained, TrainState(identity={"again": 1}, step=4))
    assert find_fault(saved / "checkpoint-4") is None
    assert load_state(saved / "checkpoint-4").identity == {"again": 1}


@pytest.mark.parametrize(
    "name",
    ["checkpoint-\u00b2", "checkpoint-\u0663", "checkpoint-007", "checkpoint-", "checkpoint--1"],
)
def test_a_name_without_a_plain_number_is_no_checkpoint(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    assert step_of(tmp_path / name) == -1
    assert list_checkpoints(tmp_path) == []


def test_a_file_with_the_name_of_a_checkpoint_gives_way(tmp_path: Path, trained: Any) -> None:
    (tmp_path / "checkpoint-2").write_text("mine", encoding="utf-8")
    assert find_fault(tmp_path / "checkpoint-2") == "MANIFEST.json is missing or broken"
    save(tmp_path, trained, TrainState(identity={}, step=2))
    assert find_fault(tmp_path / "checkpoint-2") is None
