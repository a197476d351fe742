"""`mlmtune export`: a model for other runtimes, checked against the original on its own text."""

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import onnxruntime
import torch

from mlmtune import __version__
from mlmtune.commands.export_plan import ExportPlan
from mlmtune.config import ModelConfig
from mlmtune.console import Console
from mlmtune.errors import ConfigError, explaining_failures
from mlmtune.evaluation.agreement import (
    SEQUENCES,
    Agreement,
    measure_agreement,
    tokens_per_second,
)
from mlmtune.evaluation.scoring import TokenScores
from mlmtune.files import whole_folder, write_json
from mlmtune.modeling.masked_head import MaskedHead
from mlmtune.modeling.onnx_file import OnnxModel, write_int8, write_onnx
from mlmtune.numbers import perplexity, share
from mlmtune.printable import counted
from mlmtune.report.comparison import compare, units_of
from mlmtune.report.estimates import nats
from mlmtune.report.findings import Change, Measurement
from mlmtune.report.measuring import MeasuredModel
from mlmtune.tables import table
from mlmtune.training.run_dir import reading_finished_run
from mlmtune.training.setup import load_model_and_text

FP32_FILE, INT8_FILE = "model.onnx", "model_quantized.onnx"
"""The names by which optimum and transformers.js look for the files."""

TOLERANCE = 1e-3
"""The largest difference of logits, as a share of the largest logit, that rounding explains."""

LARGEST_LOGITS = 2**27
"""How many logits of a batch are in memory at once, at most: half a gigabyte."""


@dataclass(frozen=True)
class Export:
    """The content of export.json: what was exported, and how it compares with the model.

    Attributes:
        model: The folder of the model.
        agreement: How far PyTorch and ONNX agree, in fp32.
        tokens_per_second: By form of the model and number of sequences.
        num_threads: The threads that all of them used.
        sequence_length: The tokens of a sequence when speed was measured.
        num_bytes: The size of each form on the disk.
        int8: The loss of both forms on the validation masks; None without `--int8`.
    """

    created_at: str
    mlmtune_version: str
    torch_version: str
    onnxruntime_version: str
    model: str
    agreement: Agreement
    tokens_per_second: dict[str, dict[str, float]]
    num_threads: int
    sequence_length: int
    num_bytes: dict[str, int]
    int8: tuple[Measurement, ...] | None


def export_model(plan: ExportPlan, console: Console) -> None:
    """Write a model as ONNX files with its tokenizer, and compare them with it on its text.

    Args:
        plan: The model, the run that has the text, and the folder that is written.
        console: Shows the progress; prints the comparison.

    Raises:
        MlmtuneError: The model or the text cannot be loaded, or its architecture not exported.
        ConfigError: The exported model does not compute what the model does.
        ResourceError: The disk is full, or the folder cannot be written.
    """
    config = plan.model.run.config
    changes = {
        "model": ModelConfig(name_or_path=str(plan.model.folder)),
        "objective": "mlm",
        "evaluation": config.evaluation.model_copy(update={"general": [], "examples": []}),
    }
    with reading_finished_run(plan.model.run.path), explaining_failures(plan.target, "--output"):
        setup = load_model_and_text(
            config.model_copy(update=changes), torch.device("cpu"), "fp32", console
        )
        plan.target.parent.mkdir(parents=True, exist_ok=True)
        with whole_folder(plan.target) as folder:
            console.say("exporting to ONNX ...")
            write_onnx(setup.loaded, folder / FP32_FILE)
            setup.loaded.model.config.save_pretrained(folder)
            setup.loaded.tokenizer.save_pretrained(folder)
            original = MeasuredModel(setup, torch.device("cpu"), "fp32")
            export = _compared(original, plan, folder, console)
            write_json(folder / "export.json", asdict(export))
    for line in _described(export):
        console.result(line)
    console.result(f"the model is in {plan.target}")


def _compared(original: MeasuredModel, plan: ExportPlan, folder: Path, console: Console) -> Export:
    """Compare the files in a folder with the model that they were made from.

    Raises:
        ConfigError: The file in fp32 does not agree with the model.
    """
    setup = original.setup
    masks, fp32 = setup.evaluator.masks, OnnxModel(folder / FP32_FILE)
    agreement = measure_agreement(setup.loaded.model, fp32, masks)
    if not agreement.largest_difference <= TOLERANCE * agreement.largest_logit:  # NaN, too
        raise ConfigError(
            f"{plan.model.folder}: as ONNX, it does not compute what it does in PyTorch (logits "
            f"differ by up to {agreement.largest_difference:.2g}); nothing was written: use it "
            "with transformers"
        )
    models: dict[str, Any] = {"PyTorch": setup.loaded.model, "ONNX fp32": fp32}
    losses = None
    if plan.has_int8:
        write_int8(folder / FP32_FILE, folder / INT8_FILE)
        models["ONNX int8"] = OnnxModel(folder / INT8_FILE)
        scores = {
            name: _scored(model, original, plan, console)
            for name, model in models.items()
            if name != "PyTorch"
        }
        units, _ = units_of(scores["ONNX fp32"], masks.view)
        losses = compare(scores, {"ONNX fp32": None, "ONNX int8": "ONNX fp32"}, units)
    return Export(
        created_at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        mlmtune_version=__version__,
        torch_version=torch.__version__,
        onnxruntime_version=onnxruntime.__version__,
        model=str(plan.model.folder),
        agreement=agreement,
        tokens_per_second=tokens_per_second(models, masks),
        num_threads=torch.get_num_threads(),
        sequence_length=masks.batch(masks.chunks[:1]).input_ids.shape[1],
        num_bytes={
            name: sum(file.stat().st_size for file in folder.glob(f"{prefix}*"))
            for name, prefix in (("ONNX fp32", FP32_FILE), ("ONNX int8", INT8_FILE))
            if name in models
        },
        int8=losses,
    )


def _scored(
    model: OnnxModel, original: MeasuredModel, plan: ExportPlan, console: Console
) -> TokenScores:
    """Score a file on every masked token of the run's validation text."""
    setup, evaluation = original.setup, plan.model.run.config.evaluation
    vocab_size = setup.loaded.model.get_input_embeddings().num_embeddings
    fitting = LARGEST_LOGITS // (vocab_size * plan.model.run.config.chunking.chunk_length)
    head = MaskedHead(model, len(setup.loaded.tokenizer))
    measured = replace(setup, loaded=replace(setup.loaded, model=model), head=head)
    return replace(original, setup=measured).score(
        setup.evaluator.masks, max(min(evaluation.batch_size, fitting), 1), console
    )


def _described(export: Export) -> Iterator[str]:
    of = export.agreement
    yield (
        f"ONNX agrees with PyTorch on {counted(of.num_positions, 'position')} of validation text: "
        f"the largest difference of logits is {of.largest_difference:.1e}, and "
        f"{share(of.same_token_share)} have the same likeliest token"
    )
    if export.int8 is not None:
        fp32, int8 = export.int8
        assert isinstance(int8.change, Change)
        yield (
            f"int8 changes the loss by {nats(int8.change.loss)} nats per token: perplexity "
            f"{perplexity(int8.perplexity.value)}, and {perplexity(fp32.perplexity.value)} in fp32"
        )
    yield ""
    rows = [["tokens per second", *(counted(size, "sequence") for size in SEQUENCES), "MB"]]
    for name, speeds in export.tokens_per_second.items():
        num_bytes = export.num_bytes.get(name)
        size = "" if num_bytes is None else f"{num_bytes / 1e6:,.1f}"
        rows.append([name, *(f"{speed:,.0f}" for speed in speeds.values()), size])
    yield from table(rows)
    yield (
        f"(sequences of {export.sequence_length} tokens, {counted(export.num_threads, 'thread')} "
        "of this CPU)"
    )
