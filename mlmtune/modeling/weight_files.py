"""Files of weights on disk: which a folder has, and whether they are whole; without torch."""

import json
import re
from collections.abc import Collection, Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

WEIGHT_FILES = (
    "model.safetensors", "model.safetensors.index.json",
    "pytorch_model.bin", "pytorch_model.bin.index.json",
)  # fmt: skip
"""The first that a folder has holds its weights, unless its config names another file."""

_ITS_SOURCE = "give the PyTorch model that it was made from"
OTHER_FORMATS = (
    # pattern, what writes it, the way out
    ("*.h5", "TensorFlow", "convert it with transformers 4 (from_tf=True)"),
    ("*.ckpt.index", "TensorFlow", "convert it with transformers 4 (from_tf=True)"),
    ("*.msgpack", "Flax", "convert it with transformers 4 (from_flax=True)"),
    ("*.onnx", "ONNX", _ITS_SOURCE),
    ("openvino_model.*", "OpenVINO", _ITS_SOURCE),
    ("*.gguf", "GGUF", _ITS_SOURCE),
    ("*.ot", "Rust", _ITS_SOURCE),
)
"""Weights that cannot be loaded; the first pattern that a file has is named."""

ADAPTER_CONFIG = "adapter_config.json"
LFS_POINTER = b"version https://git-lfs.github.com/spec/"
LARGEST_POINTER = 1024
"""Bytes; Git LFS holds its pointers to this."""

INTEGERS = ("I8", "U8", "F8_E4M3", "F8_E5M2", "F4", "I4")
"""Types of safetensors in which quantised weights are saved; they mean nothing without scales."""


class BadWeights(Exception):
    """Why a folder's weights cannot be loaded; goes on after the model's name."""


def weight_files(folder: Path, model_config: dict[str, Any]) -> list[Path]:
    """The files that hold a model's weights, all shards of them.

    Args:
        folder: the model's.
        model_config: content of its config.json, which may name the file.

    Raises:
        BadWeights: there are none, or a file is missing.
    """
    names = (model_config.get("transformers_weights"), *WEIGHT_FILES)
    path = next((folder / name for name in names if name and (folder / name).is_file()), None)
    if path is None:
        raise BadWeights(why_no_weights([str(p.relative_to(folder)) for p in _files(folder)]))
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


def _files(folder: Path) -> Iterator[Path]:
    """Files in a folder and in those directly below it."""
    return (path for pattern in ("*", "*/*") for path in folder.glob(pattern) if path.is_file())


def why_no_weights(names: Collection[str]) -> str:
    """What a model's folder has in the place of weights.

    Args:
        names: of its files, with those of its folders (`onnx/model.onnx`).
    """
    if ADAPTER_CONFIG in names:
        return (
            "holds an adapter alone (adapter_config.json); merge it into the model that it was "
            "trained for (peft: merge_and_unload(), then save_pretrained()), and give that folder"
        )
    shard = next(
        (name for name in names if re.search(r"-\d+-of-\d+\.(safetensors|bin)$", name)), None
    )
    if shard is not None:
        index = re.sub(r"-\d+-of-\d+(.*)", r"\1.index.json", shard)
        return f"lacks {index}, which says what its shards hold; fetch it again"
    for pattern, framework, way_out in OTHER_FORMATS:
        for name in sorted(names):
            if fnmatch(name.rpartition("/")[2], pattern):
                return f"has {framework} weights alone ({name}); {way_out}"
    own_names = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")
    for name in sorted(names):
        if name.endswith(own_names) and "/" not in name and not name.startswith("training_args"):
            expected = WEIGHT_FILES[0 if name.endswith(".safetensors") else 2]
            return f"has no {expected}; if {name} holds its weights, rename it to that"
    return "has no weights (model.safetensors or pytorch_model.bin); fetch or save the model again"


def find_lfs_pointers(folder: Path) -> list[str]:
    """Names of files that Git LFS has left out: a few lines that say where their content is."""
    return [path.name for path in sorted(folder.iterdir()) if path.is_file() and _is_pointer(path)]


def _is_pointer(path: Path) -> bool:
    if path.stat().st_size > LARGEST_POINTER:
        return False
    return path.read_bytes().startswith(LFS_POINTER)


def check_safetensors(path: Path) -> None:
    """Compare a file's size with what its header says, and look at the types of its tensors.

    Raises:
        BadWeights: it is cut off, no safetensors file, or holds quantised weights.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > size - 8:
            raise BadWeights(
                f"has a {path.name} that is cut off or no safetensors file ({size:,} bytes); fetch "
                "it again"
            )
        try:
            header = json.loads(file.read(length))
            tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
            end = (
                8
                + length
                + max((entry["data_offsets"][1] for entry in tensors.values()), default=0)
            )
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise BadWeights(
                f"has a {path.name} that is no safetensors file; fetch it again"
            ) from error
    if end != size:
        raise BadWeights(f"has a {path.name} of {size:,} bytes instead of {end:,}; fetch it again")
    for name, entry in tensors.items():
        if entry.get("dtype") in INTEGERS and len(entry.get("shape", ())) > 1:
            raise BadWeights(quantised(f"{name} is saved as {entry['dtype']}"))


def quantised(how: str) -> str:
    """What is said of weights that were rounded to a few bits.

    Args:
        how: by what it is seen.
    """
    return f"is quantised ({how}), and cannot be trained; give the model that it was made from"
