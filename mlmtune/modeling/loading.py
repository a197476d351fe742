"""Loading a tokenizer and a model, and checking that they fit each other.

All checks that need no weights come first, so a wrong choice is reported within seconds.
"""

import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from inspect import signature
from typing import Any

import torch
import transformers
from transformers import (
    AutoConfig,
    AutoModelForMaskedLM,
    AutoModelForPreTraining,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedTokenizerFast,
)

from mlmtune.config import ModelConfig, Objective, TaskName, has_pairs
from mlmtune.errors import ConfigError, first_line, is_fault_of_machine, is_out_of_memory
from mlmtune.modeling.attention import (
    attention_for,
    check_flash,
    keep_attention_type,
    probe_encoder,
    takes_borders,
    why_not,
)
from mlmtune.modeling.device import DTYPES
from mlmtune.modeling.kept_weights import read_kept_weights
from mlmtune.modeling.locating import ModelFolder, locate_model
from mlmtune.modeling.pair_head import has_pair_head, model_types_with_pair_head
from mlmtune.modeling.sentence_encoder import SentenceEncoder
from mlmtune.modeling.tokenizer import load_tokenizer, tokenizer_notes
from mlmtune.modeling.weights import read_model, why_not_loadable

DROPOUT_FIELDS = (
    "hidden_dropout_prob", "attention_probs_dropout_prob", "dropout", "attention_dropout",
    "hidden_dropout", "embedding_dropout", "mlp_dropout", "activation_dropout",
)  # fmt: skip
"""Dropout rates of the encoder and of the masked-LM head, as architectures call them."""

PAIR_DROPOUT_FIELDS = ("classifier_dropout_prob",)
"""The dropout rate of ALBERT's head for pairs. Without pairs, only a later classifier uses it."""

CLASSIFIER_DROPOUT_FIELDS = (
    "classifier_dropout", "classifier_dropout_prob", "seq_classif_dropout", "cls_dropout",
    "pooler_dropout",
)  # fmt: skip
"""Dropout rates of a classification head, as architectures call them."""

LONGEST_KNOWN_LIMIT = 10**6
"""transformers writes 1e30 if a tokenizer does not know the limit of its model."""


@dataclass(frozen=True)
class ModelRequest:
    """A model to load, and what it will be used for.

    Attributes:
        config: The section `model`.
        max_length: Tokens of the longest input, special tokens included.
        device: The device, which with the precision decides how attention is computed.
        precision: `fp32`, `bf16` or `fp16`.
        seed: The seed of the weights that the checkpoint lacks.
        folder: The model's folder, if it has been located already.
        length_key: The setting that `max_length` is from; if empty, that of the kind of model.
    """

    config: ModelConfig
    max_length: int
    device: torch.device
    precision: str
    seed: int
    folder: ModelFolder | None = None
    length_key: str = ""


@dataclass(frozen=True)
class LoadedModel:
    """A model that is ready to train or to evaluate, and its tokenizer.

    Attributes:
        model: An `AutoModelForMaskedLM`, an `AutoModelForPreTraining` if the objective has pairs,
            or an `AutoModelForSequenceClassification` or `AutoModelForTokenClassification` for a
            task; in fp32, on the CPU.
        new_weights: Names of the weights that the checkpoint lacks; they were drawn.
        new_pair_weights: Those of `new_weights` that only pairs need: the head for pairs, and the
            pooler before it. Empty if the objective has no pairs.
        kept_weights: Weights of the checkpoint that are not in the model but saved with it.
        attn_implementation: How attention is computed, with `auto` decided.
        context_length: Tokens of the longest input that the model takes; None if it has no limit.
        sentence_encoder: What follows the encoder in a sentence encoder; None for other models.
        own_dropout: The base model's dropout rates that `model.dropout` replaces, by their names in
            config.json.
        notes: Sentences for the user about how the model was found and read.
    """

    model: Any
    tokenizer: PreTrainedTokenizerFast
    new_weights: tuple[str, ...]
    new_pair_weights: tuple[str, ...]
    kept_weights: dict[str, torch.Tensor]
    attn_implementation: str
    context_length: int | None
    sentence_encoder: SentenceEncoder | None = None
    own_dropout: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def head_is_new(self) -> bool:
        """Whether the head that predicts tokens starts from random weights."""
        prefix = f"{self.model.base_model_prefix}."
        new = set(self.new_weights) - set(self.new_pair_weights)
        return not all(name.startswith(prefix) for name in new)

    @property
    def pair_head_is_new(self) -> bool:
        """Whether the head for pairs, or the pooler before it, starts from random weights."""
        return bool(self.new_pair_weights)

    @property
    def num_parameters(self) -> int:
        """The number of parameters; tied ones count once."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    @property
    def has_token_types(self) -> bool:
        """Whether the model's inputs include `token_type_ids`."""
        # Model and tokenizer may disagree: a DistilBERT with BERT's tokenizer is a common pair.
        is_given = "token_type_ids" in self.tokenizer.model_input_names
        return is_given and "token_type_ids" in signature(self.model.forward).parameters


@dataclass(frozen=True)
class _Head:
    """A kind of head that models are loaded with.

    Attributes:
        dropout_fields: The fields of the model's own config that `model.dropout` sets.
        length_key: The setting that limits the length of an input.
        keeps_other_weights: Whether other heads and the pooler are saved with the result.
    """

    auto_class: Any
    dropout_fields: tuple[str, ...]
    length_key: str = "chunking.chunk_length"
    keeps_other_weights: bool = True


_MASKED_LM = _Head(AutoModelForMaskedLM, DROPOUT_FIELDS)
_PAIRS = _Head(AutoModelForPreTraining, DROPOUT_FIELDS + PAIR_DROPOUT_FIELDS)
_CLASSIFIER = _Head(
    AutoModelForSequenceClassification,
    DROPOUT_FIELDS + CLASSIFIER_DROPOUT_FIELDS,
    length_key="data.max_length",
    keeps_other_weights=False,
)
_TOKEN_CLASSIFIER = replace(_CLASSIFIER, auto_class=AutoModelForTokenClassification)

Prepare = Callable[[ModelFolder, Any], None]
"""A function that checks and changes the model's own config."""


def load_pretrained(request: ModelRequest, objective: Objective) -> LoadedModel:
    """Load tokenizer and model, and check that they fit each other, the objective and the chunks.

    Raises:
        ConfigError: Tokenizer, model, objective and chunks do not fit.
        HubError: The hub cannot be reached, or has no such model.
    """

    def check(folder: ModelFolder, model_config: Any) -> None:
        if has_pairs(objective) and not has_pair_head(type(model_config)):
            raise ConfigError(
                f"objective: {objective} needs a head for pairs of sentences, which {folder.name} "
                f"({model_config.model_type}) cannot have; choose a model of one of the kinds that "
                f"can ({', '.join(model_types_with_pair_head())}), or set objective: mlm"
            )

    return _load(request, _PAIRS if has_pairs(objective) else _MASKED_LM, check)


def load_classifier(request: ModelRequest, task: TaskName, labels: Sequence[str]) -> LoadedModel:
    """Load tokenizer and encoder with a head for a task, which is new unless it fits.

    Raises:
        ConfigError: Tokenizer, model, labels and length do not fit.
        HubError: The hub cannot be reached, or has no such model.
    """
    head = _CLASSIFIER if task == "classification" else _TOKEN_CLASSIFIER

    def set_labels(folder: ModelFolder, model_config: Any) -> None:
        kind = head.auto_class.__name__.removeprefix("AutoModel")
        architectures = [a for a in model_config.architectures or [] if "Classification" in a]
        if other := [a for a in architectures if kind not in a]:
            raise folder.refused(
                f"is a classifier of another kind ({other[0]}); give the model that it was made "
                "from"
            )
        others = [name for _, name in sorted(model_config.id2label.items())]
        if architectures and others != list(labels):
            raise folder.refused(
                f"is a classifier of other labels ({', '.join(others)}); give the model that it "
                "was made from"
            )
        model_config.num_labels = len(labels)
        model_config.id2label = dict(enumerate(labels))
        model_config.label2id = {label: number for number, label in enumerate(labels)}
        if task == "classification":
            model_config.problem_type = "single_label_classification"

    return _load(request, head, set_labels)


def _load(request: ModelRequest, head: _Head, prepare: Prepare) -> LoadedModel:
    # What matters of transformers' warnings is reported as the model's notes.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    config = request.config
    folder = request.folder or locate_model(config.name_or_path, config.revision)
    model_config = _load_config(folder)
    tokenizer = load_tokenizer(folder)
    _check_vocabulary(folder, tokenizer, model_config)
    prepare(folder, model_config)
    own_dropout: dict[str, float] = {}
    if config.dropout is not None:
        own_dropout = _set_dropout(model_config, config.dropout, head.dropout_fields)
    attention = _attention(request, model_config)
    # Asked for sdpa, transformers refuses an architecture without it (DeBERTa). By default it uses
    # sdpa if it can, and else eager. Flash attention is tried on the model that has been read.
    by_default = takes_borders(attention) or (
        attention == "sdpa" and config.attn_implementation == "auto"
    )
    at_first = None if by_default else attention
    read = read_model(folder, head.auto_class, model_config, at_first, request.seed)
    keep_attention_type(read.model)
    context_length = _context_length(read.model, tokenizer)
    if context_length is not None:
        if request.max_length > context_length:
            key = request.length_key or head.length_key
            raise ConfigError(
                f"{key} is {request.max_length}, but {folder.name} takes at most "
                f"{context_length} tokens; set {key} to {context_length} or less"
            )
        tokenizer.model_max_length = context_length  # some tokenizers do not know their limit
    notes = [*_take_flash(request, read.model, attention)] if takes_borders(attention) else []
    _check_precision(request, folder, read.model)
    unexpected = read.unexpected if head.keeps_other_weights else ()
    encoder = SentenceEncoder.of(folder.path) if head.keeps_other_weights else None
    about_pooling = filter(None, [encoder and encoder.note])
    about_it = (*about_pooling, *tokenizer_notes(tokenizer, model_config))
    return LoadedModel(
        read.model,
        tokenizer,
        new_weights=tuple(sorted(read.missing)),
        new_pair_weights=_pair_weights(read.model, read.missing) if head is _PAIRS else (),
        kept_weights=read_kept_weights(folder.path, read.model, unexpected, read.renamed),
        attn_implementation=read.model.config._attn_implementation,
        context_length=context_length,
        sentence_encoder=encoder,
        own_dropout=own_dropout,
        notes=(*folder.notes, *read.notes, *notes, *(f"{folder.name} {note}" for note in about_it)),
    )


def _load_config(folder: ModelFolder) -> Any:
    """Load the model's own config, and refuse a model that is not an encoder."""
    try:
        model_config = AutoConfig.from_pretrained(folder.path, trust_remote_code=False)
    except Exception as error:
        if is_fault_of_machine(error):
            raise
        raise folder.refused(why_not_loadable(error)) from error
    if getattr(model_config, "is_encoder_decoder", False):
        # BART has a masked-LM class, but its decoder would be fed the text that it predicts.
        raise folder.refused(
            f"({model_config.model_type}) is an encoder with a decoder, which is not trained on "
            "masked tokens alone; choose one of the BERT kind (BERT, RoBERTa, DeBERTa, ModernBERT, "
            "...)"
        )
    if getattr(model_config, "is_decoder", False):
        raise folder.refused(
            "has is_decoder: true in its config.json, with which no token sees those after it; "
            "remove that if it is an encoder"
        )
    return model_config


def _attention(request: ModelRequest, model_config: Any) -> str:
    """Return how attention is computed, as asked for or by the table.

    Raises:
        ConfigError: Flash attention was asked for where it cannot run.
    """
    asked, device = request.config.attn_implementation, request.device.type
    if asked != "auto":
        fields = ("attention_probs_dropout_prob", "attention_dropout")
        has_dropout = any(getattr(model_config, field, 0.0) for field in fields)
        check_flash(asked, device, request.precision, has_dropout=has_dropout)
        return asked
    return attention_for(
        device,
        request.precision,
        request.max_length,
        has_dropout=any(getattr(model_config, field, 0.0) for field in DROPOUT_FIELDS),
    )


def _take_flash(request: ModelRequest, model: Any, attention: str) -> Iterator[str]:
    """Let a model use flash attention, or say why `auto` goes on without it.

    Raises:
        ConfigError: It was asked for by name, and cannot be used.
    """
    reason = why_not(model, attention, request.max_length)
    if reason is None:
        return
    if request.config.attn_implementation != "auto":
        raise ConfigError(
            f"model.attn_implementation: {attention} cannot be used ({reason}); set it to auto"
        )
    yield (
        f"attention is computed by {model.config._attn_implementation}, which is slow for inputs "
        f"of {request.max_length} tokens: {attention} cannot be used ({reason})"
    )


def _check_precision(request: ModelRequest, folder: ModelFolder, model: Any) -> None:
    """Refuse 16 bits in which an architecture cannot compute on this device.

    Raises:
        ConfigError: Its own code mixes precisions (DeBERTa, XMOD), or needs a kernel that there is
            not (FNet on a GPU).
    """
    if request.precision == "fp32":
        return
    try:
        model.to(request.device)
        with torch.autocast(request.device.type, DTYPES[request.precision]):
            probe_encoder(model, request.max_length)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise ConfigError(
            f"training.precision: {folder.name} ({model.config.model_type}) cannot be computed in "
            f"{request.precision} here ({first_line(error)}); set it to fp32"
        ) from error
    finally:
        model.to("cpu")


def _pair_weights(model: Any, names: Collection[str]) -> tuple[str, ...]:
    """Return those of the named weights that the masked-LM head does not use."""
    with torch.device("meta"):  # only names are needed, no memory for weights
        masked_lm = AutoModelForMaskedLM.from_config(  # type: ignore[no-untyped-call]
            model.config
        ).state_dict()
    # Of the encoder's weights only the pooler's may be missing: read_model() refuses the others.
    encoder = f"{model.base_model_prefix}."
    return tuple(sorted(n for n in names if n not in masked_lm or n.startswith(encoder)))


def _check_vocabulary(
    folder: ModelFolder, tokenizer: PreTrainedTokenizerFast, model_config: Any
) -> None:
    vocab_size = getattr(model_config, "vocab_size", None)
    num_ids = max(tokenizer.get_vocab().values()) + 1  # more than len(tokenizer) if ids have gaps
    if vocab_size is not None and num_ids > vocab_size:
        raise folder.refused(
            f"has a tokenizer with ids for {num_ids} tokens, and embeddings for {vocab_size}; "
            f"resize them (model.resize_token_embeddings({num_ids}) in transformers, then "
            "save_pretrained), or use the model's own tokenizer"
        )


def _set_dropout(model_config: Any, rate: float, names: Sequence[str]) -> dict[str, float]:
    """Set those dropout rates that a config has, and return what they were."""
    fields = [name for name in names if isinstance(getattr(model_config, name, None), float | int)]
    if not fields:
        raise ConfigError(
            f"model.dropout: a {model_config.model_type} model has no dropout rate; remove it"
        )
    own = {name: getattr(model_config, name) for name in fields}
    for name in fields:
        setattr(model_config, name, rate)
    return own


def _context_length(model: Any, tokenizer: PreTrainedTokenizerFast) -> int | None:
    """Return the tokens of the longest input; None if there is no limit."""
    limits = []
    rows = getattr(model.config, "max_position_embeddings", None)
    if isinstance(rows, int) and rows > 0:
        for name, module in model.named_modules():
            if name.endswith("position_embeddings") and isinstance(module, torch.nn.Embedding):
                if module.padding_idx is not None:
                    # RoBERTa and its like number positions from behind the padding index.
                    rows -= module.padding_idx + 1
                break
        limits.append(rows)
    if tokenizer.model_max_length < LONGEST_KNOWN_LIMIT:
        limits.append(tokenizer.model_max_length)
    return min(limits, default=None)
