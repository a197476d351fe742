"""The options of `mlmtune export`, checked before any library is imported."""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from mlmtune.commands.adapted_model import AdaptedModel
from mlmtune.errors import ConfigError
from mlmtune.locations import ONNX_FOLDER
from mlmtune.shell import pip_install

TARGETS = ("onnx",)
PACKAGES = ("onnx", "onnxruntime", "onnxscript")


@dataclass(frozen=True)
class ExportPlan:
    """What is exported and where to.

    Attributes:
        model: The model; the result is checked on the validation text of its run.
        target: The folder that is written.
        has_int8: Whether the model is written in 8 bits, too.
    """

    model: AdaptedModel
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
    model = AdaptedModel.read(path)
    return ExportPlan(model, model.free_folder(output, ONNX_FOLDER), has_int8)
