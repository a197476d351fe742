"""The options of `mlmtune export`, checked before any library is imported."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from mlmtune.commands.adapted_model import AdaptedModel
from mlmtune.errors import ConfigError
from mlmtune.shell import pip_install


@dataclass(frozen=True)
class Target:
    """A runtime that models are exported to.

    Attributes:
        name: The value of `--to`, which is also the name of the extra and of the folder.
        title: The name of the runtime in text.
        packages: The modules that it needs.
        module: The module that writes and runs its files, a `Runtime` of `modeling.exported_model`.
        fp32: The name by which other libraries look for the file.
        int8: The same in 8 bits.
    """

    name: str
    title: str
    packages: tuple[str, ...]
    module: str
    fp32: str
    int8: str


TARGETS: Mapping[str, Target] = {
    target.name: target
    for target in (
        # The names of optimum and transformers.js.
        Target(
            "onnx", "ONNX", ("onnx", "onnxruntime", "onnxscript"), "mlmtune.modeling.onnx_file",
            fp32="model.onnx", int8="model_quantized.onnx",
        ),
        # The name of optimum-intel; in 8 bits it has none of its own.
        Target(
            "openvino", "OpenVINO", ("openvino", "nncf"), "mlmtune.modeling.openvino_file",
            fp32="openvino_model.xml", int8="openvino_model_quantized.xml",
        ),
    )
}  # fmt: skip


@dataclass(frozen=True)
class ExportPlan:
    """What is exported and where to.

    Attributes:
        model: The model; the result is checked on the validation text of its run.
        target: The runtime.
        folder: The folder that is written.
        has_int8: Whether the model is written in 8 bits, too.
    """

    model: AdaptedModel
    target: Target
    folder: Path
    has_int8: bool


def plan_export(path: Path, to: str, output: Path | None, *, has_int8: bool) -> ExportPlan:
    """Check the options of the command.

    Args:
        path: The directory of a finished run, its model/, or the folder of a merged model.
        to: The value of `--to`.
        output: The value of `--output`; the default is the name of the runtime in the directory of
            the run, or in the folder of the merged model.
        has_int8: The value of `--int8`.

    Raises:
        ConfigError: The runtime is unknown, a package is missing, the folder exists, or there is no
            finished run.
        CheckpointError: A file of the run or of the merged model is missing or damaged.
    """
    target = TARGETS.get(to)
    if target is None:
        raise ConfigError(
            f"--to {to}: is not a format of mlmtune export; write --to {' or --to '.join(TARGETS)}"
        )
    if missing := [name for name in target.packages if find_spec(name) is None]:
        raise ConfigError(f"--to {to} needs {missing[0]}; {pip_install(f'mlmtune[{to}]')}")
    model = AdaptedModel.read(path)
    return ExportPlan(model, target, model.free_folder(output, target.name), has_int8)
