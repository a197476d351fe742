"""Saves the checkpoints of a run that is in progress."""

from pathlib import Path

from mlmtune.training.checkpoint import TrainState, prune, save_checkpoint
from mlmtune.training.checkpoint_folders import checkpoint_path
from mlmtune.training.learner import Learner
from mlmtune.training.task import Task


class Checkpointer:
    """Saves each step once, and deletes the checkpoints that the config does not keep.

    Args:
        folder: The run's `checkpoints/`.
        task: Gives the model and the settings of the section `checkpoint`.
        learner: Gives the optimizer.
        saved_step: The step of the newest checkpoint in the folder, which is not saved again.
            None if this run has saved none.
    """

    def __init__(self, folder: Path, task: Task, learner: Learner, saved_step: int | None) -> None:
        self._folder = folder
        self._config = task.config.checkpoint
        self._ends_of_phases = frozenset(task.plan.ends().values())
        self._loaded = task.loaded
        self._learner = learner
        self._saved_step = saved_step

    def save(self, state: TrainState, *, again: bool = False) -> Path:
        """Return the checkpoint of the current step; the main process writes it if it is missing.

        With `again` it is replaced, because the state has changed since it was saved.

        Raises:
            ResourceError: The disk is full or cannot be written.
        """
        path = checkpoint_path(self._folder, state.step)
        if self._saved_step == state.step and not again:
            return path
        accelerator = self._learner.accelerator
        if accelerator.scaler is not None:
            state.scaler = accelerator.scaler.state_dict()
        moments = self._learner.moments()
        if accelerator.is_main_process:
            save_checkpoint(self._folder, self._loaded, moments, state)
            kept = {*self._ends_of_phases}
            if self._config.export == "best" and state.best_step is not None:
                kept.add(state.best_step)
            prune(self._folder, self._config.keep, kept)
        accelerator.wait_for_everyone()  # a process that ends early would stop the one that writes
        self._saved_step = state.step
        return path
