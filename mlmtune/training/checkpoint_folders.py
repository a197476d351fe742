"""The folders of checkpoints by their names, without torch."""

from pathlib import Path

PREFIX = "checkpoint-"


def checkpoint_path(directory: Path, step: int) -> Path:
    return directory / f"{PREFIX}{step}"


def step_of(path: Path) -> int:
    """Return the step of a checkpoint, by its name; -1 for any other name."""
    number = path.name.removeprefix(PREFIX)
    # int() also takes digits of other scripts.
    step = int(number) if number.isascii() and number.isdigit() else -1
    return step if path.name == f"{PREFIX}{step}" else -1


def list_checkpoints(directory: Path) -> list[Path]:
    """Return the checkpoints by step, newest first, valid or not."""
    if not directory.is_dir():
        return []
    return sorted((p for p in directory.iterdir() if step_of(p) >= 0), key=step_of, reverse=True)
