"""Where a model lies: in a folder, inside a package, or on the hub.

Nothing here imports torch, so that a wrong name is reported at once.
"""

from pathlib import Path

from mlmtune import hub
from mlmtune.errors import ConfigError, HubError
from mlmtune.hub import HUB_TIMEOUT_SECONDS
from mlmtune.locations import resolve

HUB_FILES = ["*.json", "*.txt", "*.model", "*.safetensors", "*.jinja"]
"""What a masked language model needs of its repository; weights in pickles only if need be."""


def is_on_hub(name_or_path: str) -> bool:
    """Whether a model's name is one on the hub: it looks like one, and no file has it."""
    return hub.is_name(name_or_path) and not resolve(name_or_path).exists()


def locate_model(name_or_path: str, revision: str | None) -> Path:
    """The folder that holds a model: as given, inside a package, or fetched from the hub.

    Raises:
        ConfigError: the folder or the package is not there.
        HubError: the hub cannot be reached, or has no such model.
    """
    path = resolve(name_or_path)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ConfigError(
                f"model.name_or_path: {name_or_path} has no config.json, so it is not a model's "
                "folder; give the folder that save_pretrained() wrote"
            )
        return path
    if not is_on_hub(name_or_path):
        raise ConfigError(f"model.name_or_path: there is no folder {name_or_path}")
    return _fetch_from_hub(name_or_path, revision)


def _fetch_from_hub(name: str, revision: str | None) -> Path:
    """Download what is not cached yet; the cache alone where the hub cannot be reached."""
    try:
        return hub.ask(lambda: _download(name, revision), "model", name, revision, "model")
    except hub.OutOfReach as reason:
        return _from_cache(name, revision, str(reason))


def _download(name: str, revision: str | None) -> Path:
    from huggingface_hub import HfApi, snapshot_download

    # Asked once with a short timeout: the download itself would go on trying for minutes.
    info = HfApi().model_info(name, revision=revision, timeout=HUB_TIMEOUT_SECONDS)
    names = [file.rfilename for file in info.siblings or []]
    patterns = list(HUB_FILES)
    if not any(file.endswith(".safetensors") and "/" not in file for file in names):
        patterns.append("pytorch_model*.bin")
    return Path(
        snapshot_download(name, revision=revision, allow_patterns=patterns, ignore_patterns=["*/*"])
    )


def _from_cache(name: str, revision: str | None, reason: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(name, revision=revision, local_files_only=True))
    except LocalEntryNotFoundError as error:
        raise HubError(
            f"model.name_or_path: {name}: {reason}, and there is no cached copy; "
            "give a folder, or try again with the hub in reach"
        ) from error
    has_weights = any(folder.glob("*.safetensors")) or any(folder.glob("pytorch_model*.bin"))
    if not (folder / "config.json").is_file() or not has_weights:
        raise HubError(
            f"model.name_or_path: {name}: {reason}, and the cached copy is not whole; "
            "try again with the hub in reach"
        )
    return folder
