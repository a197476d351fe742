"""The model card: what a result is, from what was measured. It is `model/README.md`.

What it says of text is where it is from and how much of it there is, never the text itself; of
places on this machine it has their last part.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from transformers import pipeline

from mlmtune.config import ClassificationConfig, Config, DataConfig, SourceConfig
from mlmtune.corpus.sources import source_name
from mlmtune.modeling.locating import is_on_hub
from mlmtune.modeling.names import short_names
from mlmtune.numbers import f1, nats, perplexity, share
from mlmtune.printable import code_in_markdown, counted, in_markdown, printable
from mlmtune.redaction import public_location, without_secrets
from mlmtune.sharing.hub_repository import HERE
from mlmtune.sharing.trackers import flattened

_ON_THIS_MACHINE = ("file", "local")

NOT_STATED = "not stated"

NUM_GUESSES = 3
"""How many of a model's guesses the snippet shows."""

SECTIONS = ("objective", "masking", "chunking", "optimizer", "training")
"""What a reader may want to repeat; no section with paths."""


@dataclass(frozen=True)
class Snippet:
    """How to use the model.

    Attributes:
        code: Python.
        printed: what it printed.
    """

    code: str
    printed: str


def fill_mask_snippet(folder: Path, text: str) -> Snippet:
    """Fill the one mask of a text, which is the tokenizer's own, by the model in a folder."""
    fill = pipeline("fill-mask", model=str(folder), device="cpu")
    guesses = fill(text, top_k=NUM_GUESSES)
    return Snippet(
        "from transformers import pipeline\n\n"
        f'fill = pipeline("fill-mask", {HERE}\n'
        f"for guess in fill({_literal(text)}, top_k={NUM_GUESSES}):\n"
        """    print(f"{guess['score']:.3f} {guess['token_str'].strip()}")""",
        "\n".join(f"{g['score']:.3f} {printable(g['token_str'].strip())}" for g in guesses),
    )


def classification_snippet(folder: Path, texts: Sequence[str]) -> Snippet:
    """Label a text, or a pair of texts, by the classifier in a folder."""
    classify = pipeline("text-classification", model=str(folder), device="cpu")
    asked: Any = texts[0] if len(texts) == 1 else {"text": texts[0], "text_pair": texts[1]}
    [guess] = classify([asked])
    return Snippet(
        "from transformers import pipeline\n\n"
        f'classify = pipeline("text-classification", {HERE}\n'
        f"[guess] = classify([{_literal(asked)}])\n"
        """print(f"{guess['score']:.3f} {guess['label']}")""",
        f"{guess['score']:.3f} {printable(guess['label'])}",
    )


def _literal(value: Any) -> str:
    # The escapes that make it printable mean the same in Python.
    return printable(json.dumps(value, ensure_ascii=False))


@dataclass(frozen=True)
class Data:
    """What was trained on.

    Attributes:
        name: where it is from, without the way there on this machine.
        dataset: its name on the hub; None where it is not there.
        amount: how much there is, in words.
        license: as the config states it.
        is_trained_on: False for text that was only validated on.
        is_measured_on: whether the metrics are of it; they are never of replayed text.
    """

    name: str
    dataset: str | None
    amount: str
    license: str | None
    is_trained_on: bool = True
    is_measured_on: bool = True


@dataclass(frozen=True)
class Metric:
    """A number that was measured.

    Attributes:
        name: for people.
        type: its name among the hub's metrics; None for what has none.
        value: None where it is larger than a float may be.
        shown: the same as a reader sees it.
        before: what it was before training; empty where that was not measured.
    """

    name: str
    type: str | None
    value: float | None
    shown: str
    before: str = ""


@dataclass(frozen=True)
class Card:
    """All that a card says.

    Attributes:
        name: of the model.
        task: what `pipeline()` calls it.
        base: the model that it was trained from; see `public_name`.
        base_on_hub: whether that is a name on the hub.
        license: as the config states it.
        introduction: what it is, in a sentence or two.
        snippet: how to use it.
        measured_on: what the numbers are of.
        metrics: the numbers.
        notes: what to know of them.
        data: what was trained on.
        settings: of the config, by their dotted names.
        environment: environment.json's content.
    """

    name: str
    task: Literal["fill-mask", "text-classification"]
    base: str
    base_on_hub: bool
    license: str | None
    introduction: str
    snippet: Snippet
    measured_on: str
    metrics: tuple[Metric, ...]
    notes: tuple[str, ...]
    data: tuple[Data, ...]
    settings: tuple[tuple[str, Any], ...]
    environment: Mapping[str, Any]

    @property
    def base_link(self) -> str:
        """The base as Markdown."""
        if not self.base_on_hub:
            return code_in_markdown(self.base)
        return f"[{self.base}](https://huggingface.co/{self.base})"


def render(card: Card) -> str:
    """The card as Markdown, under the metadata that the hub reads."""
    names = [data.dataset for data in card.data if data.dataset is not None and data.is_trained_on]
    metadata = ModelCardData(
        base_model=card.base if card.base_on_hub else None,
        datasets=names or None,
        eval_results=list(_eval_results(card)),
        library_name="transformers",
        license=card.license,
        model_name=card.name,
        pipeline_tag=card.task,
        tags=["mlmtune", card.task],
    )
    template = files(__package__).joinpath("card.md.jinja").read_text(encoding="utf-8")
    made = ModelCard.from_template(
        metadata, template_str=template, card=card, cell=_cell, not_stated=NOT_STATED
    )
    return without_secrets(f"{str(made).rstrip()}\n")


def _eval_results(card: Card) -> Iterator[EvalResult]:
    measured = [data for data in card.data if data.is_measured_on]
    kind = measured[0].dataset if len(measured) == 1 else None
    for metric in card.metrics:
        if metric.type is not None and metric.value is not None:
            yield EvalResult(
                task_type=card.task,
                dataset_type=kind or "text",
                dataset_name=", ".join(data.name for data in measured),
                dataset_split=re.split(r"\W", card.measured_on, maxsplit=1)[0],
                metric_type=metric.type,
                metric_name=metric.name,
                metric_value=round(metric.value, 4),
            )


def _cell(text: Any) -> str:
    return in_markdown(str(text).lower() if isinstance(text, bool) else text)


def public_name(location: str) -> str:
    """A model or a text without the way to it on this machine."""
    # Of fsspec's chains, the last link is the place itself: a file inside another one.
    location = public_location(location).rpartition("::")[2]
    scheme, separator, path = location.partition("://")
    if separator and scheme not in _ON_THIS_MACHINE:
        return printable(without_secrets(location))
    path = re.split(r"/?[^/]*[*?\[]", path if separator else location, maxsplit=1)[0]
    return printable(short_names([path or location])[0].rpartition("/")[2])


# ------------------------------------------------------------------------- masked language models


def masked_lm_card(
    name: str,
    config: Config,
    results: Mapping[str, Any],
    corpus: Mapping[str, Any],
    environment: Mapping[str, Any],
    snippet: Snippet,
) -> Card:
    """The card of a masked language model.

    Args:
        name: of the model.
        config: with every `auto` decided.
        results: eval_results.json's content.
        corpus: corpus.json's content.
        environment: environment.json's content.
        snippet: filling a mask.
    """
    validation = config.corpus.validation_sources
    data = (
        *(
            _source_data(source, corpus, is_measured_on=not validation and source.replay is None)
            for source in config.corpus.sources
        ),
        *(_source_data(source, corpus, is_trained_on=False) for source in validation),
    )
    masked = counted(results["num_masked_tokens"], "masked token")
    draws = ""
    if results["num_mask_draws"] > 1:
        draws = f", drawn {results['num_mask_draws']} times"
    notes = [
        "Perplexity is exp of the mean loss on masked tokens; the masks are the same before and "
        f"after (seed {config.evaluation.seed}, {config.evaluation.mlm_probability:.0%} of the "
        f"tokens{draws}). In brackets: 95 % intervals."
    ]
    if results["worse_than_base"]:
        notes.insert(0, "**This model is not better than its base on the validation text.**")
    if results["unknown_token_share"] > 0:
        notes.append(
            f"{share(results['unknown_token_share'])} of the tokens of that text, and "
            f"{share(results['unknown_byte_share'])} of its bytes, are unknown to the tokenizer "
            "and were not predicted."
        )
    if results["model_head_was_new"]:
        notes.append(
            "The base has no masked-LM head. It was given a new one, so what it says before "
            "training means little. Token frequencies alone would guess "
            f"{share(results['token_frequency_accuracy'])} of the tokens right, at perplexity "
            f"{perplexity(math.exp(results['token_frequency_loss']))}."
        )
        if results["loss"] >= results["token_frequency_loss"]:
            notes.insert(0, "**This model predicts no better than token frequencies alone.**")
    return _card(
        name,
        config,
        environment,
        task="fill-mask",
        introduction=(
            f"A masked language model, trained further on the text of a domain "
            f"({_step(config, results)})."
        ),
        snippet=snippet,
        measured_on=f"validation text, {masked}, kept apart from training",
        metrics=tuple(_masked_lm_metrics(results)),
        notes=tuple(notes),
        data=data,
    )


def _masked_lm_metrics(results: Mapping[str, Any]) -> Iterator[Metric]:
    yield Metric(
        "perplexity", "perplexity", results["perplexity"],
        perplexity(results["perplexity"], results["perplexity_interval"]),
        perplexity(results["perplexity_before"], results["perplexity_before_interval"]),
    )  # fmt: skip
    shares: dict[str, tuple[str, str | None]] = {
        "accuracy": ("masked tokens guessed right", "accuracy"),
        "accuracy_top5": ("right among the first five", None),
    }
    if "pair_accuracy" in results:
        apart = f"{share(results['pair_label_share'])} of them do not belong together"
        shares["pair_accuracy"] = (f"pairs told right ({apart})", None)
    for key, (shown, kind) in shares.items():
        if key in results:
            value, before = results[key], results[f"{key}_before"]
            yield Metric(shown, kind, value, share(value), f"{share(before)}")
    if "general_perplexity" in results:
        yield Metric(
            "perplexity on general text", None, results["general_perplexity"],
            perplexity(results["general_perplexity"]),
            perplexity(results["general_perplexity_before"]),
        )  # fmt: skip
    if "forgetting" in results:
        yield Metric(
            "forgetting (nats per token of general text)", None, results["forgetting"],
            nats(results["forgetting"]),
        )  # fmt: skip


def _source_data(source: SourceConfig, corpus: Mapping[str, Any], **role: bool) -> Data:
    found = corpus["sources"].get(source_name(source), {})
    on_hub = source.dataset is not None and is_on_hub(source.dataset)
    place = source.dataset if on_hub else ", ".join(map(public_name, source.places))
    where = printable(source.name or str(place))
    if source.replay is not None:
        where += " (general text, mixed in)"
    if not role.get("is_trained_on", True):
        where += " (validated on, not trained on)"
    amount = f"{found['tokens']:,} tokens" if "tokens" in found else ""
    return Data(where, source.dataset if on_hub else None, amount, source.license, **role)


# -------------------------------------------------------------------------------- classifiers


def classification_card(
    name: str,
    config: ClassificationConfig,
    results: Mapping[str, Any],
    data: Mapping[str, Any],
    environment: Mapping[str, Any],
    snippet: Snippet,
) -> Card:
    """The card of a classifier.

    Args:
        name: of the model.
        config: with every `auto` decided.
        results: test_results.json's content, or eval_results.json's where nothing was tested yet.
        data: data.json's content.
        environment: environment.json's content.
        snippet: labelling a text.
    """
    side = "validation" if "step" in results else "test"
    labels = ", ".join(map(code_in_markdown, data["labels"]))
    of_label = {label: found["num_examples"] for label, found in results["per_label"].items()}
    most_frequent = max(of_label, key=lambda label: of_label[label])
    right = share(of_label[most_frequent] / results["num_examples"])
    notes = [
        f"Always answering {code_in_markdown(most_frequent)} would be right {right} of the time."
    ]
    if side == "validation":
        notes.append("Validation has chosen the weights; there is no test.")
    return _card(
        name,
        config,
        environment,
        task="text-classification",
        introduction=f"A classifier of text into {len(data['labels'])} labels: {labels}.",
        snippet=snippet,
        measured_on=(
            f"{side}, {counted(results['num_examples'], 'example')}, kept apart from training"
        ),
        metrics=(
            Metric("accuracy", "accuracy", results["accuracy"], share(results["accuracy"])),
            Metric("macro-F1", "f1", results["macro_f1"], f1(results["macro_f1"])),
            *(
                Metric(f"F1 of {printable(label)}", None, found["f1"], f1(found["f1"]))
                for label, found in results["per_label"].items()
            ),
        ),
        notes=tuple(notes),
        data=tuple(_task_data(config.data, data, side)),
    )


def _task_data(config: DataConfig, data: Mapping[str, Any], side: str) -> Iterator[Data]:
    """The text that was trained on and, if it is elsewhere, the text that was measured on."""
    amount = counted(data["train"]["examples"], "example")
    if config.dataset is not None:
        on_hub = is_on_hub(config.dataset)
        where = config.dataset if on_hub else public_name(config.dataset)
        yield Data(where, config.dataset if on_hub else None, amount, config.license)
        return
    other = config.test if side == "test" else config.validation
    name = public_name(config.train)
    yield Data(name, None, amount, config.license, is_measured_on=other is None)
    if other is not None:
        amount = counted(data[side]["examples"], "example")
        name = f"{public_name(other)} ({side})"
        yield Data(name, None, amount, config.license, is_trained_on=False)


# ------------------------------------------------------------------------------------- both


def _card(
    name: str,
    config: Config | ClassificationConfig,
    environment: Mapping[str, Any],
    **of_task: Any,
) -> Card:
    """What cards have in common, and what the task says."""
    base = config.model.name_or_path
    on_hub = is_on_hub(base)
    return Card(
        name=printable(name),
        base=base if on_hub else public_name(base),
        base_on_hub=on_hub,
        license=config.hub.license,
        settings=_settings(config),
        environment=environment,
        **of_task,
    )


def _step(config: Config, results: Mapping[str, Any]) -> str:
    sequences = counted(config.training.global_batch_size, "sequence")
    return f"{counted(results['step'], 'step')} of {sequences}"


def _settings(config: Config | ClassificationConfig) -> tuple[tuple[str, Any], ...]:
    sections = config.model_dump(include=set(SECTIONS))
    values = [("run.seed", config.run.seed), *flattened(sections)]
    is_span = isinstance(config, Config) and config.masking.strategy == "span"
    return tuple(
        (key, value)
        for key, value in values
        if value is not None and (is_span or not key.startswith("masking.span_"))
    )
