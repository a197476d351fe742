"""Where a model's files are, and whether they can be what they should be; without torch.

A folder that cannot be loaded is refused here, with the cause and the way out, before the libraries
are imported that would say it in terms of their own.
"""

import json
import re
from dataclasses import dataclass, replace
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
    find_lfs_pointers,
    quantised,
    weight_files,
    why_no_weights,
)  # fmt: skip

MODEL_KEY = "model.name_or_path"
"""The setting that names a model; a flag takes its place where no config does."""

HUB_FILES = ("*.json", "*.txt", "*.model", "*.safetensors", "*.jinja", "*.codes")
"""What a masked language model needs of its repository; weights in pickles only if need be."""

NOT_A_MODEL = (
    "has no config.json, so it is not a model's folder; give the folder that save_pretrained() "
    "wrote"
)


@dataclass(frozen=True)
class ModelFolder:
    """A model's folder on this machine, also where it was fetched from the hub.

    Attributes:
        path: holds config.json and the weights.
        name: the model as the user wrote it.
        key: the setting or the flag that names it, such as `--model`.
        notes: what the user should know of how it was found, a sentence each.
    """

    path: Path
    name: str
    key: str = MODEL_KEY
    notes: tuple[str, ...] = ()

    def refused(self, why: str) -> ConfigError:
        """The error that says why the model cannot be used.

        Args:
            why: goes on after the model's name, such as `has no config.json; give ...`.
        """
        return ConfigError(f"{self.key}: {self.name} {why}")


def is_on_hub(name_or_path: str) -> bool:
    """Whether a model's name is one on the hub: it looks like one, and no file has it."""
    return hub.is_name(name_or_path) and not resolve(name_or_path).exists()


def locate_model(name_or_path: str, revision: str | None, key: str = MODEL_KEY) -> ModelFolder:
    """The folder that holds a model: as given, of a run, inside a package, or fetched from the hub.

    Args:
        name_or_path: a model's folder, a run's directory, a name on the hub, or
            `package://NAME/FOLDER`.
        revision: branch, tag or commit on the hub.
        key: the setting or the flag that names the model.

    Raises:
        ConfigError: the folder or the package is not there, or holds no model that can be loaded.
        HubError: the hub cannot be reached, or has no such model.
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
    found = ModelFolder(path, name_or_path, key)
    if not is_folder:
        if exists:
            raise found.refused(f"is a file; give the folder that it is in: {path.parent}")
        if hub.looks_like_path(name_or_path):
            raise ConfigError(f"{key}: there is no folder {name_or_path}{_advice(name_or_path)}")
        if not hub.is_name(name_or_path):
            raise found.refused("is neither a folder nor a name on the hub")
        found = replace(found, path=_fetch_from_hub(found, revision))
    try:
        found = _entered(found)
        _check_files(found)
    except OSError as error:
        if is_fault_of_machine(error):
            raise
        raise found.refused(f"cannot be read ({error})") from error
    return found


def _advice(name: str) -> str:
    """What was meant by the address of a model's page."""
    host, _, page = name.partition("://")[2].partition("/")
    parts = page.split("/")
    return f"; give its name on the hub, {'/'.join(parts[:2])}" if host and len(parts) > 1 else ""


# ----------------------------------------------------------------------------- inside a folder


def _entered(found: ModelFolder) -> ModelFolder:
    """The folder with config.json: this one, or one in it (of a run, of sentence-transformers)."""
    path = found.path
    if run_directory(path) == path:
        return replace(found, path=_result_of(found))
    module = _transformer_module(path)
    if module is not None:
        note = f"{found.name}: the model is in its folder {module}"
        return replace(found, path=path / module, notes=(note,))
    if (path / "config.json").is_file():
        return found
    names = [file.name for file in path.iterdir()]
    inner = _models_in(path)
    if not names:
        raise found.refused("is an empty folder; give the folder that save_pretrained() wrote")
    if ADAPTER_CONFIG in names:
        raise found.refused(why_no_weights(names))
    if "bert_config.json" in names:
        raise found.refused(
            "is a checkpoint of Google's BERT for TensorFlow; convert it to PyTorch, or give the "
            "model's name on the hub"
        )
    if inner:
        given = " or ".join(str(folder) for folder in inner[-3:])
        raise found.refused(f"has no config.json, but holds models; give {given}")
    raise found.refused(NOT_A_MODEL)


def _result_of(found: ModelFolder) -> Path:
    """Where a run's result is.

    Raises:
        ConfigError: it has none yet.
    """
    model = found.path / RESULT_FOLDER
    if (model / "config.json").is_file():
        return model
    checkpoints = _models_in(found.path)
    either = f"; give its newest checkpoint, {checkpoints[-1]}, or" if checkpoints else ";"
    raise found.refused(f"is a run without a result{either} let it come to its end")


def _models_in(path: Path) -> list[Path]:
    """Folders in this one that have a model's config, by the number in their names."""
    configs = [*path.glob("*/config.json"), *path.glob("*/*/config.json")]
    folders = [file.parent for file in configs if b'"model_type"' in file.read_bytes()]
    return sorted(folders, key=lambda folder: (len(folder.name), str(folder)))


def _transformer_module(path: Path) -> str | None:
    """The folder of the encoder in what sentence-transformers saved; None if it is this one."""
    try:
        modules = json.loads((path / "modules.json").read_text(encoding="utf-8"))
        kinds = {str(module["path"]): str(module["type"]) for module in modules}
    except (OSError, ValueError, TypeError, KeyError):
        return None
    for folder, kind in kinds.items():
        # Of the earliest versions, each architecture had a class: models.BERT, models.RoBERTa.
        is_encoder = kind.endswith((".Transformer", "BERT", "BERTa"))
        is_inside = folder not in ("", ".") and ".." not in PurePosixPath(folder).parts
        if is_encoder and is_inside and (path / folder / "config.json").is_file():
            return folder
    return None


def _check_files(found: ModelFolder) -> None:
    """Refuse what cannot be loaded, or would load as something else.

    Raises:
        ConfigError: a file is missing, damaged, or not what its name says.
    """
    path = found.path
    if pointers := find_lfs_pointers(path):
        raise found.refused(
            f"has a Git LFS pointer in place of {pointers[0]}; run git lfs pull in {path}, or give "
            "the model's name on the hub"
        )
    content = read_model_config(found)
    if "quantization_config" in content:
        raise found.refused(quantised("config.json has a quantization_config"))
    if (path / ADAPTER_CONFIG).is_file() and any((path / name).is_file() for name in WEIGHT_FILES):
        # Where peft is installed, transformers would load the adapter's base in place of this.
        raise found.refused(
            f"holds an adapter beside a model; remove {ADAPTER_CONFIG} to use the model alone, or "
            "merge the two and give that folder"
        )
    try:
        for file in weight_files(path, content):
            if file.suffix == ".safetensors":
                check_safetensors(file)
    except BadWeights as error:
        raise found.refused(str(error)) from error


def read_model_config(found: ModelFolder) -> dict[str, Any]:
    """The content of config.json, with the type of the model.

    Raises:
        ConfigError: it is no JSON object, or has no type.
    """
    again = "fetch or save the model again"
    try:
        content = json.loads((found.path / "config.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise found.refused(f"has a config.json that is no JSON ({error}); {again}") from error
    if not isinstance(content, dict):
        raise found.refused(f"has a config.json that is no JSON object; {again}")
    if not content.get("model_type") and "auto_map" not in content:
        raise found.refused(
            "has no model_type in its config.json, so its architecture is not known; add a line "
            f'"model_type": "{_likely_type(content)}", with the architecture that it has'
        )
    return content


def _likely_type(content: dict[str, Any]) -> str:
    """Of `BertForMaskedLM` it is `bert`; so old that they have no type are BERTs mostly."""
    architectures = content.get("architectures")
    first = architectures[0] if isinstance(architectures, list) and architectures else "Bert"
    return str(first).partition("For")[0].removesuffix("Model").lower()


# ------------------------------------------------------------------------------------- the hub


def _fetch_from_hub(found: ModelFolder, revision: str | None) -> Path:
    """Download what is not cached yet; the cache alone where the hub cannot be reached."""
    name, key = found.name, found.key
    try:
        names = hub.ask(lambda: _names_on_hub(name, revision), "model", name, revision, key)
        inner = _folder_on_hub(found, names)
        return hub.ask(
            lambda: _download(name, revision, names, inner), "model", name, revision, key
        )
    except hub.OutOfReach as reason:
        return _from_cache(found, revision, str(reason))


def _names_on_hub(name: str, revision: str | None) -> list[str]:
    """The files of a repository."""
    from huggingface_hub import HfApi

    # Asked once with a short timeout: the download itself would go on trying for minutes.
    info = HfApi().model_info(name, revision=revision, timeout=HUB_TIMEOUT_SECONDS)
    return [file.rfilename for file in info.siblings or []]


def _folder_on_hub(found: ModelFolder, names: list[str]) -> str:
    """The folder of a repository that holds the model, with its slash; mostly the repository.

    Raises:
        ConfigError: there are no weights to fetch.
    """
    configs = [name for name in names if re.fullmatch(r"(0_\w+/)?config\.json", name)]
    is_nested = "modules.json" in names and any("/" in name for name in configs)
    inner = (
        next(name for name in configs if "/" in name)[: -len("config.json")] if is_nested else ""
    )
    if not any(_is_weights(name.removeprefix(inner)) for name in names if name.startswith(inner)):
        raise found.refused(why_no_weights(names))
    if not configs:
        raise found.refused(NOT_A_MODEL)
    return inner


def _is_weights(name: str) -> bool:
    is_adapter = name.startswith("adapter_")
    return "/" not in name and not is_adapter and name.endswith((".safetensors", ".bin"))


def _download(name: str, revision: str | None, names: list[str], inner: str) -> Path:
    from huggingface_hub import snapshot_download

    patterns = [*HUB_FILES]
    own = [file.removeprefix(inner) for file in names if file.startswith(inner)]
    if not any(file.endswith(".safetensors") and "/" not in file for file in own):
        patterns.append("pytorch_model*.bin")
    allowed = [inner + pattern for pattern in patterns]
    return Path(
        snapshot_download(
            name,
            revision=revision,
            allow_patterns=[*allowed, "modules.json"] if inner else allowed,
            ignore_patterns=[f"{inner}*/*"],
        )
    )


def _from_cache(found: ModelFolder, revision: str | None, reason: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(found.name, revision=revision, local_files_only=True))
    except LocalEntryNotFoundError as error:
        raise HubError(
            f"{found.key}: {found.name}: there is no such folder, {reason}, and there is no cached "
            "copy; give a folder, or try again with the hub in reach"
        ) from error
    files = [path.name for path in folder.rglob("*")]
    if "config.json" not in files or not any(_is_weights(name) for name in files):
        raise HubError(
            f"{found.key}: {found.name}: {reason}, and the cached copy is not whole; "
            "try again with the hub in reach"
        )
    return folder
