"""The model card of a merged model: the card of its run, with what was merged and what it gives."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from mlmtune.config import Config
from mlmtune.merging.findings import Merge
from mlmtune.merging.rendering import in_markdown as curve_in_markdown
from mlmtune.printable import in_markdown
from mlmtune.report.findings import Measurement
from mlmtune.report.runs import FinishedRun
from mlmtune.sharing.card import Card, Snippet, public_name
from mlmtune.sharing.masked_lm_card import masked_lm_card

OF_THE_RUN = (
    "step", "model_head_was_new", "unknown_token_share", "unknown_byte_share",
    "token_frequency_loss", "token_frequency_accuracy",
)  # fmt: skip
"""The keys of eval_results.json that hold for the merged model, too."""


def merged_card(
    name: str, merge: Merge, runs: Sequence[FinishedRun], config: Config, snippet: Snippet
) -> Card:
    """Make the card of a merged model.

    Args:
        name: The model's name.
        merge: What was merged, and its measurements.
        runs: The merged runs; the data and the settings are those of the first.
        config: The config of the first run, with the settings that the user has overridden.
        snippet: Code that fills a mask.
    """
    record = runs[0].record
    records = {"corpus": record.corpus, "environment": record.environment}
    card = masked_lm_card(name, config, _results(merge, record.eval_results), records, snippet)
    alpha, names = merge.choice.alpha, ", ".join(public_name(str(run.path)) for run in runs)
    adapted = f"the mean of {len(runs)} runs of mlmtune" if len(runs) > 1 else "a run of mlmtune"
    of_head = " with the masked-LM head of the run, because it has none" * merge.has_new_head
    return replace(
        card,
        introduction=(
            "A masked language model between its base and what training on the text of a domain "
            f"made of it: each weight is {1 - alpha:g} x base + {alpha:g} x adapted, which is "
            f"{adapted} ({in_markdown(names)})."
        ),
        notes=(
            f"`before` is the base{of_head}. alpha {alpha:g} was chosen by this rule: "
            f"{merge.choice.rule}.",
            *card.notes,
            "Every alpha that was measured; behind each value is its change from the base.",
            curve_in_markdown(merge),
        ),
    )


def _results(merge: Merge, of_run: Mapping[str, Any]) -> dict[str, Any]:
    """Return the measurements of the chosen model under the names of eval_results.json."""
    base, chosen = merge.points[0], merge.chosen
    results = {name: of_run[name] for name in OF_THE_RUN if name in of_run}
    results |= _of_text(base.domain, chosen.domain, "")
    results |= {
        "num_masked_tokens": chosen.domain.num_masked_tokens,
        "num_mask_draws": merge.texts[0].num_mask_draws,
        "worse_than_base": _loss(chosen.domain) > _loss(base.domain),
    }
    if base.retrieval is not None and chosen.retrieval is not None:
        before, after = base.retrieval.measures.ndcg_at_10, chosen.retrieval.measures.ndcg_at_10
        results["retrieval_ndcg_at_10_before"] = before.value
        results["retrieval_ndcg_at_10"] = after.value
        change = chosen.retrieval.change
        if change is not None and change.ndcg_at_10.interval is not None:
            results["retrieval_ndcg_at_10_change_interval"] = change.ndcg_at_10.interval
    if base.general is not None and chosen.general is not None:
        results |= _of_text(base.general, chosen.general, "general_")
        if not merge.has_new_head:
            results["forgetting"] = _loss(chosen.general) - _loss(base.general)
    return results


def _of_text(before: Measurement, after: Measurement, prefix: str) -> dict[str, Any]:
    return {
        f"{prefix}{name}": value
        for suffix, measured in (("_before", before), ("", after))
        for name, value in {
            f"loss{suffix}": measured.loss.value,
            f"perplexity{suffix}": measured.perplexity.value,
            f"perplexity{suffix}_interval": measured.perplexity.interval,
            f"accuracy{suffix}": measured.accuracy.value,
            f"accuracy_top5{suffix}": measured.accuracy_top5.value,
        }.items()
    }


def _loss(measured: Measurement) -> float:
    assert measured.loss.value is not None  # a loss that is not finite is an error before
    return measured.loss.value
