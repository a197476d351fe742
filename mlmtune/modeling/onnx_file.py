"""Models as ONNX files: written by PyTorch's exporter, run and quantised by ONNX Runtime."""

from pathlib import Path

import onnxruntime
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic

from mlmtune.modeling.exported_model import ExportedModel, exporting, quietly
from mlmtune.modeling.loading import LoadedModel

VERSION: str = onnxruntime.__version__
SNIPPET = """\
import onnxruntime
from transformers import AutoTokenizer
from transformers.utils import cached_file

{here}
files = [cached_file(model, name) for name in {files}]
session = onnxruntime.InferenceSession(files[0])
tokenizer = AutoTokenizer.from_pretrained(model)
inputs = tokenizer({text}, return_tensors="np")
feed = {{each.name: inputs[each.name] for each in session.get_inputs()}}
[logits] = session.run(["logits"], feed)
"""

LARGEST_FILE = 2**31 - 2**20
"""The bytes that fit into one file of Protocol Buffers, with room for the graph."""

OPSET = 18
"""The version of ONNX's operators, of 2022. PyTorch's exporter writes no older one."""


def write(loaded: LoadedModel, path: Path) -> None:
    """Write a model as `Runtime.write` says; beyond `LARGEST_FILE`, its weights are apart."""
    with exporting(loaded, "ONNX") as program:
        names = program.graph_signature.user_inputs
        sizes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence")}
        file = torch.onnx.export(
            program,
            input_names=list(map(str, names)),
            output_names=["logits"],
            dynamic_shapes=dict.fromkeys(names, sizes),  # their names
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
        assert file is not None  # that is of the other exporter
        num_bytes = sum(p.numel() * p.element_size() for p in loaded.model.parameters())
        file.save(path, external_data=num_bytes > LARGEST_FILE)


def write_int8(source: Path, target: Path) -> None:
    """Write a file with the weights of its matrix products and embeddings in 8 bits.

    Activations are quantised while the model runs (dynamic quantisation), so no text is needed.
    """
    with quietly():
        quantize_dynamic(
            source, target, weight_type=QuantType.QInt8, per_channel=True,
            use_external_data_format=source.with_name(f"{source.name}.data").is_file(),
        )  # fmt: skip


def open_model(path: Path) -> ExportedModel:
    """Open a file with as many threads as PyTorch uses."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # its advice on graphs is not the user's
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    inputs = [each.name for each in session.get_inputs()]
    return ExportedModel(path, inputs, lambda feed: session.run(["logits"], feed)[0])
