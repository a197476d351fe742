"""What a command does before it imports its libraries, which takes seconds.

Mistakes that can be found without these libraries are reported at once.
"""

import gc
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mlmtune import exits
from mlmtune.console import Console
from mlmtune.errors import ConfigError
from mlmtune.locations import expand_home
from mlmtune.shell import own_command
from mlmtune.training.launched import is_launched
from mlmtune.training.run_options import RunOptions

if TYPE_CHECKING:
    from mlmtune.config import ClassificationConfig, Config


@dataclass(frozen=True)
class Processes:
    """The processes of a run, as the command line asks for them.

    Attributes:
        nproc: Their number on each node, or `auto`; None for one.
        nodes: The number of nodes.
        rendezvous: Where the launchers of several nodes meet, as HOST:PORT.
    """

    nproc: str | None = None
    nodes: int = 1
    rendezvous: str | None = None


def start_run(
    settings: "Config | ClassificationConfig", options: RunOptions, processes: Processes
) -> None:
    """Announce and check a run before libraries are imported; start its processes if asked to.

    Raises:
        MlmtuneError: See `check_start` and `run_in_processes`.
    """
    run = expand_home(settings.run.output_dir)
    command, path, *_ = options.command
    what = "training" if command == "train" else "training a classifier"
    announce(f"{what} with {path} into {run}", is_quiet=options.is_quiet)
    check_start(settings, options)
    run_in_processes(processes, run)


def check_start(settings: "Config | ClassificationConfig", options: RunOptions) -> None:
    """Refuse a run that cannot start.

    Raises:
        MlmtuneError: The options contradict each other, or the local model or text is missing.
    """
    if options.overwrite and options.resume != "never":
        raise ConfigError("--resume and --overwrite contradict each other; give one of them")
    if options.resume == "never":  # a finished run needs neither model nor text
        check_model_and_text(settings)


@dataclass(frozen=True)
class ChosenConfig:
    """The config of a command: that of a file, or one that was drafted.

    Attributes:
        text: Its YAML as it was written; for one from a file without what overrides it.
        path: Its file; None if it was drafted.
        overrides: The settings that override those of the file.
    """

    settings: "Config"
    text: str
    path: Path | None
    overrides: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What a message calls it."""
        return "a drafted config" if self.path is None else str(self.path)

    def command(self, name: str) -> tuple[str, ...]:
        """Return the command that repeats a run of it, as `RunOptions` has it."""
        path = self.path or expand_home(self.settings.run.output_dir) / "config.yaml"
        return (name, str(path), *self.overrides)


def choose_config(
    path: Path | None, model: str | None, arguments: Sequence[str] | None, console: Console
) -> ChosenConfig:
    """Load a config, or draft one for a model and the places of text, and print the draft.

    Args:
        path: The value of `--config`.
        model: The value of `--model`.
        arguments: Settings; without a config also places.
        console: Shows the draft, and what takes time.

    Raises:
        ConfigError: The options contradict each other or say too little; or see `load_config`.
        MlmtuneError: See `draft_config`.
    """
    given = list(arguments or [])
    if path is not None:
        if model is not None:
            raise ConfigError(
                "--model goes with text and without --config; with a config, write "
                f"{shlex.quote(f'model.name_or_path={model}')}"
            )
        settings = load_adaptation(path, given)
        return ChosenConfig(settings, path.read_text(encoding="utf-8"), path, tuple(given))

    overrides = [argument for argument in given if _is_setting(argument)]
    places = [argument for argument in given if argument not in overrides]
    if model is None or not places:
        raise ConfigError(_what_is_missing(model, places))
    check_models([model], "--model")
    announce(f"choosing settings for {', '.join(places[:3])}{' ...' * (len(places) > 3)}")
    with importing_libraries():
        from mlmtune.drafting.draft import draft_config

    draft = draft_config(places, model, overrides, console)
    if not is_launched():  # else the command that launched this process has printed it
        console.say(f"settings for {draft.reason}:\n\n{draft.text}")
    return ChosenConfig(draft.config, draft.text, None)


def is_submitted(on: str | None, chosen: ChosenConfig) -> bool:
    """Whether a run is submitted as a job instead of being trained here.

    Args:
        on: The value of `--on`, which replaces `engine.kind`.
        chosen: The config.

    Raises:
        ConfigError: Training cannot run there, or needs a config for it.
    """
    kind = on or chosen.settings.engine.kind
    if kind == "local" or "WORLD_SIZE" in os.environ:
        return False
    if kind == "ray":
        raise ConfigError("Ray runs mlmtune prepare only; train with --on slurm or --on local")
    if chosen.path is None:
        raise ConfigError(
            "--on slurm needs a config (--config), because settings without one are chosen for "
            f"this machine; {own_command('init')} lists configs to start from"
        )
    return True


def _is_setting(argument: str) -> bool:
    key, has_value, _ = argument.partition("=")
    return bool(has_value) and "://" not in key and not os.path.lexists(argument)


def _what_is_missing(model: str | None, places: Sequence[str]) -> str:
    example = "--model google-bert/bert-base-uncased ~/docs"
    configs = [place for place in places if place.lower().endswith((".yaml", ".yml"))]
    if configs and model is None:
        return f"did you mean --config {shlex.quote(configs[0])}?"
    if places:
        return f"name the model to start from, such as {example}; or give a config with --config"
    if model is not None:
        return f"name the text, such as {example}; a file, a folder, a git URL, a dataset"
    return f"give a config with --config FILE, or a model and text, such as {example}"


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


def run_in_processes(processes: Processes, run: Path | None = None) -> None:
    """If several processes are asked for, run this command in them and exit as they do.

    Raises:
        MlmtuneError: The numbers are wrong; or see `rendezvous.meet`.
    """
    if is_launched() or processes == Processes():
        return
    address = processes.rendezvous
    if processes.nodes == 1 and address is not None:
        raise ConfigError(f"--rendezvous {address}: give the number of nodes, too (--nodes N)")
    if processes.nodes > 1 and address is None:
        raise ConfigError(
            f"--nodes {processes.nodes}: give the place where they meet (--rendezvous HOST:PORT) "
            "and start the same command on each, or submit a job with --on slurm"
        )

    if processes.nodes > 1 and not exits.shows_traceback():
        # Each launcher without an entry in the DNS would be warned of.
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")

    from mlmtune.training.launch import count_processes, launch, meet_nodes

    num_processes, nodes = count_processes(processes.nproc or "1"), None
    if processes.nodes > 1 and address is not None:
        announce(f"waiting for {processes.nodes} nodes at {address}")
        nodes = meet_nodes(address, processes.nodes)
    if num_processes > 1 or nodes is not None:
        ending = launch(num_processes, run, nodes, is_quiet=not exits.shows_traceback())
        if not ending.message:  # all went well, or another node prints it
            sys.exit(ending.exit_code)
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
