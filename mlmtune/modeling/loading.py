"""Tokenizer and model: loading them, and the checks between them.

All checks that need no weights come first, so a wrong choice is reported within seconds.
"""

import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
import transformers
from transformers import (
    AutoConfig,
    AutoModelForMaskedLM,
    AutoModelForPreTraining,
    AutoModelForSequenceClassification,
    PreTrainedTokenizerFast,
)

from mlmtune.config import ModelConfig, Objective, has_pairs
from mlmtune.errors import ConfigError, is_fault_of_machine
from mlmtune.modeling.attention import attention_for, keep_attention_type
from mlmtune.modeling.kept_weights import read_kept_weights
from mlmtune.modeling.locating import ModelFolder, locate_model
from mlmtune.modeling.pair_head import has_pair_head, model_types_with_pair_head
from mlmtune.modeling.tokenizer import load_tokenizer, tokenizer_notes
from mlmtune.modeling.weights import ReadModel, read_model, why_not_loadable

DROPOUT_FIELDS = (
    "hidden_dropout_prob", "attention_probs_dropout_prob", "dropout", "attention_dropout",
    "hidden_dropout", "embedding_dropout", "mlp_dropout", "activation_dropout",
)  # fmt: skip

PAIR_DROPOUT_FIELDS = ("classifier_dropout_prob",)
"""Of ALBERT's head for pairs; without pairs it is a later classifier's."""

CLASSIFIER_DROPOUT_FIELDS = (
    "classifier_dropout", "classifier_dropout_prob", "seq_classif_dropout", "cls_dropout",
    "pooler_dropout",
)  # fmt: skip
"""Of heads for classes."""


@dataclass(frozen=True)
class LoadedModel:
    """A model that is ready to train or to evaluate, and its tokenizer.

    Attributes:
        model: an `AutoModelForMaskedLM`, an `AutoModelForPreTraining` where the objective has
            pairs, or an `AutoModelForSequenceClassification`; in fp32, on the CPU.
        tokenizer: its fast tokenizer.
        new_weights: names of the weights that the checkpoint does not hold; drawn anew.
        new_pair_weights: those of them that only pairs need: of the head for pairs, and of the
            pooler before it; empty where the objective has no pairs.
        kept_weights: what the checkpoint holds besides, by name; to be saved with the model.
        attn_implementation: what `auto` became.
        context_length: the longest input the model takes; None where it has no limit.
        notes: what the user should know of how it was found and read, a sentence each.
    """

    model: Any
    tokenizer: PreTrainedTokenizerFast
    new_weights: tuple[str, ...]
    new_pair_weights: tuple[str, ...]
    kept_weights: dict[str, torch.Tensor]
    attn_implementation: str
    context_length: int | None
    notes: tuple[str, ...] = ()

    @property
    def head_is_new(self) -> bool:
        """Whether the head that predicts tokens starts from random weights."""
        prefix = f"{self.model.base_model_prefix}."
        new_here = set(self.new_weights) - set(self.new_pair_weights)
        return any(not name.startswith(prefix) for name in new_here)

    @property
    def pair_head_is_new(self) -> bool:
        """Whether the head for pairs, or the pooler before it, starts from random weights."""
        return bool(self.new_pair_weights)

    @property
    def num_parameters(self) -> int:
        """Number of parameters; tied ones count once."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    @property
    def has_token_types(self) -> bool:
        """Whether the model's inputs include `token_type_ids`."""
        # Either may be without: a DistilBERT with BERT's tokenizer is a common pair.
        is_given = "token_type_ids" in self.tokenizer.model_input_names
        return is_given and "token_type_ids" in signature(self.model.forward).parameters


def load_pretrained(
    config: ModelConfig,
    *,
    objective: Objective,
    chunk_length: int,
    device: torch.device,
    precision: str,
    seed: int,
    found: ModelFolder | None = None,
) -> LoadedModel:
    """Load tokenizer and model, and check that they fit each other and the chunks.

    Args:
        config: which model, and how it runs.
        objective: which heads it has.
        chunk_length: longest input, special tokens included.
        device: where the model will run.
        precision: what it will compute in; with the device it decides how attention is computed.
        seed: draws the weights that the checkpoint does not hold.
        found: the model's folder, where it is known already.

    Raises:
        ConfigError: tokenizer, model, objective and chunks do not fit.
        HubError: the hub cannot be reached, or has no such model.
    """
    with_pairs = has_pairs(objective)

    def prepare(model_config: Any) -> None:
        if with_pairs:
            _check_pair_head(config.name_or_path, objective, model_config)

    loaded = _load(
        found or locate_model(config.name_or_path, config.revision),
        config,
        AutoModelForPreTraining if with_pairs else AutoModelForMaskedLM,
        prepare,
        dropout_fields=(*DROPOUT_FIELDS, *(PAIR_DROPOUT_FIELDS if with_pairs else ())),
        length=chunk_length,
        length_key="chunking.chunk_length",
        device=device,
        precision=precision,
        seed=seed,
    )
    read = loaded.read
    return LoadedModel(
        read.model,
        loaded.tokenizer,
        new_weights=tuple(sorted(read.missing)),
        new_pair_weights=_pair_weights(read.model, read.missing) if with_pairs else (),
        kept_weights=read_kept_weights(
            loaded.found.path, read.model, read.unexpected, read.renamed
        ),
        attn_implementation=read.model.config._attn_implementation,
        context_length=loaded.context_length,
        notes=loaded.notes,
    )


def load_classifier(
    config: ModelConfig,
    *,
    labels: Sequence[str],
    max_length: int,
    device: torch.device,
    precision: str,
    seed: int,
    found: ModelFolder | None = None,
) -> LoadedModel:
    """Load tokenizer and encoder with a head for classes, which is new unless it is of these.

    Args:
        config: which model, and how it runs.
        labels: the classes, by number.
        max_length: longest input, special tokens included.
        device: where the model will run.
        precision: what it will compute in.
        seed: draws the weights that the checkpoint does not hold.
        found: the model's folder, where it is known already.

    Raises:
        ConfigError: tokenizer, model, labels and length do not fit.
        HubError: the hub cannot be reached, or has no such model.
    """
    folder = found or locate_model(config.name_or_path, config.revision)

    def prepare(model_config: Any) -> None:
        is_classifier = any("SequenceClassification" in a for a in model_config.architectures or [])
        others = [name for _, name in sorted(model_config.id2label.items())]
        if is_classifier and others != list(labels):
            raise folder.refused(
                f"is a classifier of other labels ({', '.join(others)}); give the model that it "
                "was made from"
            )
        model_config.num_labels = len(labels)
        model_config.id2label = dict(enumerate(labels))
        model_config.label2id = {label: number for number, label in enumerate(labels)}
        model_config.problem_type = "single_label_classification"

    loaded = _load(
        folder,
        config,
        AutoModelForSequenceClassification,
        prepare,
        dropout_fields=(*DROPOUT_FIELDS, *CLASSIFIER_DROPOUT_FIELDS),
        length=max_length,
        length_key="data.max_length",
        device=device,
        precision=precision,
        seed=seed,
    )
    return LoadedModel(
        loaded.read.model,
        loaded.tokenizer,
        new_weights=tuple(sorted(loaded.read.missing)),
        new_pair_weights=(),
        kept_weights={},
        attn_implementation=loaded.read.model.config._attn_implementation,
        context_length=loaded.context_length,
        notes=loaded.notes,
    )


@dataclass(frozen=True)
class _Loaded:
    """A tokenizer and a model that fit each other, and from where."""

    found: ModelFolder
    read: ReadModel
    tokenizer: PreTrainedTokenizerFast
    context_length: int | None
    notes: tuple[str, ...]


def _load(
    found: ModelFolder,
    config: ModelConfig,
    auto_class: Any,
    prepare: Callable[[Any], None],
    *,
    dropout_fields: Sequence[str],
    length: int,
    length_key: str,
    device: torch.device,
    precision: str,
    seed: int,
) -> _Loaded:
    """Load a tokenizer, and a model with the head of a class.

    Args:
        found: the model's folder.
        config: how it runs.
        auto_class: one of transformers' `AutoModelFor...`.
        prepare: checks and changes the model's own config.
        dropout_fields: what `model.dropout` sets in it.
        length: of the longest input.
        length_key: the setting that says so.
        device: where the model will run.
        precision: what it will compute in; with the device it decides how attention is computed.
        seed: draws the weights that the checkpoint does not hold.
    """
    _quiet_libraries()
    try:
        model_config = AutoConfig.from_pretrained(found.path, trust_remote_code=False)
    except Exception as error:
        if is_fault_of_machine(error):
            raise
        raise found.refused(why_not_loadable(error)) from error
    _check_is_encoder(found, model_config)
    tokenizer = load_tokenizer(found)
    _check_vocabulary(found, tokenizer, model_config)
    prepare(model_config)
    if config.dropout is not None:
        _set_dropout(model_config, config.dropout, dropout_fields)
    attention: str | None = config.attn_implementation
    if attention == "auto":
        has_dropout = _has_dropout(model_config)
        attention = attention_for(device, precision, length, has_dropout=has_dropout)
        if attention == "sdpa":
            # Left to transformers, it gives way to eager in architectures without it (DeBERTa).
            attention = None
    read = read_model(found, auto_class, model_config, attention, seed)
    keep_attention_type(read.model)
    context_length = _context_length(read.model, tokenizer)
    if context_length is not None and length > context_length:
        raise ConfigError(
            f"{length_key} is {length}, but {found.name} takes at most {context_length} "
            f"tokens; set {length_key} to {context_length} or less"
        )
    if context_length is not None:
        tokenizer.model_max_length = context_length  # where it did not know its model's limit
    of_tokenizer = (f"{found.name} {note}" for note in tokenizer_notes(tokenizer, model_config))
    notes = (*found.notes, *read.notes, *of_tokenizer)
    return _Loaded(found, read, tokenizer, context_length, notes)


def _check_pair_head(name: str, objective: Objective, model_config: Any) -> None:
    if not has_pair_head(type(model_config)):
        raise ConfigError(
            f"objective: {objective} needs a head for pairs of sentences, which {name} "
            f"({model_config.model_type}) cannot have; choose a model of one of the kinds that "
            f"can ({', '.join(model_types_with_pair_head())}), or set objective: mlm"
        )


def _pair_weights(model: Any, names: Collection[str]) -> tuple[str, ...]:
    """Those of some weights that the masked-LM head does without; in the encoder, the pooler's."""
    with torch.device("meta"):
        masked_lm = AutoModelForMaskedLM.from_config(  # type: ignore[no-untyped-call]
            model.config
        ).state_dict()
    encoder = f"{model.base_model_prefix}."
    return tuple(sorted(n for n in names if n not in masked_lm or n.startswith(encoder)))


def _check_is_encoder(found: ModelFolder, model_config: Any) -> None:
    """Refuse what sees no text to the right of a mask, or predicts it by a decoder."""
    if getattr(model_config, "is_encoder_decoder", False):
        # BART has a class for masked tokens, whose decoder would be fed text to predict it.
        raise found.refused(
            f"({model_config.model_type}) is an encoder with a decoder, which is not trained on "
            "masked tokens alone; choose one of the BERT kind (BERT, RoBERTa, DeBERTa, ModernBERT, "
            "...)"
        )
    if getattr(model_config, "is_decoder", False):
        raise found.refused(
            "has is_decoder: true in its config.json, with which no token sees those after it; "
            "remove that if it is an encoder"
        )


def _check_vocabulary(
    found: ModelFolder, tokenizer: PreTrainedTokenizerFast, model_config: Any
) -> None:
    vocab_size = getattr(model_config, "vocab_size", None)
    num_ids = max(tokenizer.get_vocab().values()) + 1  # more than len(tokenizer) if ids have gaps
    if vocab_size is not None and num_ids > vocab_size:
        raise found.refused(
            f"has a tokenizer with ids for {num_ids} tokens, and embeddings for {vocab_size}; "
            f"resize them (model.resize_token_embeddings({num_ids}) in transformers, then "
            "save_pretrained), or use the model's own tokenizer"
        )


def _has_dropout(model_config: Any) -> bool:
    return any(getattr(model_config, field, 0.0) for field in DROPOUT_FIELDS)


def _set_dropout(model_config: Any, rate: float, names: Sequence[str]) -> None:
    fields = [name for name in names if isinstance(getattr(model_config, name, None), float | int)]
    if not fields:
        raise ConfigError(
            f"model.dropout: a {model_config.model_type} model has no dropout rate; remove it"
        )
    for field in fields:
        setattr(model_config, field, rate)


def _context_length(model: Any, tokenizer: PreTrainedTokenizerFast) -> int | None:
    """The longest input; RoBERTa's kind keeps the first position rows for padding."""
    limits = []
    rows = getattr(model.config, "max_position_embeddings", None)
    if isinstance(rows, int) and rows > 0:
        for name, module in model.named_modules():
            if name.endswith("position_embeddings") and isinstance(module, torch.nn.Embedding):
                if module.padding_idx is not None:
                    rows -= module.padding_idx + 1
                break
        limits.append(rows)
    if tokenizer.model_max_length < 10**6:  # transformers writes 1e30 for "not known"
        limits.append(tokenizer.model_max_length)
    return min(limits, default=None)


def _quiet_libraries() -> None:
    """What transformers has to say on loading is said by us, in our own words."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
