"""Finding a model's folder and checking its files, without torch.

A folder that cannot be loaded is refused with the cause and the fix, before torch and transformers
are imported, which takes seconds, and instead of their own errors.
"""

import json
import re
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from glob import escape
from pathlib import Path, PurePosixPath
from typing import Any

from mlmtune import hub
from mlmtune.errors import ConfigError, HubError, is_fault_of_machine
from mlmtune.hub import HUB_TIMEOUT_SECONDS
from mlmtune.locations import RESULT_FOLDER, resolve, run_directory
from mlmtune.modeling.weight_files import (
    ADAPTER_CONFIG,
    WEIGHT_FILES,
    BadWeights,
    check_safetensors,
    is_lfs_pointer,
    quantised,
    weight_files,
    why_no_weights,
)  # fmt: skip

MODEL_KEY = "model.name_or_path"
"""The setting that names a model. Commands without a config have a flag instead."""

HUB_FILES = ("*.json", "*.txt", "*.model", "*.safetensors", "*.jinja", "*.codes")
"""The files of a repository that are fetched; pickled weights only if there are no others."""

NOT_A_MODEL = (
    "has no config.json, so it is not a model's folder; give the folder that save_pretrained() "
    "wrote"
)


@dataclass(frozen=True)
class ModelFolder:
    """A model's folder on this machine; a model of the hub is in the cache.

    Attributes:
        path: The folder with config.json and the weights.
        name: The model as the user wrote it.
        key: The setting or the flag that names it, such as `--model`.
        notes: Sentences for the user about where the model was found.
    """

    path: Path
    name: str
    key: str = MODEL_KEY
    notes: tuple[str, ...] = ()

    def refused(self, why: str) -> ConfigError:
        """Return an error whose `why` follows the model's name (`has no config.json; give ...`)."""
        return ConfigError(f"{self.key}: {self.name} {why}")


def is_on_hub(name_or_path: str) -> bool:
    """Whether a name looks like one on the hub, and there is no such file."""
    return hub.is_name(name_or_path) and not resolve(name_or_path).exists()


def locate_model(name_or_path: str, revision: str | None, key: str = MODEL_KEY) -> ModelFolder:
    """Find the folder of a model, and fetch it from the hub if need be.

    Args:
        name_or_path: A model's folder, a run's directory, a name on the hub, or
            `package://NAME/FOLDER`.
        revision: Branch, tag or commit on the hub.
        key: The setting or the flag that names the model.

    Raises:
        ConfigError: The folder or the package does not exist, or holds no model that can be loaded.
        HubError: The hub cannot be reached, or has no such model.
    """
    if not name_or_path.strip():
        raise ConfigError(f"{key}: the name is empty; give a model")
    try:
        path = resolve(name_or_path)
        is_folder, exists = path.is_dir(), path.exists()
    except ConfigError as error:
        raise ConfigError(f"{key}: {error}") from error
    except OSError as error:
        raise ConfigError(f"{key}: {name_or_path} cannot be read ({error.strerror})") from error
    folder = ModelFolder(path, name_or_path, key)
    if not is_folder:
        if exists:
            raise folder.refused(f"is a file; give the folder that it is in: {path.parent}")
        if hub.looks_like_path(name_or_path):
            raise ConfigError(f"{key}: there is no folder {name_or_path}{_advice(name_or_path)}")
        if not hub.is_name(name_or_path):
            raise folder.refused("is neither a folder nor a name on the hub")
        folder = replace(folder, path=_fetch_from_hub(folder, revision))
    try:
        folder = _inner_folder(folder)
        _check_files(folder)
    except OSError as error:
        if is_fault_of_machine(error):
            raise
        raise folder.refused(f"cannot be read ({error})") from error
    return folder


def _advice(name: str) -> str:
    """Return the name on the hub, if the address of a model's page was given."""
    host, _, page = name.partition("://")[2].partition("/")
    parts = page.split("/")
    return f"; give its name on the hub, {'/'.join(parts[:2])}" if host and len(parts) > 1 else ""


# ----------------------------------------------------------------------------- inside a folder


def _inner_folder(folder: ModelFolder) -> ModelFolder:
    """Return the folder with config.json: this one, or that of a run or a sentence-transformer."""
    path = folder.path
    if run_directory(path) == path:
        return replace(folder, path=_result_of(folder))
    module = _transformer_module(path)
    if module is not None:
        note = f"{folder.name}: the model is in its folder {module}"
        return replace(folder, path=path / module, notes=(note,))
    if (path / "config.json").is_file():
        return folder
    names = [file.name for file in path.iterdir()]
    if not names:
        raise folder.refused("is an empty folder; give the folder that save_pretrained() wrote")
    if ADAPTER_CONFIG in names:
        raise folder.refused(why_no_weights(names))
    if "bert_config.json" in names:
        raise folder.refused(
            "is a checkpoint of Google's BERT for TensorFlow; convert it to PyTorch, or give the "
            "model's name on the hub"
        )
    if models := _models_in(path):
        choices = " or ".join(map(str, models[-3:]))
        raise folder.refused(f"has no config.json, but holds models; give {choices}")
    raise folder.refused(NOT_A_MODEL)


def _result_of(folder: ModelFolder) -> Path:
    """Return the folder of a run's result, or refuse a run that has none yet."""
    model = folder.path / RESULT_FOLDER
    if (model / "config.json").is_file():
        return model
    checkpoints = _models_in(folder.path)
    either = f"; give its newest checkpoint, {checkpoints[-1]}, or" if checkpoints else ";"
    raise folder.refused(f"is a run without a result{either} let it come to its end")


def _models_in(path: Path) -> list[Path]:
    """Return the inner folders that have a model's config, in the order of their steps."""
    configs = [*path.glob("*/config.json"), *path.glob("*/*/config.json")]
    folders = [file.parent for file in configs if b'"model_type"' in file.read_bytes()]
    return sorted(folders, key=lambda folder: (len(folder.name), str(folder)))


def _transformer_module(path: Path) -> str | None:
    """Return the encoder's folder in a model of sentence-transformers; None if it is this one."""
    try:
        modules = json.loads((path / "modules.json").read_text(encoding="utf-8"))
        kinds = {str(module["path"]): str(module["type"]) for module in modules}
    except (OSError, ValueError, TypeError, KeyError):
        return None
    for folder, kind in kinds.items():
        # The earliest versions had a class for each architecture: models.BERT, models.RoBERTa.
        is_encoder = kind.endswith((".Transformer", "BERT", "BERTa"))
        is_inside = folder not in ("", ".") and ".." not in PurePosixPath(folder).parts
        if is_encoder and is_inside and (path / folder / "config.json").is_file():
            return folder
    return None


def _check_files(folder: ModelFolder) -> None:
    """Refuse files that cannot be loaded, or would be loaded as something else."""
    path = folder.path
    if pointer := next(filter(is_lfs_pointer, sorted(path.iterdir())), None):
        raise folder.refused(
            f"has a Git LFS pointer in place of {pointer.name}; run git lfs pull in {path}, or "
            "give the model's name on the hub"
        )
    content = read_model_config(folder)
    if "quantization_config" in content:
        raise folder.refused(quantised("config.json has a quantization_config"))
    if (path / ADAPTER_CONFIG).is_file() and any((path / name).is_file() for name in WEIGHT_FILES):
        # If peft is installed, transformers would load the adapter's base instead of this model.
        raise folder.refused(
            f"holds an adapter beside a model; remove {ADAPTER_CONFIG} to use the model alone, or "
            "merge the two and give that folder"
        )
    try:
        for file in weight_files(path, content):
            if file.suffix == ".safetensors":
                check_safetensors(file)
    except BadWeights as error:
        raise folder.refused(str(error)) from error


def read_model_config(folder: ModelFolder) -> dict[str, Any]:
    """Return the content of config.json.

    Raises:
        ConfigError: It is not a JSON object, or does not name the model's type.
    """
    again = "fetch or save the model again"
    try:
        content = json.loads((folder.path / "config.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise folder.refused(f"has a config.json that is not JSON ({error}); {again}") from error
    if not isinstance(content, dict):
        raise folder.refused(f"has a config.json that is not a JSON object; {again}")
    if not content.get("model_type") and "auto_map" not in content:
        raise folder.refused(
            "has no model_type in its config.json, so its architecture is not known; add a line "
            f'"model_type": "{_likely_type(content)}", with the architecture that it has'
        )
    return content


def _likely_type(content: dict[str, Any]) -> str:
    """Return `bert` for `BertForMaskedLM`. Configs too old to name a type are mostly BERT's."""
    architectures = content.get("architectures")
    first = architectures[0] if isinstance(architectures, list) and architectures else "Bert"
    return str(first).partition("For")[0].removesuffix("Model").lower()


# ------------------------------------------------------------------------------------- the hub


def _fetch_from_hub(folder: ModelFolder, revision: str | None) -> Path:
    """Download what is not cached yet. If the hub cannot be reached, use the cache."""
    name, key = folder.name, folder.key
    try:
        names = hub.ask(lambda: _names_on_hub(name, revision), "model", name, revision, key)
        inner = folder_on_hub(folder, names)
        return hub.ask(
            lambda: _download(name, revision, names, inner), "model", name, revision, key
        )
    except hub.OutOfReach as reason:
        return _from_cache(folder, revision, str(reason))


def _names_on_hub(name: str, revision: str | None) -> list[str]:
    from huggingface_hub import HfApi

    # This request comes first because of its timeout: the download would retry for minutes.
    info = HfApi().model_info(name, revision=revision, timeout=HUB_TIMEOUT_SECONDS)
    return [file.rfilename for file in info.siblings or []]


def folder_on_hub(folder: ModelFolder, names: list[str]) -> str:
    """Return the folder of a repository that holds the model, with its slash; `""` is the root.

    Raises:
        ConfigError: There are no weights to fetch.
    """
    configs = [name for name in names if re.fullmatch(r"(0_\w+/)?config\.json", name)]
    nested = [name for name in configs if "/" in name and "modules.json" in names]
    inner = nested[0].removesuffix("config.json") if nested else ""
    if not any(_is_weights(name.removeprefix(inner)) for name in names if name.startswith(inner)):
        raise folder.refused(why_no_weights(names))
    if not configs:
        raise folder.refused(NOT_A_MODEL)
    return inner


def _is_weights(name: str) -> bool:
    is_adapter = name.startswith("adapter_")
    return "/" not in name and not is_adapter and name.endswith((".safetensors", ".bin"))


def _download(name: str, revision: str | None, names: list[str], inner: str) -> Path:
    from huggingface_hub import snapshot_download

    wanted = [escape(file) for file in files_to_fetch(names, inner)]
    return Path(snapshot_download(name, revision=revision, allow_patterns=wanted))


def files_to_fetch(names: list[str], inner: str) -> list[str]:
    """Return the files of a repository that are fetched, of those in a folder and beside it.

    Args:
        names: All files of the repository.
        inner: The folder that holds the model, with its slash; `""` is the root.
    """
    own = [name.removeprefix(inner) for name in names if name.startswith(inner)]
    own = [name for name in own if "/" not in name]
    patterns = [*HUB_FILES]
    if not any(name.endswith(".safetensors") for name in own):
        patterns.append("pytorch_model*.bin")
    wanted = {inner + name for name in own if any(fnmatch(name, pattern) for pattern in patterns)}
    # What says how a sentence encoder pools.
    pooling = {
        name for name in names if re.fullmatch(r"modules\.json|\d+_Pooling/config\.json", name)
    }
    return sorted(wanted | pooling)


def _from_cache(folder: ModelFolder, revision: str | None, reason: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        cached = Path(snapshot_download(folder.name, revision=revision, local_files_only=True))
    except LocalEntryNotFoundError as error:
        raise HubError(
            f"{folder.key}: {folder.name}: there is no such folder, {reason}, and there is no "
            "cached copy; give a folder, or try again with the hub in reach"
        ) from error
    files = [path.name for path in cached.rglob("*")]
    if "config.json" not in files or not any(_is_weights(name) for name in files):
        raise HubError(
            f"{folder.key}: {folder.name}: {reason}, and the cached copy is not whole; "
            "try again with the hub in reach"
        )
    return cached
