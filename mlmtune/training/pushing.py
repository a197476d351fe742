"""Pushes the model to the Hugging Face hub during training, whenever it would be the result."""

import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

from accelerate import Accelerator

from mlmtune import hub
from mlmtune.config import HubConfig
from mlmtune.errors import ConfigError, HubError
from mlmtune.files import temporary_name
from mlmtune.modeling.device import decided_by_main
from mlmtune.sharing.hub_repository import (
    HubRepository,
    PushFailed,
    open_repository,
    push_folder,
    without_bars,
)  # fmt: skip
from mlmtune.training.checkpoint import TrainState
from mlmtune.training.manifest import MANIFEST
from mlmtune.training.results import write_run_card
from mlmtune.training.run_dir import RunDir
from mlmtune.training.task import Task

NOT_OF_THE_MODEL = ("optimizer.safetensors", "state.json", MANIFEST)
"""The files of a checkpoint that do not belong to a model."""


class BackgroundPush:
    """Pushes checkpoints of a run in the background, one at a time.

    A failure is reported and does not stop the run, which is pushed at its end in any case.

    Args:
        repository: The repository that is pushed to.
        run: The run's directory, which holds the copy that is being pushed.
        say: Reports each push.
    """

    def __init__(self, repository: HubRepository, run: RunDir, say: Callable[[str], None]) -> None:
        self._repository = repository
        self._run = run
        self._copy = temporary_name(run.path / "push")
        self._say = say
        self._thread: threading.Thread | None = None

    def push(self, checkpoint: Path, task: Task, state: TrainState) -> None:
        """Push the model of the state's checkpoint with its card, unless a push is in progress."""
        if self._thread is not None and self._thread.is_alive():
            self._say(f"an earlier push is still under way, so step {state.step} is not pushed")
            return
        try:
            self.copy(checkpoint)
            write_run_card(task, self._run, self._copy, task.results(state, state.step), self._say)
        except OSError as error:
            self._say(f"step {state.step} is not pushed: its copy cannot be written ({error})")
            return
        # A daemon, so that a stopped run does not wait for it; half a push is no commit.
        self._thread = threading.Thread(target=self._push, args=(state.step,), daemon=True)
        self._thread.start()

    def copy(self, checkpoint: Path) -> Path:
        """Copy the model's files, because the checkpoint may be deleted before they are pushed."""
        shutil.rmtree(self._copy, ignore_errors=True)
        self._copy.mkdir()
        for file in checkpoint.iterdir():
            if file.is_file() and file.name not in NOT_OF_THE_MODEL:
                try:
                    os.link(file, self._copy / file.name)
                except OSError:  # a file system without links
                    shutil.copyfile(file, self._copy / file.name)
        return self._copy

    def wait(self, should_stop: Callable[[], bool]) -> None:
        """Wait until a push in progress has ended, or until the run must stop."""
        while self._thread is not None and self._thread.is_alive() and not should_stop():
            self._thread.join(timeout=0.1)  # not longer, because a signal must be answered
        shutil.rmtree(self._copy, ignore_errors=True)

    def _push(self, step: int) -> None:
        try:
            commit = push_folder(self._repository, self._copy, f"step {step}", lambda line: None)
        except Exception as error:  # no failure of the hub must end a run
            self._say(f"the push after step {step} failed: {error}; training goes on")
        else:
            self._say(f"pushed step {step} to {self._repository.url}, commit {commit[:8]}")


def open_hub(
    config: HubConfig, accelerator: Accelerator, run: RunDir, say: Callable[[str], None]
) -> BackgroundPush | None:
    """Open the repository that the run is pushed to, so that a wrong token is reported now.

    Returns:
        None if nothing is pushed during training, and in all processes but the main one.

    Raises:
        ConfigError: The name is not valid, or the repository is public and must not be.
        HubError: The hub refuses, so that no push can succeed.
    """
    name = config.hub_model_id
    if name is None:
        return None
    repository = decided_by_main(
        accelerator, lambda: check_repository(name, is_private=config.private, say=say)
    )
    if repository is None or config.push == "end" or not accelerator.is_main_process:
        return None
    return BackgroundPush(repository, run, say)


def check_repository(
    name: str, *, is_private: bool, say: Callable[[str], None]
) -> HubRepository | None:
    """Open a repository; None if the hub cannot be reached now, which may change later.

    Raises:
        ConfigError: The name is not valid, or the repository is public and must not be.
        HubError: The hub refuses, so that no push can succeed.
    """
    without_bars()
    if hub.is_offline():
        say(f"hub.hub_model_id: HF_HUB_OFFLINE is set, so {name} is not pushed during training")
        return None
    try:
        return open_repository(name, is_private=is_private, say=say)
    except PushFailed as error:
        if error.may_pass:
            say(f"hub.hub_model_id: {error}; training goes on, and pushes at the end")
            return None
        raise HubError(f"hub.hub_model_id: {name}: {error}") from error
    except ConfigError as error:
        raise ConfigError(f"hub.hub_model_id: {error}") from error
