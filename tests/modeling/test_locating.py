"""Folders as people have them: what is found in them, and what is said where that is no model."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from huggingface_hub import constants
from local_hub import LocalHub, Repo

from mlmtune.errors import ConfigError
from mlmtune.modeling.locating import ModelFolder, files_to_fetch, folder_on_hub, locate_model
from mlmtune.modeling.sentence_encoder import SentenceEncoder

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a21\nsize 12345\n"
INDEX = "model.safetensors.index.json"


@pytest.fixture
def folder(model_dir: Path, tmp_path: Path) -> Path:
    """A copy of a tiny model."""
    return shutil.copytree(model_dir, tmp_path / "tiny")


def write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = content if isinstance(content, str) else json.dumps(content)
    path.write_text(text, encoding="utf-8")


def shorten(path: Path, num_bytes: int) -> None:
    path.write_bytes(path.read_bytes()[:num_bytes])


def without_weights(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        write(folder / name, "nothing")

    return change


def edited(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        content = json.loads((folder / "config.json").read_text(encoding="utf-8")) | changes
        kept = {key: value for key, value in content.items() if value is not None}
        write(folder / "config.json", kept)

    return change


def emptied(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def with_shards(*shards: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        for shard in shards:
            shutil.copy(folder / "model.safetensors", folder / shard)
        (folder / "model.safetensors").unlink()
        weights = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
        write(folder / INDEX, {"weight_map": weights})

    return change


def nested(*names: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        copy = shutil.copytree(folder, folder.parent / "copy")
        emptied(folder)
        for name in names:
            shutil.copytree(copy, folder / name)

    return change


def adapter_alone(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    write(folder / "adapter_config.json", {"peft_type": "LORA"})
    write(folder / "adapter_model.safetensors", "")


REFUSED = {
    "nothing in it": (emptied, "is an empty folder"),
    "a pointer for weights": (
        lambda f: write(f / "model.safetensors", POINTER),
        r"has a Git LFS pointer in place of model\.safetensors; run git lfs pull in .*tiny",
    ),
    "a pointer for a tokenizer": (
        lambda f: write(f / "vocab.txt", POINTER),
        r"has a Git LFS pointer in place of vocab\.txt",
    ),
    "an adapter": (adapter_alone, r"holds an adapter alone .*merge_and_unload"),
    "an adapter and its config": (
        lambda f: [adapter_alone(f), (f / "config.json").unlink()],
        "holds an adapter alone",
    ),
    "an adapter beside a model": (
        lambda f: write(f / "adapter_config.json", {}),
        r"holds an adapter beside a model; remove adapter_config\.json",
    ),
    "tensorflow": (without_weights("tf_model.h5"), r"has TensorFlow weights alone .*from_tf=True"),
    "flax": (without_weights("flax_model.msgpack"), "has Flax weights alone"),
    "onnx": (without_weights("onnx/model.onnx"), r"has ONNX weights alone \(onnx/model\.onnx\)"),
    "google's": (
        lambda f: [emptied(f), write(f / "bert_config.json", {})],
        "is a checkpoint of Google's BERT for TensorFlow",
    ),
    "another name": (
        without_weights("weights.pt"),
        r"has no pytorch_model\.bin; if weights\.pt holds its weights, rename it",
    ),
    "no weights": (
        without_weights("training_args.bin"), r"has no weights \(model\.safetensors or"
    ),
    "cut off": (
        lambda f: shorten(f / "model.safetensors", 5000),
        r"has a model\.safetensors of 5,000 bytes instead of [\d,]+; fetch it again",
    ),
    "no safetensors": (
        lambda f: write(f / "model.safetensors", "<!doctype html>"),
        r"has a model\.safetensors that is cut off or not a safetensors file \(15 bytes\)",
    ),
    "a missing shard": (
        with_shards("model-00001-of-00002.safetensors"),
        rf"lacks model-00002-of-00002\.safetensors, which {INDEX} names",
    ),
    "shards without an index": (
        without_weights("model-00001-of-00002.safetensors"), rf"lacks {INDEX}"
    ),
    "a broken index": (
        lambda f: [without_weights(INDEX)(f), write(f / INDEX, "{")], rf"has a broken {INDEX}"
    ),
    "no type": (
        edited(model_type=None),
        r'has no model_type in its config\.json.*add a line "model_type": "bert"',
    ),
    "no type, but an architecture": (
        edited(model_type=None, architectures=["CamembertForMaskedLM"]),
        '"model_type": "camembert"',
    ),
    "broken config": (
        lambda f: write(f / "config.json", "{"), r"has a config\.json that is not JSON"
    ),
    "a list for a config": (
        lambda f: write(f / "config.json", [1]), r"has a config\.json that is not a JSON object"
    ),
    "quantised": (
        edited(quantization_config={"quant_method": "gptq"}),
        r"is quantised \(config\.json has a quantization_config\)",
    ),
    "checkpoints of a trainer": (
        nested("checkpoint-500", "checkpoint-1000"),
        r"has no config\.json, but holds models; give \S*-500 or \S*checkpoint-1000$",
    ),
    "a hub's cache": (
        nested("snapshots/abc"), r"holds models; give \S*tiny/snapshots/abc$",
    ),
    "a run without a result": (
        lambda f: [nested("checkpoints/checkpoint-2")(f), write(f / "status.json", {})],
        r"is a run without a result; give its newest checkpoint, \S*checkpoint-2, or let it",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_loaded_is_refused_by_its_cause(folder: Path, case: str) -> None:
    change, message = REFUSED[case]
    change(folder)
    with pytest.raises(ConfigError, match=message) as error:
        locate_model(str(folder), None, "--model")
    assert str(error.value).startswith(f"--model: {folder} ")
    assert "\n" not in str(error.value)


def test_a_files_own_folder_is_named(folder: Path) -> None:
    with pytest.raises(ConfigError, match=rf"is a file; give the folder that it is in: {folder}$"):
        locate_model(str(folder / "model.safetensors"), None)


def test_the_address_of_a_page_is_answered_with_the_models_name() -> None:
    with pytest.raises(ConfigError, match=r"give its name on the hub, owner/name$"):
        locate_model("https://huggingface.co/owner/name/tree/main", None)


@pytest.mark.parametrize("given", ["run", "run/", "run/model", "run/model/"])
def test_a_run_is_named_by_its_directory_and_by_its_result(
    model_dir: Path, tmp_path: Path, given: str
) -> None:
    shutil.copytree(model_dir, tmp_path / "run" / "model")
    write(tmp_path / "run" / "status.json", {"state": "finished"})
    found = locate_model(str(tmp_path / given), None)
    assert found.path == tmp_path / "run" / "model"
    assert found.notes == ()


@pytest.mark.parametrize(
    ("inner", "kind"),
    [("0_Transformer", "sentence_transformers.models.Transformer"),
     ("0_BERT", "sentence_transformers.models.BERT")],
)  # fmt: skip
def test_the_encoder_of_sentence_transformers_is_found(folder: Path, inner: str, kind: str) -> None:
    nested(inner)(folder)
    modules = [
        {"idx": 0, "name": "0", "path": inner, "type": kind},
        {
            "idx": 1,
            "name": "1",
            "path": "1_Pooling",
            "type": "sentence_transformers.models.Pooling",
        },
    ]
    write(folder / "modules.json", modules)
    write(folder / "1_Pooling" / "config.json", {"pooling_mode_mean_tokens": True})
    write(folder / "config.json", {"__version__": "2.0"})
    found = locate_model(str(folder), None)
    assert found.path == folder / inner
    assert found.notes == (f"{folder}: the model is in its folder {inner}",)


def test_a_new_sentence_transformer_is_its_own_folder(folder: Path) -> None:
    module = {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}
    write(folder / "modules.json", [module])
    assert locate_model(str(folder), None).path == folder


# What the files of a repository on the hub say, before any is fetched.


@pytest.mark.parametrize(
    ("names", "inner"),
    [(["config.json", "model.safetensors", "onnx/model.onnx"], ""),
     (["config.json", "pytorch_model.bin", "1_Pooling/config.json", "modules.json"], ""),
     (["modules.json", "0_Transformer/config.json", "0_Transformer/pytorch_model.bin",
       "1_Pooling/config.json"], "0_Transformer/")],
)  # fmt: skip
def test_the_folder_of_a_repository_that_holds_the_model_is_found(
    names: list[str], inner: str
) -> None:
    assert folder_on_hub(ModelFolder(Path(), "owner/name"), names) == inner


@pytest.mark.parametrize(
    ("names", "message"),
    [(["config.json", "tf_model.h5"], r"has TensorFlow weights alone \(tf_model\.h5\)"),
     (["adapter_config.json", "adapter_model.safetensors"], "holds an adapter alone"),
     (["config.json", "onnx/model.onnx"], "has ONNX weights alone"),
     (["README.md"], "has no weights"),
     (["model.safetensors"], r"has no config\.json")],
)  # fmt: skip
def test_a_repository_without_a_model_is_refused_before_it_is_fetched(
    names: list[str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        folder_on_hub(ModelFolder(Path(), "owner/name"), names)


@pytest.mark.parametrize("inner", ["", "0_Transformer/"])
def test_of_a_repository_the_model_and_its_pooling_are_fetched(inner: str) -> None:
    model = [f"{inner}{name}" for name in ("config.json", "model.safetensors", "vocab.txt")]
    pooling = ["modules.json", "1_Pooling/config.json"]
    other = [f"{inner}pytorch_model.bin", f"{inner}onnx/model.onnx", f"{inner}onnx/config.json",
             f"{inner}README.md"]  # fmt: skip
    assert files_to_fetch([*model, *pooling, *other], inner) == sorted([*model, *pooling])
    pickled = [f"{inner}config.json", f"{inner}pytorch_model.bin"]
    assert files_to_fetch(pickled, inner) == pickled


def test_an_empty_name_is_no_folder() -> None:
    with pytest.raises(ConfigError, match=r"^--model: the name is empty; give a model$"):
        locate_model("", None, "--model")


@pytest.mark.parametrize("inner", ["", "0_Transformer"])
def test_a_sentence_encoder_of_the_hub_keeps_its_pooling_offline(
    here: LocalHub, model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inner: str
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    modules = [
        {"path": inner, "type": "sentence_transformers.models.Transformer"},
        {"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    ]
    pooling = {"pooling_mode_cls_token": True}
    described = {"modules.json": modules, "1_Pooling/config.json": pooling}
    files = {name: json.dumps(content).encode() for name, content in described.items()}
    of_model = {str(PurePosixPath(inner, f.name)): f.read_bytes() for f in model_dir.iterdir()}
    here.repos["someone/encoder"] = Repo(
        private=False, files=files | of_model, commits=[{"oid": "1" * 40}]
    )
    for is_offline in (False, True):
        if is_offline:
            here.repos.clear()
            monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        path = locate_model("someone/encoder", None).path
        assert path.name == (inner or "1" * 40)
        encoder = SentenceEncoder.of(path)
        assert encoder is not None
        assert encoder.kind == "cls"
