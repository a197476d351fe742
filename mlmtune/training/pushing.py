"""Pushing to the Hugging Face hub while training goes on: the model that is the best so far."""

import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

from mlmtune import hub
from mlmtune.console import Console
from mlmtune.errors import ConfigError, HubError
from mlmtune.files import temporary_name
from mlmtune.sharing.hub_repository import (
    HubRepository,
    PushFailed,
    open_repository,
    push_folder,
    without_bars,
)  # fmt: skip
from mlmtune.training.manifest import MANIFEST

NOT_OF_THE_MODEL = ("optimizer.safetensors", "state.json", MANIFEST)
"""What a checkpoint has besides a model."""


class PushOnTheWay:
    """Pushes of a run that goes on: in the background, one at a time, the newest that fits.

    A failure is told, and the run goes on; the push at its end makes up for it.

    Args:
        repository: where to.
        folder: the run's, for the copy that is being pushed.
        console: says what was pushed.
    """

    def __init__(self, repository: HubRepository, folder: Path, console: Console) -> None:
        self._repository = repository
        self._copy = temporary_name(folder / "push")
        self._console = console
        self._thread: threading.Thread | None = None

    @property
    def is_busy(self) -> bool:
        """Whether an earlier push is under way still."""
        return self._thread is not None and self._thread.is_alive()

    def copy(self, checkpoint: Path) -> Path:
        """What is of the model in a checkpoint, at a place where nothing deletes it meanwhile."""
        shutil.rmtree(self._copy, ignore_errors=True)
        self._copy.mkdir()
        for file in checkpoint.iterdir():
            if file.is_file() and file.name not in NOT_OF_THE_MODEL:
                _link(file, self._copy / file.name)
        return self._copy

    def push(self, step: int) -> None:
        """Push what `copy` has made, in the background."""
        # A daemon: whoever stops the run does not wait for it, and half a push is none.
        self._thread = threading.Thread(target=self._push, args=(step,), daemon=True)
        self._thread.start()

    def wait(self, should_stop: Callable[[], bool]) -> None:
        """Until the push that is under way has come to its end, or it is told to stop."""
        while self._thread is not None and self._thread.is_alive() and not should_stop():
            self._thread.join(timeout=0.1)
        shutil.rmtree(self._copy, ignore_errors=True)

    def _push(self, step: int) -> None:
        try:
            commit = push_folder(self._repository, self._copy, f"step {step}", lambda line: None)
        except Exception as error:  # whatever it is, it is no reason to end a run
            self._console.say(f"the push after step {step} failed: {error}; training goes on")
        else:
            self._console.say(f"pushed step {step} to {self._repository.url}, commit {commit[:8]}")


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without links
        shutil.copyfile(source, target)


def check_repository(name: str, *, is_private: bool, console: Console) -> HubRepository | None:
    """Open the repository that a run will be pushed to, before hours are spent.

    Returns:
        None where the hub cannot be reached now; it may be when the run has come to its end.

    Raises:
        ConfigError: see `open_repository`.
        HubError: the hub refuses: no push can succeed.
    """
    without_bars()
    if hub.is_offline():
        console.say(f"hub.hub_model_id: HF_HUB_OFFLINE is set, so {name} is not pushed on the way")
        return None
    try:
        return open_repository(name, is_private=is_private, say=console.say)
    except PushFailed as error:
        if error.may_pass:
            console.say(f"hub.hub_model_id: {error}; training goes on, and pushes at the end")
            return None
        raise HubError(f"hub.hub_model_id: {name}: {error}") from error
    except ConfigError as error:
        raise ConfigError(f"hub.hub_model_id: {error}") from error
