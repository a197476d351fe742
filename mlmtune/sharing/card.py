"""The model card, `model/README.md`: what a model is, from what was measured.

Of texts it gives origin and size, never content; of paths on this machine it gives the last part.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from mlmtune.config import ClassificationConfig, Config
from mlmtune.modeling.locating import is_on_hub
from mlmtune.modeling.names import short_names
from mlmtune.printable import code_in_markdown, in_markdown, printable
from mlmtune.redaction import public_location, without_secrets
from mlmtune.sharing.trackers import flattened

SECTIONS = ("objective", "masking", "chunking", "optimizer", "training")
"""The sections of the config that the card shows; none of them has paths."""


@dataclass(frozen=True)
class Snippet:
    """Python code that uses the model, and what it printed when it was run."""

    code: str
    printed: str


def python_literal(value: Any) -> str:
    """Write a string, or a dict of strings, as Python does."""
    # The escapes of printable() mean the same in Python.
    return printable(json.dumps(value, ensure_ascii=False))


@dataclass(frozen=True)
class DataSource:
    """Data that the model was trained or measured on.

    Attributes:
        name: Where the data come from, without the path to them on this machine.
        dataset: Their name on the hub; None if they are not there.
        amount: How much there is, in words.
        is_trained_on: False for data that were used for validation only.
        is_measured_on: Whether the metrics are of these data; they never are of replayed text.
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
        type: The hub's name for the metric; None if it has none.
        value: The number; None if it does not fit a float.
        shown: The number as a reader sees it.
        before: The number before training, likewise; empty if it was not measured.
    """

    name: str
    type: str | None
    value: float | None
    shown: str
    before: str = ""


@dataclass(frozen=True)
class Card:
    """The content of a model card.

    Attributes:
        task: The name of the model's task for `pipeline()`.
        base: The model that it was trained from; see `public_name`.
        base_on_hub: Whether `base` is a name on the hub.
        introduction: One or two sentences about the model.
        measured_on: The data that the metrics are of, in words.
        notes: Sentences about the metrics.
        data: The data that the model was trained and measured on.
        settings: Pairs (dotted name, value) of settings of the config.
        environment: The content of environment.json.
        library: The library that loads the model.
    """

    name: str
    task: Literal["fill-mask", "text-classification", "token-classification", "sentence-similarity"]
    base: str
    base_on_hub: bool
    license: str | None
    introduction: str
    snippet: Snippet
    measured_on: str
    metrics: tuple[Metric, ...]
    notes: tuple[str, ...]
    data: tuple[DataSource, ...]
    settings: tuple[tuple[str, Any], ...]
    environment: Mapping[str, Any]
    library: str = "transformers"

    @property
    def base_link(self) -> str:
        """The base model as Markdown."""
        if not self.base_on_hub:
            return code_in_markdown(self.base)
        return f"[{self.base}](https://huggingface.co/{self.base})"


def card_of(
    name: str, config: Config | ClassificationConfig, environment: Mapping[str, Any], **fields: Any
) -> Card:
    """Make a card of the `fields` of a task, and of what the cards of all tasks have in common."""
    base = config.model.name_or_path
    on_hub = is_on_hub(base)
    return Card(
        name=printable(name),
        base=base if on_hub else public_name(base),
        base_on_hub=on_hub,
        license=config.hub.license,
        settings=_settings(config),
        environment=environment,
        **fields,
    )


def _settings(config: Config | ClassificationConfig) -> tuple[tuple[str, Any], ...]:
    values = flattened(config.model_dump(include=set(SECTIONS)))
    is_span = isinstance(config, Config) and config.masking.strategy == "span"
    shown = [
        (key, value)
        for key, value in values
        if value is not None and (is_span or not key.startswith("masking.span_"))
    ]
    return ("run.seed", config.run.seed), *shown


def render(card: Card) -> str:
    """Write the card as Markdown, under the metadata that the hub reads."""
    names = [data.dataset for data in card.data if data.dataset is not None and data.is_trained_on]
    results = list(_eval_results(card))
    metadata = ModelCardData(
        base_model=card.base if card.base_on_hub else None,
        datasets=names or None,
        eval_results=results or None,
        library_name=card.library,
        license=card.license,
        model_name=card.name if results else None,  # it names the results
        pipeline_tag=card.task,
        tags=["mlmtune", card.task],
    )
    template = files(__package__).joinpath("card.md.jinja").read_text(encoding="utf-8")
    made = ModelCard.from_template(metadata, template_str=template, card=card, cell=_cell)
    return without_secrets(f"{str(made).rstrip()}\n")


def write_card(folder: Path, make: Callable[[], Card], say: Callable[[str], None]) -> None:
    """Write the README.md of the model in a folder; if that fails, the model has none."""
    try:
        text = render(make())
    except Exception as error:  # the card has an example, which any model's pipeline may fail at
        say(f"there is no model card ({type(error).__name__}: {error})")
        return
    (folder / "README.md").write_text(text, encoding="utf-8")


def _eval_results(card: Card) -> Iterator[EvalResult]:
    measured = [data for data in card.data if data.is_measured_on]
    kind = measured[0].dataset if len(measured) == 1 else None
    for metric in card.metrics:
        if metric.type is not None and metric.value is not None:
            yield EvalResult(
                task_type=card.task,
                dataset_type=kind or "text",
                dataset_name=", ".join(data.name for data in measured),
                # The first word, which is `validation` or `test`.
                dataset_split=re.split(r"\W", card.measured_on, maxsplit=1)[0],
                metric_type=metric.type,
                metric_name=metric.name,
                metric_value=round(metric.value, 4),
            )


def _cell(text: Any) -> str:
    return in_markdown(str(text).lower() if isinstance(text, bool) else text)


def public_name(location: str) -> str:
    """Return the name of a model or a text, without the path to it on this machine."""
    # The last link of fsspec's chain (zip://a.md::notes.zip) is a file on its own; the others are
    # inside it.
    location = public_location(location).rpartition("::")[2]
    scheme, separator, path = location.partition("://")
    if separator and scheme not in ("file", "local"):
        return printable(without_secrets(location))
    path = re.split(r"/?[^/]*[*?\[]", path if separator else location, maxsplit=1)[0]
    return printable(short_names([path or location])[0].rpartition("/")[2])
