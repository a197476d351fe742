"""What a command does before it imports its libraries, which takes seconds.

Mistakes that can be found without these libraries are reported at once.
"""

import gc
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from mlmtune import exits
from mlmtune.console import Console
from mlmtune.errors import ConfigError
from mlmtune.locations import expand_home
from mlmtune.training.launched import is_launched
from mlmtune.training.run_options import RunOptions

if TYPE_CHECKING:
    from mlmtune.config import ClassificationConfig, Config


def start_run(
    settings: "Config | ClassificationConfig", options: RunOptions, nproc: str | None
) -> None:
    """Announce and check a run before libraries are imported; start its processes if asked to.

    Raises:
        MlmtuneError: The options contradict each other, or the local model or text is missing.
    """
    if options.overwrite and options.resume != "never":
        raise ConfigError("--resume and --overwrite contradict each other; give one of them")
    run = expand_home(settings.run.output_dir)
    command, path, *_ = options.command
    what = "training" if command == "train" else "training a classifier"
    announce(f"{what} with {path} into {run}", is_quiet=options.is_quiet)
    if options.resume == "never":  # a finished run needs neither model nor text
        check_model_and_text(settings)
    run_in_processes(nproc, run)


def load_adaptation(path: Path, overrides: Sequence[str] | None) -> "Config":
    """Load a config for adapting a model; see `load_config`."""
    from mlmtune.config_loading import load_config

    return load_config(path, overrides or [])


def overrides_from(location: str) -> list[str]:
    """Return the settings that `--from` stands for; see `lineage.overrides_from`."""
    from mlmtune.training import lineage

    return lineage.overrides_from(location)


def load_task(path: Path, overrides: Sequence[str] | None) -> "ClassificationConfig":
    """Load a config for a classification task; see `load_config`."""
    from mlmtune.config import ClassificationConfig
    from mlmtune.config_loading import load_config

    return load_config(path, overrides or [], kind=ClassificationConfig)


def announce(doing: str, *, is_quiet: bool = False) -> None:
    """Print on a terminal what happens while the libraries are imported."""
    speaks = exits.is_first_process() and not is_launched()
    console = Console(is_main=speaks, is_quiet=is_quiet, notes_to_stderr=True)
    if console.shows_bars:
        console.say(f"{doing} ...")


def check_models(names: Sequence[str], key: str) -> None:
    """Refuse local models that do not exist.

    Args:
        names: Folders, names on the hub, or `package://NAME/FOLDER`.
        key: The option or the key of the config that names them, for the message.

    Raises:
        ConfigError: A model does not exist.
    """
    from mlmtune.modeling.locating import is_on_hub, locate_model

    for name in names:
        if not is_on_hub(name):
            locate_model(name, None, key)


def check_text(settings: "Config | ClassificationConfig") -> None:
    """Refuse a config whose local text does not exist.

    Raises:
        MlmtuneError: One of its paths does not exist.
    """
    from mlmtune.classification import rows
    from mlmtune.config import Config
    from mlmtune.corpus import scanning

    if not isinstance(settings, Config):
        rows.check_paths(settings.data)
    elif settings.tokenization.store is None:  # a store replaces the text
        scanning.check_paths(settings.corpus)


def check_model_and_text(settings: "Config | ClassificationConfig") -> None:
    """Refuse a config whose local model or text does not exist.

    Raises:
        MlmtuneError: See `check_models` and `check_text`.
    """
    check_models([settings.model.name_or_path], "model.name_or_path")
    check_text(settings)


def refuse_several_processes(command: str) -> None:
    """Refuse to run under a launcher.

    Raises:
        ConfigError: A launcher has started this process as one of several.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError(
            f"{command} trains its runs one by one in one process; start it without a launcher"
        )


def run_in_processes(nproc: str | None, run: Path | None = None) -> None:
    """If `--nproc` asks for several processes, run this command in them and exit as they do."""
    if nproc is None or is_launched():
        return

    from mlmtune.training.launch import count_processes, launch

    num_processes = count_processes(nproc)
    if num_processes > 1:
        ending = launch(num_processes, run, is_quiet=not exits.shows_traceback())
        if ending.exit_code == 0:
            sys.exit(0)
        exits.fail(ending.message, ending.exit_code, ending.rank)


@contextmanager
def importing_libraries() -> Iterator[None]:
    """Import a command's libraries without two things that make it a fifth slower.

    The garbage collector would search 400,000 new objects again and again, which all stay. And
    transformers imports SciPy for losses of object detection wherever it is installed;
    scikit-learn needs SciPy, so that both are hidden until all is imported.
    """
    hidden = {"scipy", "sklearn"} - sys.modules.keys()
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None: not there
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()  # later collections skip what was imported
        gc.enable()
        for name in hidden:
            del sys.modules[name]


def leave_torch_out() -> None:
    """Hide torch from transformers, which imports it wherever it is installed.

    A tokenizer works without torch, and the import takes longer than the rest for a small corpus.
    """
    if "torch" not in sys.modules:
        sys.modules["torch"] = None  # type: ignore[assignment]  # Python's way to say: not there
        # It would warn that models cannot be used.
        os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
