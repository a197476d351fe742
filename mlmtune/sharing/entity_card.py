"""The card of a model that finds named entities."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import pipeline

from mlmtune.config import ClassificationConfig
from mlmtune.numbers import f1, share
from mlmtune.printable import code_in_markdown, counted, printable
from mlmtune.sharing.card import Card, Metric, Snippet, card_of, python_literal
from mlmtune.sharing.classification_card import data_sources, measured_side
from mlmtune.sharing.hub_repository import HERE

TEXT = "This is one example, written by Ada Lovelace in London."
"""The text of the example, because those of the data may be confidential."""


def entity_snippet(folder: Path) -> Snippet:
    """Find the entities of a text by the model in a folder."""
    find = pipeline(
        "token-classification", model=str(folder), device="cpu", aggregation_strategy="first"
    )
    with warnings.catch_warnings():
        # Of byte-level BPE, it recognises words by the spaces between them, which is right here.
        warnings.filterwarnings("ignore", "Tokenizer does not support real words")
        found = find(TEXT)
    return Snippet(
        "from transformers import pipeline\n\n"
        f"{HERE}\n"
        'find = pipeline("token-classification", aggregation_strategy="first", model=model)\n'
        f"entities = find({python_literal(TEXT)})\n"
        'print([(entity["entity_group"], entity["word"]) for entity in entities])',
        printable(str([(entity["entity_group"], entity["word"]) for entity in found])),
    )


def entity_card(
    name: str,
    config: ClassificationConfig,
    results: Mapping[str, Any],
    records: Mapping[str, Any],
    snippet: Snippet,
) -> Card:
    """Make the card of a model that finds entities; see `classification_card`."""
    data = records["data"]
    side = measured_side(results)
    types = [label[2:] for label in data["labels"][1::2]]
    notes = ["An entity is right if its type, its first and its last word are right (seqeval)."]
    if side == "validation":
        notes.append("The weights were chosen by these validation sentences; there is no test.")
    else:
        notes.append("In brackets: the 95 % interval, from resampled sentences.")
    return card_of(
        name,
        config,
        records["environment"],
        task="token-classification",
        introduction=(
            f"Finds named entities of {counted(len(types), 'type')}: "
            f"{', '.join(map(code_in_markdown, types))}."
        ),
        snippet=snippet,
        measured_on=(
            f"{side}, {counted(results['num_sentences'], 'sentence')} with "
            f"{counted(results['num_entities'], 'entity', 'entities')}, kept apart from training"
        ),
        metrics=(
            Metric("precision", "precision", results["precision"], share(results["precision"])),
            Metric("recall", "recall", results["recall"], share(results["recall"])),
            Metric(
                "F1",
                "f1",
                results["micro_f1"],
                f1(results["micro_f1"], results.get("micro_f1_interval")),
            ),
            *(
                Metric(f"F1 of {printable(type_)}", None, scores["f1"], f1(scores["f1"]))
                for type_, scores in results["per_type"].items()
            ),
        ),
        notes=tuple(notes),
        data=tuple(data_sources(config.data, data, side, "sentence")),
    )
