"""Files of weights: which ones a folder has, and whether they are complete. Needs no torch."""

import json
import re
from collections.abc import Collection
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

WEIGHT_FILES = (
    "model.safetensors", "model.safetensors.index.json",
    "pytorch_model.bin", "pytorch_model.bin.index.json",
)  # fmt: skip
"""The first of these files that a folder has is read, unless its config names another file."""

_ITS_SOURCE = "give the PyTorch model that it was made from"
OTHER_FORMATS = (
    # pattern, framework, what to do
    ("*.h5", "TensorFlow", "convert it with transformers 4 (from_tf=True)"),
    ("*.ckpt.index", "TensorFlow", "convert it with transformers 4 (from_tf=True)"),
    ("*.msgpack", "Flax", "convert it with transformers 4 (from_flax=True)"),
    ("*.onnx", "ONNX", _ITS_SOURCE),
    ("openvino_model.*", "OpenVINO", _ITS_SOURCE),
    ("*.gguf", "GGUF", _ITS_SOURCE),
    ("*.ot", "Rust", _ITS_SOURCE),
)
"""Formats that cannot be loaded. The error names the first one that the folder has."""

ADAPTER_CONFIG = "adapter_config.json"

QUANTISED_TYPES = ("I8", "U8", "F8_E4M3", "F8_E5M2", "F4", "I4")
"""Types of safetensors for quantised weights, which mean nothing without their scales."""


class BadWeights(Exception):
    """The weights of a folder cannot be loaded. The message follows the model's name."""


def weight_files(folder: Path, model_config: dict[str, Any]) -> list[Path]:
    """Return the files that hold a model's weights, with all shards.

    Args:
        folder: The model's folder.
        model_config: The content of its config.json, which may name the file.

    Raises:
        BadWeights: There are no weights, or a shard is missing.
    """
    names = (model_config.get("transformers_weights"), *WEIGHT_FILES)
    path = next((folder / name for name in names if name and (folder / name).is_file()), None)
    if path is None:
        files = [p for pattern in ("*", "*/*") for p in folder.glob(pattern) if p.is_file()]
        raise BadWeights(why_no_weights([str(file.relative_to(folder)) for file in files]))
    if path.suffix != ".json":
        return [path]
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        shards = sorted({folder / name for name in index["weight_map"].values()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadWeights(f"has a broken {path.name}; fetch or save the model again") from error
    for shard in shards:
        if not shard.is_file():
            raise BadWeights(f"lacks {shard.name}, which {path.name} names; fetch it again")
    return shards


def why_no_weights(names: Collection[str]) -> str:
    """Say what a model's folder has instead of weights.

    Args:
        names: The names of its files, with those in its folders (`onnx/model.onnx`).
    """
    if ADAPTER_CONFIG in names:
        return (
            "holds an adapter alone (adapter_config.json); merge it into the model that it was "
            "trained for (peft: merge_and_unload(), then save_pretrained()), and give that folder"
        )
    for name in names:
        if re.search(r"-\d+-of-\d+\.(safetensors|bin)$", name):
            index = re.sub(r"-\d+-of-\d+(.*)", r"\1.index.json", name)
            return f"lacks {index}, which says what its shards hold; fetch it again"
    for pattern, framework, advice in OTHER_FORMATS:
        for name in sorted(names):
            if fnmatch(name.rpartition("/")[2], pattern):
                return f"has {framework} weights alone ({name}); {advice}"
    own_names = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")
    for name in sorted(names):
        if name.endswith(own_names) and "/" not in name and not name.startswith("training_args"):
            expected = WEIGHT_FILES[0 if name.endswith(".safetensors") else 2]
            return f"has no {expected}; if {name} holds its weights, rename it to that"
    return "has no weights (model.safetensors or pytorch_model.bin); fetch or save the model again"


def is_lfs_pointer(path: Path) -> bool:
    """Whether a file is one of Git LFS's pointers, which say where the content is."""
    # Git LFS limits its pointers to 1024 bytes, so no large file is read.
    is_small = path.is_file() and path.stat().st_size <= 1024
    return is_small and path.read_bytes().startswith(b"version https://git-lfs.github.com/spec/")


def check_safetensors(path: Path) -> None:
    """Compare a file's size with its header, and check the types of its tensors.

    Raises:
        BadWeights: The file is cut off, is not a safetensors file, or holds quantised weights.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > size - 8:
            raise BadWeights(
                f"has a {path.name} that is cut off or not a safetensors file ({size:,} bytes); "
                "fetch it again"
            )
        try:
            header = json.loads(file.read(length))
            tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
            ends = [entry["data_offsets"][1] for entry in tensors.values()]
            expected_size = 8 + length + max(ends, default=0)
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise BadWeights(
                f"has a {path.name} that is not a safetensors file; fetch it again"
            ) from error
    if expected_size != size:
        raise BadWeights(
            f"has a {path.name} of {size:,} bytes instead of {expected_size:,}; fetch it again"
        )
    for name, entry in tensors.items():
        if entry.get("dtype") in QUANTISED_TYPES and len(entry.get("shape", ())) > 1:
            raise BadWeights(quantised(f"{name} is saved as {entry['dtype']}"))


def quantised(evidence: str) -> str:
    """Say that weights were rounded to a few bits, and how that was seen."""
    return f"is quantised ({evidence}), and cannot be trained; give the model that it was made from"
