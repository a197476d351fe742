"""The card of a classifier."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import pipeline

from mlmtune.config import ClassificationConfig, DataConfig
from mlmtune.modeling.locating import is_on_hub
from mlmtune.numbers import f1, share
from mlmtune.printable import code_in_markdown, counted, printable
from mlmtune.sharing.card import (
    Card,
    DataSource,
    Metric,
    Snippet,
    card_of,
    public_name,
    python_literal,
)  # fmt: skip
from mlmtune.sharing.hub_repository import HERE


def classification_snippet(folder: Path, texts: Sequence[str]) -> Snippet:
    """Label a text, or a pair of texts, by the classifier in a folder."""
    classify = pipeline("text-classification", model=str(folder), device="cpu")
    asked: Any = texts[0] if len(texts) == 1 else {"text": texts[0], "text_pair": texts[1]}
    [guess] = classify([asked])
    return Snippet(
        "from transformers import pipeline\n\n"
        f'{HERE}\nclassify = pipeline("text-classification", model=model)\n'
        f"[guess] = classify([{python_literal(asked)}])\n"
        """print(f"{guess['score']:.3f} {guess['label']}")""",
        f"{guess['score']:.3f} {printable(guess['label'])}",
    )


def classification_card(
    name: str,
    config: ClassificationConfig,
    results: Mapping[str, Any],
    records: Mapping[str, Any],
    snippet: Snippet,
) -> Card:
    """Make the card of a classifier.

    Args:
        name: The model's name.
        config: The config with every `auto` decided.
        results: The content of test_results.json, or of eval_results.json if there is no test.
        records: The contents of data.json and environment.json, as `data` and `environment`.
        snippet: Code that labels a text.
    """
    data = records["data"]
    side = measured_side(results)
    labels = ", ".join(map(code_in_markdown, data["labels"]))
    per_label = results["per_label"]
    most_frequent = max(per_label, key=lambda label: per_label[label]["num_examples"])
    right = share(per_label[most_frequent]["num_examples"] / results["num_examples"])
    notes = [
        f"Always answering {code_in_markdown(most_frequent)} would be right {right} of the time."
    ]
    if side == "validation":
        notes.append("The weights were chosen by these validation examples; there is no test.")
    else:
        notes.append("In brackets: the 95 % interval, from resampled examples.")
    return card_of(
        name,
        config,
        records["environment"],
        task="text-classification",
        introduction=f"A classifier of text into {len(data['labels'])} labels: {labels}.",
        snippet=snippet,
        measured_on=(
            f"{side}, {counted(results['num_examples'], 'example')}, kept apart from training"
        ),
        metrics=(
            Metric("accuracy", "accuracy", results["accuracy"], share(results["accuracy"])),
            Metric(
                "macro-F1",
                "f1",
                results["macro_f1"],
                f1(results["macro_f1"], results.get("macro_f1_interval")),
            ),
            *(
                Metric(f"F1 of {printable(label)}", None, scores["f1"], f1(scores["f1"]))
                for label, scores in per_label.items()
            ),
        ),
        notes=tuple(notes),
        data=tuple(data_sources(config.data, data, side, "example")),
    )


def measured_side(results: Mapping[str, Any]) -> str:
    """Return the side that results were measured on."""
    return "validation" if "step" in results else "test"  # only validation belongs to a step


def data_sources(
    config: DataConfig, data: Mapping[str, Any], side: str, noun: str
) -> Iterator[DataSource]:
    """Yield the data that were trained on and, if they are elsewhere, those measured on.

    Args:
        config: The section `data`.
        data: The content of data.json.
        side: The side that was measured.
        noun: What the data are counted in; with an s, it is their key in data.json.
    """
    amount = counted(data["train"][f"{noun}s"], noun)
    if config.dataset is not None:
        on_hub = is_on_hub(config.dataset)
        name = config.dataset if on_hub else public_name(config.dataset)
        yield DataSource(name, config.dataset if on_hub else None, amount, config.license)
        return
    other = config.test if side == "test" else config.validation
    name = public_name(config.train)
    yield DataSource(name, None, amount, config.license, is_measured_on=other is None)
    if other is not None:
        amount = counted(data[side][f"{noun}s"], noun)
        name = f"{public_name(other)} ({side})"
        yield DataSource(name, None, amount, config.license, is_trained_on=False)
