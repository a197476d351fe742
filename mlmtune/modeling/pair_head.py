"""Architectures with a second head, which judges a pair of segments.

transformers calls such classes `...ForPreTraining`; but ELECTRA's is a discriminator and RoBERTa's
the masked language model alone. The labels that a class takes tell.
"""

from inspect import signature
from typing import Any

import torch
from transformers import MODEL_FOR_PRETRAINING_MAPPING

PAIR_LABELS = {"next_sentence_label", "sentence_order_label"}
"""What `forward` calls the labels of pairs. Either head has two classes and serves either task:
MacBERT trains sentence order on BERT's (Cui et al. 2020, 3)."""


def has_pair_head(config_class: type) -> bool:
    """Whether the pretraining class of a config's architecture has a head for pairs."""
    if config_class not in MODEL_FOR_PRETRAINING_MAPPING:
        return False
    model_class: Any = MODEL_FOR_PRETRAINING_MAPPING[config_class]
    return not PAIR_LABELS.isdisjoint(signature(model_class.forward).parameters)


def model_types_with_pair_head() -> list[str]:
    """All that the installed transformers has, by `model_type`; looks into every architecture."""
    config_classes: list[Any] = list(MODEL_FOR_PRETRAINING_MAPPING.keys())
    return sorted(c.model_type for c in config_classes if has_pair_head(c))


def token_logits(output: Any) -> torch.Tensor:
    """(B, T, V) logits of the masked-LM head, whatever the model's class calls them."""
    name = "prediction_logits" if hasattr(output, "prediction_logits") else "logits"
    logits: torch.Tensor = getattr(output, name)
    return logits


def pair_logits(output: Any) -> torch.Tensor | None:
    """(B, 2) logits of the head for pairs, BERT's or ALBERT's; None where there is none."""
    for name in ("seq_relationship_logits", "sop_logits"):
        logits: torch.Tensor | None = getattr(output, name, None)
        if logits is not None:
            return logits
    return None
