"""Architectures with a second head, which classifies pairs of segments.

transformers calls their classes `...ForPreTraining`. That of ELECTRA is a discriminator, however,
and that of RoBERTa only a masked language model. The names of the labels tell them apart.
"""

from inspect import signature
from typing import Any

import torch
from transformers import MODEL_FOR_PRETRAINING_MAPPING

PAIR_LABELS = {"next_sentence_label", "sentence_order_label"}
"""The names of the pairs' labels in `forward`. Either head has two classes and serves either task:
MacBERT trains sentence order on BERT's (Cui et al. 2020, 3)."""


def has_pair_head(config_class: type) -> bool:
    """Whether the pretraining class of a config's architecture has a head for pairs."""
    if config_class not in MODEL_FOR_PRETRAINING_MAPPING:
        return False
    model_class: Any = MODEL_FOR_PRETRAINING_MAPPING[config_class]
    return not PAIR_LABELS.isdisjoint(signature(model_class.forward).parameters)


def model_types_with_pair_head() -> list[str]:
    """Return the `model_type` of every such architecture. It imports all of them, so it is slow."""
    config_classes: list[Any] = list(MODEL_FOR_PRETRAINING_MAPPING.keys())
    return sorted(c.model_type for c in config_classes if has_pair_head(c))


def token_logits(output: Any) -> torch.Tensor:
    """Return the logits (B, T, V) of the masked-LM head, by either of their names."""
    logits: torch.Tensor
    logits = output.prediction_logits if hasattr(output, "prediction_logits") else output.logits
    return logits


def pair_logits(output: Any) -> torch.Tensor | None:
    """Return the logits (B, 2) of BERT's or ALBERT's head for pairs; None if there is none."""
    of_albert: torch.Tensor | None = getattr(output, "sop_logits", None)
    return getattr(output, "seq_relationship_logits", of_albert)
