"""A run's directory: its paths, its lock, and the JSON files that describe the run."""

import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from safetensors import SafetensorError

from mlmtune.errors import (
    CheckpointError,
    ConfigError,
    ResourceError,
    is_fault_of_disk,
    was_taken_away,
    why_not_written,
)
from mlmtune.files import read_json, sweep, temporary_name, write_json, write_text
from mlmtune.locations import (
    DERIVED_FOLDERS,
    MERGE_RECORD,
    MODEL_RECORDS,
    RESULT_FOLDER,
    run_directory,
)
from mlmtune.training.manifest import MANIFEST, find_damage, manifest_of

RESOLVED_CONFIG = "config.resolved.yaml"
"""The config with every `auto` decided."""
OWN_FILES = (
    "config.yaml", RESOLVED_CONFIG, "environment.json", "corpus.json", "metrics.jsonl",
    "status.json", "train_results.json", "eval_results.json", "all_results.json",
    "data.json", "test_results.json", "test_predictions.jsonl", "probe.json",
    "lineage.json", "report.html", "report.md", "report.json", "tracking.json", "attempt.json",
    MANIFEST,
)  # fmt: skip
OWN_FOLDERS = (
    RESULT_FOLDER, *DERIVED_FOLDERS, "checkpoints", "tensorboard", "wandb", "dvclive", ".aim",
)  # fmt: skip
RECORDS = (
    RESOLVED_CONFIG, "environment.json", "corpus.json", "data.json", "train_results.json",
    "eval_results.json", "test_results.json", "test_predictions.jsonl", "all_results.json",
    "lineage.json",
)  # fmt: skip
"""The files that do not change once the run is finished."""
LOCK_FILE = ".lock"

CHECKPOINTS_STAY = "the checkpoints are as they were"
IS_A_FOLDER = "is a folder, where mlmtune writes a file; move it away and try again"
REMEDY = "the command that started the run makes it again with --resume auto"


@contextmanager
def writing_to(path: Path, remark: str) -> Iterator[None]:
    """Turn a failure to write a file or folder into one line.

    Args:
        path: The file or folder.
        remark: Tells the user what is not lost.

    Raises:
        ResourceError: The disk is full or cannot be written.
    """
    try:
        yield
    except Exception as error:  # each library has errors of its own for a full disk
        if not (isinstance(error, OSError | SafetensorError) or is_fault_of_disk(error)):
            raise
        if isinstance(error, IsADirectoryError):
            raise ResourceError(f"{path}: {IS_A_FOLDER}") from error
        if was_taken_away(error):
            raise ResourceError(
                f"{path}: cannot be written, because the output directory was deleted, moved or "
                "replaced while the run was writing to it; put it back, then resume with "
                "--resume auto"
            ) from error
        why, remedy = why_not_written(error)
        raise ResourceError(
            f"{path}: cannot be written ({why}); {remark}: {remedy}, then resume with --resume auto"
        ) from error


class RunDir:
    """The directory of one run; `open_run_dir` makes it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.model = path / RESULT_FOLDER
        self.checkpoints = path / "checkpoints"
        self.metrics = path / "metrics.jsonl"
        self._status = "status.json"

    def keep_record(self) -> None:
        """Write the status to attempt.json until `begin`, so that status.json stays as it is."""
        self._status = "attempt.json"

    def begin(self, *, replaces: bool) -> None:
        """Let this attempt, which is known to be able to begin, replace or continue the run."""
        with writing_to(self.path, CHECKPOINTS_STAY):
            if replaces:
                self.clear()
            for name in ("attempt.json", MANIFEST):
                (self.path / name).unlink(missing_ok=True)
        self._status = "status.json"

    def write_json(self, name: str, value: Any) -> None:
        with writing_to(self.path / name, CHECKPOINTS_STAY):
            write_json(self.path / name, value)

    def write_text(self, name: str, text: str) -> None:
        with writing_to(self.path / name, CHECKPOINTS_STAY):
            write_text(self.path / name, text)

    def read_json(self, name: str) -> dict[str, Any] | None:
        """Read one of the run's JSON files; None if it is missing or broken."""
        return read_json(self.path / name)

    def write_status(self, state: str, **details: Any) -> None:
        """Write `state` (running, finished, interrupted, failed) and more to status.json."""
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        self.write_json(
            self._status, {"state": state, "pid": os.getpid(), "updated_at": now, **details}
        )

    def read_status(self) -> dict[str, Any]:
        """Read what `write_status` wrote last; empty if that is missing or broken."""
        return self.read_json(self._status) or {}

    def write_manifest(self) -> None:
        """List the files of the finished run, so that damage to them is found."""
        records = [self.path / name for name in RECORDS if (self.path / name).is_file()]
        # Not the card, which people edit.
        model = [p for p in sorted(self.model.rglob("*")) if p.is_file() and p.name != "README.md"]
        self.write_json(MANIFEST, manifest_of(self.path, [*records, *model]))

    def find_damage(self) -> str | None:
        """Return which file of the finished run is missing or damaged; None if none is."""
        return find_damage(self.path, self.read_json(MANIFEST))

    def append_metrics(self, record: dict[str, Any]) -> None:
        # Appended rather than written whole: a resumed run drops a last line that is broken.
        line = json.dumps(record, allow_nan=False) + "\n"
        with (
            writing_to(self.metrics, CHECKPOINTS_STAY),
            self.metrics.open("a", encoding="utf-8") as file,
        ):
            file.write(line)

    def read_metrics(self) -> tuple[list[dict[str, Any]], int]:
        """Return the lines of metrics.jsonl, and how many more are half written or damaged."""
        if not self.metrics.is_file():
            return [], 0
        lines = self.metrics.read_text(encoding="utf-8", errors="replace").split("\n")
        lines = [line for line in lines if line]
        records = []
        for line in lines:
            with suppress(ValueError):
                record = json.loads(line)
                if isinstance(record, dict) and isinstance(record.get("step"), int):
                    records.append(record)
        return records, len(lines) - len(records)

    def drop_metrics_after(self, step: int) -> tuple[list[dict[str, Any]], int]:
        """Delete the metrics of later steps, which a resumed run takes again, and broken lines.

        Returns:
            The metrics that were deleted, and the number of broken lines.
        """
        records, num_broken = self.read_metrics()
        kept = [json.dumps(record) + "\n" for record in records if record["step"] <= step]
        if len(kept) < len(records) or num_broken:
            self.write_text("metrics.jsonl", "".join(kept))
        return [record for record in records if record["step"] > step], num_broken

    def is_in_use(self) -> bool:
        """Whether the directory holds results of a run, or anything that is not a run's.

        The files of a run that has measured nothing do not count.
        """
        before_results = {*OWN_FILES, *OWN_FOLDERS, LOCK_FILE}
        return (
            any(entry.name not in before_results for entry in self.path.iterdir())
            or self.model.exists()
            or self.metrics.exists()
            or (self.checkpoints.exists() and any(self.checkpoints.iterdir()))
        )

    def check_kinds(self) -> None:
        """Refuse folders that have the name of a file of a run, and files that have a folder's.

        Raises:
            ResourceError: There is one; no run could replace it.
        """
        for name in (*OWN_FILES, *OWN_FOLDERS):
            path = self.path / name
            if name in OWN_FILES and path.is_dir():
                raise ResourceError(f"{path}: {IS_A_FOLDER}")
            if name in OWN_FOLDERS and path.exists() and not path.is_dir():
                raise ResourceError(
                    f"{path}: is a file, where mlmtune makes a folder; move it away and try again"
                )

    def clear(self) -> None:
        """Delete what a run wrote, and nothing else."""
        for name in OWN_FOLDERS:
            shutil.rmtree(self.path / name, ignore_errors=True)
        for name in OWN_FILES:
            (self.path / name).unlink(missing_ok=True)
        self.checkpoints.mkdir(exist_ok=True)


@contextmanager
def open_run_dir(path: Path, *, may_be_in_use: bool) -> Iterator[RunDir]:
    """Make or reopen a run's directory and hold its lock. Called by the main process.

    Args:
        path: `run.output_dir`.
        may_be_in_use: Whether a run in it may be resumed or replaced.

    Raises:
        ConfigError: Another process holds it; or it is in use and must not be.
        ResourceError: It cannot be made or written.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        # Writing is tried, because permissions do not bind everywhere, as on network disks.
        probe = temporary_name(path / "probe")
        probe.write_text("", encoding="utf-8")
        probe.unlink(missing_ok=True)  # another start may have swept it
    except OSError as error:
        raise ResourceError(
            f"{path}: the output directory cannot be written ({error.strerror}); "
            "set run.output_dir to another folder"
        ) from error

    run = RunDir(path)
    try:
        lock = _lock(run, "wait for it, or set run.output_dir to another folder")
    except OSError as error:
        raise ResourceError(
            f"{path / LOCK_FILE}: cannot be written ({error.strerror}); move it away and try again"
        ) from error
    with lock:
        run.check_kinds()
        sweep(path)
        if run.is_in_use():
            if not may_be_in_use:
                raise ConfigError(
                    f"{path} is not empty; resume the run in it with --resume auto, replace it "
                    "with --overwrite, or set run.output_dir to another folder"
                )
            run.keep_record()
        run.checkpoints.mkdir(exist_ok=True)
        yield run


@contextmanager
def reading_finished_run(path: Path) -> Iterator[None]:
    """Keep any run from resuming or replacing the finished run in a directory during a block.

    Raises:
        ConfigError: Another process uses the directory, or the run was begun again.
    """
    run = RunDir(path)
    try:
        lock: AbstractContextManager[object] = _lock(run, "wait for it")
    except OSError:  # nobody but its owner writes to it, so this process cannot lock it
        lock = nullcontext()
    with lock:
        if run.read_status().get("state") != "finished":
            raise ConfigError(f"{path}: the run in it was begun again; wait for it")
        yield


def _lock(run: RunDir, remedy: str) -> AbstractContextManager[object]:
    """Take the lock of a run's directory.

    Raises:
        ConfigError: Another process holds it.
        OSError: There can be no lock.
    """
    try:
        return FileLock(run.path / LOCK_FILE).acquire(timeout=0)
    except Timeout as error:
        status = run.read_json("attempt.json") or run.read_status()
        if status.get("state") == "running":
            holder = f"another run (process {status.get('pid', 'unknown')}) is writing here"
        else:
            holder = "another process (a run that begins, or mlmtune merge) is using it"
        raise ConfigError(f"{run.path}: {holder}; {remedy}") from error


def finished_run_dir(path: Path) -> RunDir:
    """Open the directory of a finished run.

    Args:
        path: The directory of the run, or its model/.

    Raises:
        ConfigError: There is no run in it, or the run is in progress or was stopped.
        CheckpointError: One of its files is missing or damaged.
    """
    run = RunDir(run_directory(path) or path)
    status = run.read_json("status.json")
    if status is None and path.is_dir() and run.is_in_use() and (run.path / MANIFEST).exists():
        raise CheckpointError(f"{path}: status.json is missing or broken; {REMEDY}")
    if status is None and (path / MERGE_RECORD).is_file():
        raise ConfigError(
            f"{path}: holds a merged model, and not a run; merge.html there has its figures, and "
            "mlmtune eval --model compares it with others"
        )
    for name, command in MODEL_RECORDS.items():
        if status is None and (path / name).is_file():
            raise ConfigError(
                f"{path}: was written by {command}, and is not a run; give the run or the merged "
                "model that it was made from"
            )
    if status is None:
        raise ConfigError(f"{path}: there is no run in it (no status.json); give a run.output_dir")
    if status.get("state") != "finished":
        is_known = "step" in status and "max_steps" in status
        step = f"step {status['step']} of {status['max_steps']}" if is_known else "the start"
        if is_held(run.path):
            raise ConfigError(
                f"{path}: the run is in progress (process {status.get('pid')}, at {step}); wait "
                "for it"
            )
        raise ConfigError(
            f"{path}: the run is not finished (it stopped at {step}); resume it with the command "
            "that started it and --resume auto"
        )
    damage = run.find_damage()
    if damage is not None:
        raise CheckpointError(f"{path}: {damage}; {REMEDY}")
    return run


def write_model_record(path: Path, name: str, record: Mapping[str, Any]) -> None:
    """Write one of `MODEL_RECORDS` into the folder of a model, with a list of the other files."""
    files = sorted(file for file in path.rglob("*") if file.is_file())
    write_json(path / name, {**record, **manifest_of(path, files)})


def read_model_record(path: Path, name: str) -> dict[str, Any]:
    """Read one of `MODEL_RECORDS` in the folder of a model.

    Raises:
        CheckpointError: It is broken, or a file of the model is missing or damaged.
    """
    record = read_json(path / name)
    is_broken = record is None or "files" not in record
    damage = f"{name} is broken" if is_broken else find_damage(path, record)
    if record is None or damage is not None:
        again = f"run {MODEL_RECORDS[name]} again"
        raise CheckpointError(f"{path}: {damage}; delete the folder, and {again}")
    return record


def is_held(path: Path) -> bool:
    """Whether a process is writing to a run's directory."""
    if not (path / LOCK_FILE).exists():
        return False
    try:
        with FileLock(path / LOCK_FILE, timeout=0):
            return False
    except Timeout:
        return True
    except OSError:  # the lock file belongs to another user
        return False
