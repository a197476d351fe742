"""The card of a masked language model."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import pipeline

from mlmtune.config import Config, SourceConfig
from mlmtune.corpus.sources import source_name
from mlmtune.evaluation.fill_mask import ANY_MASK
from mlmtune.modeling.locating import is_on_hub
from mlmtune.numbers import nats, perplexity, share
from mlmtune.printable import counted, printable
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

SHOWN_WORDS = 5
"""How many of the added words a card names."""

NUM_GUESSES = 3
"""How many of a model's predictions the snippet shows."""


def fill_mask_snippet(folder: Path, text: str) -> Snippet:
    """Fill the one mask of a text by the model in a folder; it must be the tokenizer's own mask."""
    fill = pipeline("fill-mask", model=str(folder), device="cpu")
    guesses = fill(text, top_k=NUM_GUESSES)
    return Snippet(
        "from transformers import pipeline\n\n"
        f'{HERE}\nfill = pipeline("fill-mask", model=model)\n'
        f"for guess in fill({python_literal(text)}, top_k={NUM_GUESSES}):\n"
        """    print(f"{guess['score']:.3f} {guess['token_str'].strip()}")""",
        "\n".join(f"{g['score']:.3f} {printable(g['token_str'].strip())}" for g in guesses),
    )


def example_text(examples: Sequence[str], mask_token: str) -> str:
    """Return the first of `evaluation.examples` with one mask, or a sentence of its own."""
    # With several masks, the output of transformers' pipeline has another shape.
    texts = (text.replace(ANY_MASK, mask_token) for text in examples)
    own = f"This is a {mask_token} example."
    return next((text for text in texts if text.count(mask_token) == 1), own)


def masked_lm_card(
    name: str,
    config: Config,
    results: Mapping[str, Any],
    records: Mapping[str, Any],
    snippet: Snippet,
) -> Card:
    """Make the card of a masked language model.

    Args:
        name: The model's name.
        config: The config with every `auto` decided.
        results: The content of eval_results.json.
        records: The contents of corpus.json, environment.json and lineage.json, as `corpus`,
            `environment` and `lineage`.
        snippet: Code that fills a mask.
    """
    validation = config.corpus.validation_sources
    corpus = records["corpus"]
    masked = counted(results["num_masked_tokens"], "masked token")
    if config.phases:
        how = f"in the phases {', '.join(phase.name for phase in config.phases)}"
    else:
        how = f"of {counted(config.training.global_batch_size, 'sequence')}"
    steps = f"{counted(results['step'], 'step')} {how}"
    went_on = ""
    if records.get("lineage"):
        went_on = (
            f" It went on from {describe_lineage(records['lineage']['ancestors'])}, with the "
            "optimizer's moments."
        )
    return card_of(
        name,
        config,
        records["environment"],
        task="fill-mask",
        introduction=(
            f"A masked language model, trained further on the text of a domain ({steps}).{went_on}"
            f"{_describe_words(corpus['added_words'])}"
        ),
        snippet=snippet,
        measured_on=f"validation text, {masked}, kept apart from training",
        metrics=tuple(_metrics(results)),
        notes=tuple(_notes(config, results)),
        data=(
            *(
                _data(source, corpus, is_measured_on=not validation and source.replay is None)
                for source in config.corpus.sources
            ),
            *(_data(source, corpus, is_trained_on=False) for source in validation),
        ),
    )


def describe_lineage(lineage: Sequence[Mapping[str, Any]]) -> str:
    """Say in a sentence what a run went on from, by the ancestors in its lineage.json."""
    places = [
        f"{Path(a['checkpoint']).name} of {Path(a['checkpoint']).parents[1].name} "
        f"({a['step']:,} steps, {a['num_tokens']:,} tokens)"
        for a in reversed(lineage)
    ]
    return f"{', which went on from '.join(places)}, which started from {lineage[0]['model']}"


def _describe_words(words: Sequence[str]) -> str:
    if not words:
        return ""
    shown = ", ".join(printable(word) for word in words[:SHOWN_WORDS])
    more = ", ..." if len(words) > SHOWN_WORDS else ""
    return (
        f" Its tokenizer has {counted(len(words), 'word')} of the domain that its base cuts into "
        f"pieces ({shown}{more}), so its perplexity per token does not compare with that of models "
        "without them. What is measured before training has these words, too."
    )


def _notes(config: Config, results: Mapping[str, Any]) -> Iterator[str]:
    head_was_new = results["model_head_was_new"]
    if head_was_new and results["loss"] >= results["token_frequency_loss"]:
        yield "**This model predicts no better than token frequencies alone.**"
    if results["worse_than_base"]:
        yield "**This model is not better than its base on the validation text.**"
    if results.get("retrieval_ndcg_at_10_change_interval", (0.0, 0.0))[1] < 0:
        yield "**This model finds the validation documents less often than its base.**"
    draws = ""
    if results["num_mask_draws"] > 1:
        draws = f", drawn {results['num_mask_draws']} times"
    yield (
        "Perplexity is exp of the mean loss on masked tokens; the masks are the same before and "
        f"after (seed {config.evaluation.seed}, {config.evaluation.mlm_probability:.0%} of the "
        f"tokens{draws}). In brackets: 95 % intervals."
    )
    if results["unknown_token_share"] > 0:
        yield (
            f"{share(results['unknown_token_share'])} of the tokens of that text, and "
            f"{share(results['unknown_byte_share'])} of its bytes, are unknown to the tokenizer "
            "and were not predicted."
        )
    if head_was_new:
        yield (
            "The base has no masked-LM head. It was given a new one, so what it predicts before "
            "training means little. Token frequencies alone would guess "
            f"{share(results['token_frequency_accuracy'])} of the tokens right, at perplexity "
            f"{perplexity(math.exp(results['token_frequency_loss']))}."
        )


def _metrics(results: Mapping[str, Any]) -> Iterator[Metric]:
    yield Metric(
        "perplexity", "perplexity", results["perplexity"],
        perplexity(results["perplexity"], results["perplexity_interval"]),
        perplexity(results["perplexity_before"], results["perplexity_before_interval"]),
    )  # fmt: skip
    shares: dict[str, tuple[str, str | None]] = {
        "accuracy": ("masked tokens predicted correctly", "accuracy"),
        "accuracy_top5": ("correct token among the five likeliest", None),
    }
    if "pair_accuracy" in results:
        apart = f"{share(results['pair_label_share'])} of them do not belong together"
        shares["pair_accuracy"] = (f"pairs classified correctly ({apart})", None)
    for key, (shown, kind) in shares.items():
        if key in results:
            value, before = results[key], results[f"{key}_before"]
            yield Metric(shown, kind, value, share(value), share(before))
    if "retrieval_ndcg_at_10" in results:
        value, before = results["retrieval_ndcg_at_10"], results["retrieval_ndcg_at_10_before"]
        name = "validation documents found (nDCG at 10)"
        yield Metric(name, None, value, share(value), share(before))
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


def _data(source: SourceConfig, corpus: Mapping[str, Any], **role: bool) -> DataSource:
    counts = corpus["sources"].get(source_name(source), {})
    on_hub = source.dataset is not None and is_on_hub(source.dataset)
    location = source.dataset if on_hub else ", ".join(map(public_name, source.locations))
    name = printable(source.name or str(location))
    if source.replay is not None:
        name += " (general text, mixed in)"
    if not role.get("is_trained_on", True):
        name += " (validated on, not trained on)"
    amount = f"{counts['tokens']:,} tokens" if "tokens" in counts else ""
    return DataSource(name, source.dataset if on_hub else None, amount, source.license, **role)
