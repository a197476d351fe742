"""`mlmtune push`, and the push at the end of a run: the model goes to the Hugging Face hub."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mlmtune import hub
from mlmtune.console import Console
from mlmtune.errors import HubError, StoppedAtOnce
from mlmtune.locations import EMBED_RECORD, EXPORT_RECORD, MERGE_RECORD
from mlmtune.modeling.names import derived_name
from mlmtune.printable import counted
from mlmtune.sharing.hub_repository import (
    PushFailed,
    files_to_push,
    open_repository,
    push_folder,
    without_bars,
)  # fmt: skip
from mlmtune.shell import own_command
from mlmtune.training.run_dir import finished_run_dir, read_model_record

COMMITS: Mapping[str, Callable[[Path, Mapping[str, Any]], str]] = {
    MERGE_RECORD: lambda path, of: f"{derived_name(path)}, alpha {of['choice']['alpha']:g}",
    EXPORT_RECORD: lambda path, of: f"{of['name']} as {', '.join(of['forms'])}",
    EMBED_RECORD: lambda path, of: (
        f"{of['name']} as a sentence encoder, {counted(of['num_steps'], 'step')}"
    ),
}
"""What the commit of a model is called, by the record in its folder."""


def push_run(path: Path, name: str, *, is_private: bool, console: Console) -> None:
    """Push the folder of a model, which includes its card, in one commit.

    Args:
        path: The directory of a finished run, its folder `model/`, or a folder that was written by
            `mlmtune merge`, `mlmtune export` or `mlmtune embed`.
        name: The name of the repository.
        is_private: Whether a new repository is made private. If true, an existing one must be.
        console: Prints what is pushed, and where it is then.

    Raises:
        ConfigError: There is no finished run or model; or see `open_repository`.
        CheckpointError: A file is missing or damaged.
        HubError: The hub refuses, or cannot be reached; the message has the command to retry.
    """
    folder, message = _folder_and_message(path)
    again = own_command("push", path, "--repo", name, *([] if is_private else ["--public"]))
    files = files_to_push(folder)
    if notes := hub.environment_notes():
        console.say(f"the hub is {hub.endpoint()} ({'; '.join(notes)})")
    if not console.shows_bars:  # the hub's client draws its own
        without_bars()
    try:
        repository = open_repository(name, is_private=is_private, say=console.say)
        size = sum(file.stat().st_size for file in files) / 1e6
        seen = "private" if repository.is_private else "public"
        console.say(
            f"pushing {counted(len(files), 'file')}, {size:,.1f} MB, to {repository.name} ({seen})"
        )
        commit = push_folder(repository, folder, message, console.say)
    except PushFailed as error:
        raise HubError(
            f"{error}; nothing was pushed, and the model is whole in {folder}. To try again: "
            f"{again}"
        ) from error
    except StoppedAtOnce:
        console.say(f"the model is whole in {folder}; to push it: {again}")
        raise
    console.result(f"pushed to {repository.url}, commit {commit[:8]}")


def _folder_and_message(path: Path) -> tuple[Path, str]:
    """Return the folder of a model, and what its commit is called."""
    for name, describe in COMMITS.items():
        if (path / name).is_file():
            return path, describe(path, read_model_record(path, name))
    run = finished_run_dir(path)
    step = (run.read_json("eval_results.json") or {}).get("step")
    return run.model, f"{run.path.resolve().name}, step {step}"
