"""The card of a masked language model in the files of another runtime."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from mlmtune.config import Config
from mlmtune.modeling.exported_model import ExportedModel, Runtime
from mlmtune.numbers import perplexity, share
from mlmtune.printable import code_in_markdown, counted, printable
from mlmtune.sharing.card import Card, Metric, Snippet, python_literal
from mlmtune.sharing.hub_repository import HERE
from mlmtune.sharing.masked_lm_card import NUM_GUESSES, masked_lm_card

GUESSES = f"""\
[place] = (inputs["input_ids"][0] == tokenizer.mask_token_id).nonzero()[0]
for token in logits[0, place].argsort()[::-1][:{NUM_GUESSES}]:
    print(tokenizer.decode([token]).strip())"""


def export_snippet(
    runtime: Runtime,
    model: ExportedModel,
    tokenizer: Any,
    files: Sequence[str],
    text: str,
) -> Snippet:
    """Fill the one mask of a text by a model in the files of a runtime, the one to open first."""
    inputs = tokenizer(text, return_tensors="pt")
    logits = model(**inputs).logits[inputs["input_ids"] == tokenizer.mask_token_id][0]
    guesses = logits.argsort(descending=True)[:NUM_GUESSES].tolist()
    code = runtime.SNIPPET.format(
        here=HERE, files=f"[{', '.join(map(python_literal, files))}]", text=python_literal(text)
    )
    return Snippet(
        code + GUESSES, "\n".join(printable(tokenizer.decode([id_]).strip()) for id_ in guesses)
    )


def export_card(
    name: str,
    config: Config,
    results: Mapping[str, Any],
    records: Mapping[str, Any],
    snippet: Snippet,
    export: Mapping[str, Any],
) -> Card:
    """Make the card of an exported model.

    Args:
        name: The name of the exported model.
        config: The config of the run, with every `auto` decided.
        results: The content of eval_results.json of the run.
        records: See `masked_lm_card`.
        snippet: Code that fills a mask.
        export: The content of export.json.
    """
    agreement, forms = export["agreement"], export["forms"]
    metrics = [
        Metric(
            "largest difference of logits from PyTorch", None, None,
            f"{agreement['largest_difference']:.1e}",
        ),
        Metric(
            "positions with the same likeliest token", None, None,
            share(agreement["same_token_share"]),
        ),
    ]  # fmt: skip
    for measured in export["int8"] or ():
        value = measured["perplexity"]["value"]
        metrics.append(Metric(f"perplexity, {measured['model']}", None, value, perplexity(value)))
    files = " and ".join(f"{code_in_markdown(file)} ({form})" for form, file in forms.items())
    return replace(
        masked_lm_card(name, config, results, records, snippet),
        library=export["target"],
        introduction=(
            f"The masked language model {code_in_markdown(export['name'])}, which was trained "
            f"further on the text of a domain, as {files}."
        ),
        measured_on="validation text, kept apart from training",
        metrics=tuple(metrics),
        notes=(
            f"Logits were compared at {counted(agreement['num_positions'], 'position')}, in fp32.",
        ),
    )
