"""Models as files of OpenVINO, which converts them from PyTorch's graph; NNCF compresses them.

OpenVINO also reads ONNX files. Converted from PyTorch, attention stays one operation, and is faster
the longer the sequences are.
"""

import io
import sys
from contextlib import redirect_stdout
from pathlib import Path

import torch

from mlmtune.modeling.exported_model import ExportedModel, exporting, quietly
from mlmtune.modeling.loading import LoadedModel

# Both send to Intel that and how they are used, and write to the home directory, without asking.
# Where this package is missing, they do not.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

import nncf  # noqa: E402
import openvino  # noqa: E402
from openvino.frontend import OpConversionFailure  # noqa: E402

VERSION: str = openvino.__version__
SNIPPET = """\
import openvino
from transformers import AutoTokenizer
from transformers.utils import cached_file

{here}
files = [cached_file(model, name) for name in {files}]
compiled = openvino.compile_model(files[0], "CPU", {{"INFERENCE_PRECISION_HINT": "f32"}})
tokenizer = AutoTokenizer.from_pretrained(model)
inputs = tokenizer({text}, return_tensors="np")
feed = {{each.any_name: inputs[each.any_name] for each in compiled.inputs}}
logits = compiled(feed)["logits"]
"""


def write(loaded: LoadedModel, path: Path) -> None:
    """Write a model as `Runtime.write` says: its graph as XML, and its weights in a file `.bin`."""
    with exporting(loaded, "OpenVINO") as program:
        try:
            model = openvino.convert_model(program)
        except OpConversionFailure:  # whose message has no line that says which
            raise ValueError("OpenVINO cannot convert some of its operations") from None
        model.outputs[0].set_names({"logits"})
        openvino.save_model(model, path, compress_to_fp16=False)


def write_int8(source: Path, target: Path) -> None:
    """Write a model with the weights of its matrix products and embeddings in 8 bits.

    OpenVINO quantises activations while the model runs, so no text is needed.
    """
    with quietly(), redirect_stdout(io.StringIO()):  # NNCF has a progress bar
        compressed = nncf.compress_weights(openvino.Core().read_model(source))
    openvino.save_model(compressed, target, compress_to_fp16=False)


def open_model(path: Path) -> ExportedModel:
    """Open a model with as many threads as PyTorch uses, to compute in fp32.

    By default, OpenVINO computes in bf16 on CPUs that are fast at it.
    """
    settings = {
        "INFERENCE_NUM_THREADS": torch.get_num_threads(), "INFERENCE_PRECISION_HINT": "f32",
    }  # fmt: skip
    compiled = openvino.Core().compile_model(path, "CPU", settings)
    inputs = [each.any_name for each in compiled.inputs]
    return ExportedModel(path, inputs, lambda feed: compiled(feed)["logits"])
