"""`mlmtune export`: a model for other runtimes, checked against the original on its own text."""

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import torch
from transformers import AutoTokenizer

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
from mlmtune.files import whole_folder
from mlmtune.locations import EXPORT_RECORD
from mlmtune.modeling.exported_model import ExportedModel, Runtime
from mlmtune.modeling.masked_head import MaskedHead
from mlmtune.modeling.names import derived_name
from mlmtune.numbers import perplexity, share
from mlmtune.printable import counted
from mlmtune.report.comparison import compare, units_of
from mlmtune.report.estimates import nats
from mlmtune.report.findings import Change, Measurement
from mlmtune.report.measuring import MeasuredModel
from mlmtune.sharing.card import Card, write_card
from mlmtune.sharing.export_card import export_card, export_snippet
from mlmtune.sharing.masked_lm_card import example_text
from mlmtune.shell import own_command
from mlmtune.tables import table
from mlmtune.training.run_dir import reading_finished_run, write_model_record
from mlmtune.training.setup import load_model_and_text

TOLERANCE = 1e-3
"""The largest difference of logits, as a share of the largest logit, that rounding explains."""

LARGEST_LOGITS = 2**27
"""How many logits of a batch are in memory at once, at most: half a gigabyte."""


@dataclass(frozen=True)
class Export:
    """The content of export.json: what was exported, and how it compares with the model.

    Attributes:
        name: The name of the model.
        model: The folder of the model.
        forms: The file to open of each form of the model.
        target: The name of the runtime.
        agreement: How far PyTorch and the runtime agree, in fp32.
        tokens_per_second: By form of the model and number of sequences.
        num_threads: The threads that all of them used.
        sequence_length: The tokens of a sequence when speed was measured.
        num_bytes: The size of each form on the disk.
        int8: The loss of both forms on the validation masks; None without `--int8`.
    """

    created_at: str
    mlmtune_version: str
    torch_version: str
    runtime_version: str
    name: str
    model: str
    forms: dict[str, str]
    target: str
    agreement: Agreement
    tokens_per_second: dict[str, dict[str, float]]
    num_threads: int
    sequence_length: int
    num_bytes: dict[str, int]
    int8: tuple[Measurement, ...] | None


def export_model(plan: ExportPlan, console: Console) -> None:
    """Write a model for a runtime with its tokenizer, and compare it with the original on its text.

    Args:
        plan: The model, the runtime, and the folder that is written.
        console: Shows the progress; prints the comparison.

    Raises:
        MlmtuneError: The model or the text cannot be loaded, or its architecture not exported.
        ConfigError: The exported model does not compute what the model does.
        ResourceError: The disk is full, or the folder cannot be written.
    """
    run, target = plan.model.run, plan.target
    changes = {
        "model": ModelConfig(name_or_path=str(plan.model.folder)),
        "objective": "mlm",
        "evaluation": run.config.evaluation.model_copy(update={"general": [], "examples": []}),
    }
    runtime = cast(Runtime, import_module(target.module))
    with reading_finished_run(run.path), explaining_failures(plan.folder, "--output"):
        setup = load_model_and_text(
            run.config.model_copy(update=changes), torch.device("cpu"), "fp32", console
        )
        original = MeasuredModel(setup, torch.device("cpu"), "fp32")
        plan.folder.parent.mkdir(parents=True, exist_ok=True)
        with whole_folder(plan.folder) as folder:
            console.say(f"exporting to {target.title} ...")
            runtime.write(setup.loaded, folder / target.fp32)
            setup.loaded.model.config.save_pretrained(folder)
            setup.loaded.tokenizer.save_pretrained(folder)
            export = _compared(original, plan, runtime, folder, console)
            write_model_record(folder, EXPORT_RECORD, asdict(export))
            write_card(folder, lambda: _card(folder, plan, runtime, export), console.say)
    for line in _described(export, target.title):
        console.result(line)
    console.result(f"the model is in {plan.folder}")
    share_it = own_command("push", plan.folder, "--repo", derived_name(plan.folder))
    console.say(f"share it: {share_it}")


def _compared(
    original: MeasuredModel, plan: ExportPlan, runtime: Runtime, folder: Path, console: Console
) -> Export:
    """Compare the files in a folder with the model that they were made from.

    Raises:
        ConfigError: The file in fp32 does not agree with the model.
    """
    setup, target = original.setup, plan.target
    forms = {f"{target.title} fp32": target.fp32}
    exported = {form: runtime.open_model(folder / name) for form, name in forms.items()}
    masks, [fp32] = setup.evaluator.masks, exported.values()
    agreement = measure_agreement(setup.loaded.model, fp32, masks)
    if not agreement.largest_difference <= TOLERANCE * agreement.largest_logit:  # NaN, too
        raise ConfigError(
            f"{plan.model.folder}: as {target.title}, it does not compute what it does in PyTorch "
            f"(logits differ by up to {agreement.largest_difference:.2g}); nothing was written: "
            "use it with transformers"
        )
    losses = None
    if plan.has_int8:
        runtime.write_int8(folder / target.fp32, folder / target.int8)
        forms[f"{target.title} int8"] = target.int8
        exported[f"{target.title} int8"] = runtime.open_model(folder / target.int8)
        scores = {form: _scored(model, original, plan, console) for form, model in exported.items()}
        first, second = scores
        units, _ = units_of(scores[first], masks.view)
        losses = compare(scores, {first: None, second: first}, units)
    models: dict[str, Any] = {"PyTorch": setup.loaded.model, **exported}
    return Export(
        created_at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        mlmtune_version=__version__,
        torch_version=torch.__version__,
        runtime_version=runtime.VERSION,
        name=derived_name(plan.model.folder),
        model=str(plan.model.folder),
        forms=forms,
        target=target.name,
        agreement=agreement,
        tokens_per_second=tokens_per_second(models, masks),
        num_threads=torch.get_num_threads(),
        sequence_length=masks.batch(masks.chunks[:1]).input_ids.shape[1],
        num_bytes={
            form: sum(file.stat().st_size for file in _files(folder, name))
            for form, name in forms.items()
        },
        int8=losses,
    )


def _files(folder: Path, name: str) -> list[Path]:
    """Return the file of a model in a folder, and then those of its weights, if there are any."""
    weights = {*folder.glob(f"{Path(name).stem}.*")} - {folder / name}
    return [folder / name, *sorted(weights)]


def _scored(
    model: ExportedModel, original: MeasuredModel, plan: ExportPlan, console: Console
) -> TokenScores:
    """Score a file on every masked token of the run's validation text."""
    setup, config = original.setup, plan.model.run.config
    vocab_size = setup.loaded.model.get_input_embeddings().num_embeddings
    fitting = LARGEST_LOGITS // (vocab_size * config.chunking.chunk_length)
    head = MaskedHead(model, len(setup.loaded.tokenizer))
    measured = replace(setup, loaded=replace(setup.loaded, model=model), head=head)
    return replace(original, setup=measured).score(
        setup.evaluator.masks, max(min(config.evaluation.batch_size, fitting), 1), console
    )


def _card(folder: Path, plan: ExportPlan, runtime: Runtime, export: Export) -> Card:
    record, config = plan.model.run.record, plan.model.run.config
    tokenizer = AutoTokenizer.from_pretrained(folder)
    files = _files(folder, plan.target.fp32)
    snippet = export_snippet(
        runtime,
        runtime.open_model(files[0]),
        tokenizer,
        [file.name for file in files],
        example_text(config.evaluation.examples, tokenizer.mask_token),
    )
    records = {"corpus": record.corpus, "environment": record.environment}
    name = derived_name(plan.folder)
    return export_card(name, config, record.eval_results, records, snippet, asdict(export))


def _described(export: Export, title: str) -> Iterator[str]:
    of = export.agreement
    yield (
        f"{title} agrees with PyTorch on {counted(of.num_positions, 'position')} of "
        f"validation text: the largest difference of logits is {of.largest_difference:.1e}, and "
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
