"""The card of a sentence encoder, which was trained from a masked language model."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sentence_transformers import SentenceTransformer

from mlmtune.config import Config
from mlmtune.numbers import share
from mlmtune.sharing.card import Card, Metric, Snippet
from mlmtune.sharing.hub_repository import HERE
from mlmtune.sharing.masked_lm_card import masked_lm_card

QUERY = "how to change a setting"
ANSWERS = ("Settings are changed in the file of the configuration.", "The weather is fine today.")


def similarity_snippet(encoder: SentenceTransformer) -> Snippet:
    """Compare a query with two texts."""
    similarities = encoder.similarity(encoder.encode([QUERY]), encoder.encode(list(ANSWERS)))[0]
    first, second = ANSWERS
    return Snippet(
        "from sentence_transformers import SentenceTransformer\n\n"
        f"{HERE}\nencoder = SentenceTransformer(model)\n"
        f'query = encoder.encode(["{QUERY}"])\n'
        f'texts = encoder.encode(["{first}", "{second}"])\n'
        "for similarity in encoder.similarity(query, texts)[0]:\n"
        '    print(f"{similarity:.3f}")',
        "\n".join(f"{similarity:.3f}" for similarity in similarities.tolist()),
    )


def sentence_card(
    name: str,
    config: Config,
    results: Mapping[str, Any],
    records: Mapping[str, Any],
    snippet: Snippet,
    embedding: Mapping[str, Any],
) -> Card:
    """Make the card of a sentence encoder.

    Args:
        name: The name of the sentence encoder.
        config: The config of the run, with every `auto` decided.
        results: The content of eval_results.json of the run.
        records: See `masked_lm_card`.
        snippet: Code that compares texts.
        embedding: The content of embed.json.
    """
    card = masked_lm_card(name, config, results, records, snippet)
    found = embedding["retrieval"]
    metrics, notes = [], (str(embedding["why_not_measured"]),)
    if found is not None:
        before, after, bm25 = (each["measures"] for each in found["measurements"])
        shown = {"ndcg_at_10": "nDCG at 10", "recall_at_1": "found first"}
        metrics = [
            Metric(text, None, after[key]["value"], share(after[key]["value"]),
                   share(before[key]["value"]))
            for key, text in shown.items()
        ]  # fmt: skip
        notes = (
            "`before` is the masked language model, with the mean of its last hidden states or "
            f"its own pooling. BM25 has nDCG at 10 {share(bm25['ndcg_at_10']['value'])}.",
        )
    return replace(
        card,
        task="sentence-similarity",
        library="sentence-transformers",
        introduction=(
            "A sentence encoder, trained without labels from a masked language model that was "
            f"trained further on the text of a domain: {embedding['num_steps']:,} steps of "
            f"{embedding['batch_size']} pairs of a title and a passage, or of two passages in a "
            "row, with the other passages as wrong answers."
        ),
        measured_on=(
            "validation documents, kept apart from training, each searched for by its title or by "
            "its other half"
        ),
        metrics=tuple(metrics),
        notes=notes,
    )
