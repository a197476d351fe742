"""The options of `mlmtune export`, checked before any library is imported."""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from mlmtune.errors import ConfigError
from mlmtune.locations import MERGE_RECORD, ONNX_FOLDER, expand_home
from mlmtune.report.runs import FinishedRun, read_finished_run
from mlmtune.shell import pip_install
from mlmtune.training.run_dir import read_merge_record

TARGETS = ("onnx",)
PACKAGES = ("onnx", "onnxruntime", "onnxscript")


@dataclass(frozen=True)
class ExportPlan:
    """What is exported and where to.

    Attributes:
        run: The run, whose validation text the result is checked on.
        model: The folder of the model.
        target: The folder that is written.
        has_int8: Whether the model is written in 8 bits, too.
    """

    run: FinishedRun
    model: Path
    target: Path
    has_int8: bool


def plan_export(path: Path, to: str, output: Path | None, *, has_int8: bool) -> ExportPlan:
    """Check the options of the command.

    Args:
        path: The directory of a finished run, its model/, or the folder of a merged model.
        to: The value of `--to`.
        output: The value of `--output`; the default is `onnx` in the directory of the run, or in
            the folder of the merged model.
        has_int8: The value of `--int8`.

    Raises:
        ConfigError: The format is unknown, a package is missing, the folder exists, or there is no
            finished run.
        CheckpointError: A file of the run or of the merged model is missing or damaged.
    """
    if to not in TARGETS:
        raise ConfigError(f"--to {to}: is not a format of mlmtune export; write --to onnx")
    if missing := [name for name in PACKAGES if find_spec(name) is None]:
        raise ConfigError(f"--to onnx needs {missing[0]}; {pip_install('mlmtune[onnx]')}")
    run, model = read_model(path)
    return ExportPlan(run, model, free_target(run, model, output, ONNX_FOLDER), has_int8)


def read_model(path: Path) -> tuple[FinishedRun, Path]:
    """Return the run that has the text of a model, and the folder of the model.

    Raises:
        ConfigError: There is no finished run.
        CheckpointError: A file of the run or of the merged model is missing or damaged.
    """
    if (path / MERGE_RECORD).is_file():
        return read_finished_run(Path(read_merge_record(path)["runs"][0])), path
    run = read_finished_run(path)
    return run, run.model


def free_target(run: FinishedRun, model: Path, output: Path | None, name: str) -> Path:
    """Return the folder to write: `--output`, or one of this name in that of the run or model.

    Raises:
        ConfigError: It exists.
    """
    folder = run.path if model == run.model else model
    target = expand_home(output) if output else folder / name
    if target.exists() or target.is_symlink():
        raise ConfigError(f"{target} exists already; delete it, or give another folder by --output")
    return target
