"""`mlmtune eval`: measure several models on several texts, in one table."""

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from mlmtune.config import Config, ModelConfig
from mlmtune.console import Console
from mlmtune.errors import ConfigError, ResourceError
from mlmtune.evaluation.known_text import compares
from mlmtune.evaluation.perplexity import Evaluation
from mlmtune.evaluation.scoring import FixedMasks
from mlmtune.files import file_of_user
from mlmtune.masking.collator import IGNORE_INDEX
from mlmtune.modeling.device import build_accelerator, precision_of
from mlmtune.modeling.names import short_names
from mlmtune.numbers import perplexity, share
from mlmtune.report import estimates
from mlmtune.report.comparison import perplexity_per
from mlmtune.report.findings import Estimate, RetrievalMeasurement, WordFindings
from mlmtune.report.retrieval import BM25, Searches
from mlmtune.report.word_cloze import Clozes, distinct_tokenizers
from mlmtune.tables import table
from mlmtune.training.setup import ModelAndText, load_model_and_text

DUMP_COLUMNS = ("model", "text", "chunk", "source", "original", "masked", "prediction")


@dataclass(frozen=True)
class Row:
    """The measurement of a model on a text.

    Attributes:
        text: The name of the config, or of its general text.
        tokenizer: Only rows with the same tokenizer compare per token.
        per_word: The perplexity per word; None if no word of the text is known.
        per_byte: The perplexity per byte; None if no byte of the text is known.
        retrieval: How well the model finds documents of the text, compared with the first model;
            None for a general text, or if there are too few documents.
        words: How well it predicts whole words of the text, compared with the first model; None if
            all models have one tokenizer, or if words could not be compared.
    """

    text: str
    model: str
    tokenizer: str
    evaluation: Evaluation
    per_word: Estimate | None
    per_byte: Estimate | None
    retrieval: RetrievalMeasurement | None = None
    words: WordFindings | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the record of `--json`."""
        return {
            "text": self.text,
            "model": self.model,
            **self.evaluation.to_json(),
            "perplexity_per_word": self.per_word and self.per_word.value,
            "perplexity_per_byte": self.per_byte and self.per_byte.value,
            "retrieval": self.retrieval and asdict(self.retrieval),
            "words": self.words and asdict(self.words),
        }


@dataclass(frozen=True)
class Measured:
    """Models that were measured on texts.

    Attributes:
        notes: What the columns of the table mean, or why they are empty.
        dumped: The rows of `--dump`; empty unless they were asked for.
    """

    rows: list[Row]
    notes: list[str]
    dumped: list[tuple[Any, ...]]


def evaluate_models(
    configs: Sequence[tuple[Path, Config]],
    models: Sequence[str],
    console: Console,
    *,
    as_json: bool,
    dump: Path | None,
) -> None:
    """Measure models on texts, and print a table or a list of records; see `measure_models`.

    Args:
        configs: The path of each config, and its settings.
        models: Folders, directories of runs, hub names, or package://NAME/FOLDER.
        console: Shows the progress; prints the table.
        as_json: Whether to print a list of records instead of the table.
        dump: A file to write the masked input and the predictions of each chunk to.

    Raises:
        MlmtuneError: A model or a text is missing, or they do not fit.
    """
    named = dict(zip(text_names([path for path, _ in configs]), (c for _, c in configs),
                     strict=True))  # fmt: skip
    measured = measure_models(named, models, console, dumps=dump is not None)
    if measured is None:
        return
    if dump is not None:
        write_dump(dump, measured.dumped)
    if as_json:
        console.result(json.dumps([row.to_json() for row in measured.rows], indent=2))
    else:
        for line in [*describe(measured.rows), *measured.notes]:
            console.result(line)


def measure_models(
    texts: Mapping[str, Config], models: Sequence[str], console: Console, *, dumps: bool = False
) -> Measured | None:
    """Measure each model on the validation text and the general text of each config.

    Args:
        texts: The configs by the name of their text.
        models: Folders, directories of runs, hub names, or package://NAME/FOLDER.
        console: Shows the progress.
        dumps: Whether to keep the masked input and the predictions of each chunk.

    Returns:
        The measurements; None in all processes but the first.

    Raises:
        MlmtuneError: A model or a text is missing, or they do not fit.
    """
    precisions = {config.training.precision for config in texts.values()}
    if len(precisions) > 1:
        raise ConfigError(
            f"the configs differ in training.precision ({', '.join(sorted(precisions))}); give one "
            "for all, such as training.precision=fp32"
        )
    accelerator = build_accelerator(precisions.pop())
    is_main = accelerator.is_main_process
    if not is_main:
        console = Console(is_main=False)
    if dumps and accelerator.num_processes > 1:
        raise ConfigError("--dump writes what one process sees; leave --nproc out")
    rows: list[Row] = []
    notes: list[str] = []
    dumped: list[tuple[Any, ...]] | None = [] if dumps else None
    tokenizers = distinct_tokenizers([ModelConfig(name_or_path=m) for m in models], "--model")
    for text, config in texts.items():
        searches, clozes, of_text = Searches(), Clozes(tokenizers), []
        for name, model in zip(short_names(models), models, strict=True):
            named = (name, model)
            of_text += _measure(
                (text, config), named, accelerator, console, (searches, clozes), dumped
            )
            accelerator.free_memory()  # because it holds on to every model that it prepared
        searched, note = _with_retrieval(of_text, text, searches)
        rows += _with_words(searched, text, clozes)
        notes += [note, *(f"{text}: {why_not}" for why_not in clozes.why_not)]
    accelerator.end_training()
    return Measured(rows, notes, dumped or []) if is_main else None


def text_names(paths: Sequence[Path]) -> list[str]:
    """Return a distinct name for the text of each config: its file's, with folders if needed."""
    stems = [path.stem for path in paths]
    return stems if len({*stems}) == len(stems) else short_names([str(path) for path in paths])


def _with_retrieval(rows: Sequence[Row], text: str, searches: Searches) -> tuple[list[Row], str]:
    """Add to the rows of a text what their models found.

    Returns:
        The rows, and a note: what the columns of the table mean, or why they are empty.
    """
    first, *others = dict.fromkeys(row.model for row in rows)
    found = searches.findings(dict.fromkeys(others, first))
    if found is None:
        return list(rows), f"{text}: {searches.why_not}"
    measures = found.of(BM25).measures
    shares = [estimates.share(e, with_interval=False) for e in vars(measures).values()]
    note = (
        f"{text}: found first, and in ten: the share of {found.num_documents} documents, each "
        f"searched for by its title or its other half (BM25: {shares[0]}, {shares[1]}); the change "
        "is that of nDCG at 10 from the first model, in points."
    )
    searched = [
        replace(row, retrieval=found.of(row.model)) if row.text == text else row for row in rows
    ]
    return searched, note


def _with_words(rows: Sequence[Row], text: str, clozes: Clozes) -> Iterator[Row]:
    """Yield the rows of a text and of its general text, with the words that were compared."""
    first, *others = dict.fromkeys(row.model for row in rows)
    bases = {first: None, **dict.fromkeys(others, first)}
    for row in rows:
        words = clozes.findings("domain" if row.text == text else "general", bases)
        yield replace(row, words=words and words.only(row.model))


def _measure(
    named_config: tuple[str, Config],
    named_model: tuple[str, str],
    accelerator: Accelerator,
    console: Console,
    compared: tuple[Searches, Clozes],
    dumped: list[tuple[Any, ...]] | None,
) -> list[Row]:
    """Measure a model on the texts of a config, and add to `compared` and to `dumped`."""
    searches, clozes = compared
    (text, config), (name, location) = named_config, named_model
    chosen = ModelConfig(
        name_or_path=location, attn_implementation=config.model.attn_implementation
    )
    config, precision = config.model_copy(update={"model": chosen}), precision_of(accelerator)
    setup = load_model_and_text(config, accelerator.device, precision, console, model_key="--model")
    if setup.loaded.head_is_new:
        console.say(
            f"{location} has no masked-LM head; it gets a new one, so its perplexity says little"
        )
    prepared = accelerator.prepare_model(setup.loaded.model, evaluation_mode=True)
    module = accelerator.unwrap_model(prepared)
    searches.add(name, setup, config, lambda probe: probe.run(accelerator, module))
    clozes.add(name, setup, config, lambda cloze: cloze.run(accelerator, module))
    evaluators = {text: setup.evaluator, f"{text}, general": setup.general_evaluator}
    rows = []
    for what, evaluator in evaluators.items():
        if evaluator is None:
            continue
        evaluation = evaluator.run(accelerator, module, setup.head)
        assert evaluation is not None  # None means that it was stopped, which nothing does here
        loss, known_text = Estimate(evaluation.loss), evaluator.known_text
        rows.append(
            Row(
                text=what,
                model=name,
                tokenizer=setup.store.made_of["tokenizer"],
                evaluation=evaluation,
                per_word=perplexity_per(known_text.words_per_token, loss),
                per_byte=perplexity_per(known_text.bytes_per_token, loss),
            )
        )
        if dumped is not None:
            dumped += _of_chunks(what, name, evaluator.masks, setup, accelerator)
    return rows


def describe(rows: Sequence[Row]) -> list[str]:
    """Return the lines of the table, with notes on what does not compare."""
    compares_tokens = len({row.tokenizer for row in rows}) == 1
    knows = {
        text: compares(row.evaluation.unknown_byte_share for row in rows if row.text == text)
        for text in dict.fromkeys(row.text for row in rows)
    }
    has_pairs = any(row.evaluation.of_pairs for row in rows)
    names = [
        "text", "model", "perplexity", "95 %", "per word", "per byte", "first", "five", "tokens",
    ]  # fmt: skip
    finds = any(row.retrieval for row in rows)
    found = ["found first", "in ten", "change, 95 %"] * finds
    has_words = any(row.words for row in rows)
    of_words = ["nats per word", "change, 95 %"] * has_words
    lines = [[*names, "unknown (bytes)", *of_words, *found] + ["pairs", "apart"] * has_pairs]
    for row in rows:
        evaluation, interval = row.evaluation, row.evaluation.perplexity_interval
        bounds = [] if interval is None else [perplexity(bound) for bound in interval]
        means = (evaluation.of_pairs.get(name) for name in ("pair_accuracy", "pair_label_share"))
        pairs = ["" if mean is None else share(mean) for mean in means]
        mark = "" if knows[row.text] else "†"
        per_unit = [
            estimates.perplexity(per) + (mark if per else "")
            for per in (row.per_word, row.per_byte)
        ]
        cells = [
            row.text,
            row.model,
            perplexity(evaluation.perplexity) + ("" if compares_tokens else "*"),
            " to ".join(bounds),
            *per_unit,
            share(evaluation.accuracy),
            share(evaluation.accuracy_top5),
            f"{evaluation.num_masked_tokens:,}",
            f"{share(evaluation.unknown_token_share)} ({share(evaluation.unknown_byte_share)})",
        ]
        cells += [*_words(row) * has_words, *_found(row.retrieval) * finds]
        lines.append([*cells, *pairs * has_pairs])
    shown = list(table(lines))
    if not compares_tokens:
        shown.append("* The tokenizers differ, so perplexities per token do not compare.")
        if all(knows.values()):
            shown.append("  Perplexities per word and per byte do compare.")
    if has_words:
        shown.append(
            "  Nats per word are of the same whole words for every model. The interval of the "
            "change from the first model holds whether or not the number of a word's pieces is "
            "counted."
        )
    if not all(knows.values()):
        shown.append(
            "† The models know different shares of this text. What a model does not know is left "
            "out of its numbers, so no perplexity here says which model is better."
        )
    return shown


def _words(row: Row) -> list[str]:
    """Return the cells of the whole words that a model predicted."""
    if row.words is None:
        return ["", ""]
    measured = row.words.of(row.model)
    changed = "" if measured.change is None else estimates.nats(measured.change.decisive)
    return [estimates.loss(measured.losses.loss), changed]


def _found(retrieval: RetrievalMeasurement | None) -> list[str]:
    """Return the cells of what a model found."""
    if retrieval is None:
        return ["", "", ""]
    of, change = retrieval.measures, retrieval.change
    shares = [estimates.share(e, with_interval=False) for e in (of.recall_at_1, of.recall_at_10)]
    return [*shares, "" if change is None else estimates.points(change.ndcg_at_10)]


def _of_chunks(
    text: str, name: str, masks: FixedMasks, setup: ModelAndText, accelerator: Accelerator
) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of `--dump`; see `DUMP_COLUMNS`."""
    tokenizer, view = setup.loaded.tokenizer, masks.view
    for chunk in masks.chunks.tolist():
        batch = masks.batch(np.asarray([chunk]))
        with torch.inference_mode():
            outputs = setup.head.outputs(setup.loaded.model, batch.to(accelerator.device))
            likeliest = torch.cat([logits.argmax(dim=-1).cpu() for logits in outputs.logits()])
        [masked], [labels] = batch.input_ids, batch.labels
        filled = masked.clone()
        filled[batch.masked_positions[: batch.num_masked_tokens]] = likeliest
        original = torch.where(labels == IGNORE_INDEX, masked, labels)
        document = view.documents_in(chunk)[0][1]
        source = view.store.sources[int(view.store.documents.sources[document])].name
        yield name, text, chunk, source, *map(tokenizer.decode, (original, masked, filled))


def write_dump(path: Path, rows: Sequence[tuple[Any, ...]]) -> None:
    """Write the rows of `--dump` as CSV, whole or not at all, or to a device or a pipe.

    Raises:
        ResourceError: The file cannot be written; a file of that name stays as it was.
    """
    content = io.StringIO()  # complete before a file is touched
    csv.writer(content).writerows([DUMP_COLUMNS, *rows])
    try:
        with file_of_user(path) as target:
            target.write_bytes(content.getvalue().encode())
    except OSError as error:
        raise ResourceError(f"--dump {path}: cannot be written ({error.strerror})") from error
