"""Advice: settings with which short runs reached the same perplexity sooner where it was measured.

benchmarks/quality.py measures them. The settings are not defaults: they were measured in runs of
few epochs, on perplexity alone, and the learning rates on small encoders only.
"""

from typing import Any

from mlmtune.config import Config
from mlmtune.masking.selection import highest_mlm_probability
from mlmtune.modeling.loading import DROPOUT_FIELDS, LoadedModel
from mlmtune.training.plan import Plan

MOST_EPOCHS = 3.0
"""Beyond these, a model may learn its text by heart without dropout."""

MLM_PROBABILITY = 0.3
"""More predictions for hardly more time (Wettig et al. 2023; MosaicBERT, ModernBERT)."""

MOST_PARAMETERS = 50_000_000
"""Larger models need lower rates. Encoders of 4 and 23 million were measured."""

LEARNING_RATE, LEARNING_RATE_OF_NEW_HEAD = 2e-4, 5e-4

Sections = dict[str, dict[str, Any]]
"""Settings by the section and the key of the config."""


def faster_settings(config: Config, loaded: LoadedModel, plan: Plan) -> Sections:
    """Return the settings that are worth a try instead of those of a config; empty if none is."""
    if config.phases:  # measured in runs of one phase
        return {}
    advised: Sections = {}
    rates = [getattr(loaded.model.config, field, None) for field in DROPOUT_FIELDS]
    if any(rates) and plan.num_epochs <= MOST_EPOCHS:
        advised["model"] = {"dropout": 0.0}
    highest = highest_mlm_probability(config.masking.mlm_probability)
    # Whole words and spans are harder to predict, and were not measured.
    if config.masking.strategy == "token" and highest < MLM_PROBABILITY:
        advised["masking"] = {"mlm_probability": MLM_PROBABILITY}
    learning_rate = LEARNING_RATE_OF_NEW_HEAD if loaded.head_is_new else LEARNING_RATE
    if loaded.num_parameters <= MOST_PARAMETERS and config.optimizer.learning_rate < learning_rate:
        advised["optimizer"] = {"learning_rate": learning_rate}
    return advised


def describe(advised: Sections) -> str:
    """Return one line that names the settings as overrides of the command line."""
    overrides = [
        f"{section}.{name}={value:g}"
        for section, settings in advised.items()
        for name, value in settings.items()
    ]
    return (
        f"{' '.join(overrides)}: in short runs these reached the same perplexity sooner "
        "(docs/recipes.md#6-a-good-model-sooner)"
    )
