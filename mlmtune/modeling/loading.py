"""Loading tokenizer and model, and the checks between them.

All checks that need no weights come first, so a wrong choice is reported within seconds.
"""

import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from transformers import (
    AutoConfig,
    AutoModelForMaskedLM,
    AutoModelForPreTraining,
    AutoModelForSequenceClassification,
    PreTrainedTokenizerFast,
)

from mlmtune.config import ModelConfig, Objective
from mlmtune.errors import ConfigError, first_line
from mlmtune.modeling.kept_weights import read_kept_weights
from mlmtune.modeling.locating import locate_model
from mlmtune.modeling.pair_head import has_pair_head, model_types_with_pair_head
from mlmtune.modeling.tokenizer import load_tokenizer

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

ATTENTION_TABLE = (
    # device, precision, chunks up to, with dropout -> the fastest on two CPU cores with AVX-512
    ("cpu", "bf16", 256, None, "eager"),
    ("cpu", None, None, True, "eager"),
    (None, None, None, None, "sdpa"),
)
"""How attention is computed for `auto`. None fits anything; the first row that fits wins."""


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
    """

    model: Any
    tokenizer: PreTrainedTokenizerFast
    new_weights: tuple[str, ...]
    new_pair_weights: tuple[str, ...]
    kept_weights: dict[str, torch.Tensor]
    attn_implementation: str
    context_length: int | None

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
) -> LoadedModel:
    """Load tokenizer and model, and check that they fit each other and the chunks.

    Args:
        config: which model, and how it runs.
        objective: which heads it has.
        chunk_length: longest input, special tokens included.
        device: where the model will run.
        precision: what it will compute in; with the device it decides how attention is computed.
        seed: draws the weights that the checkpoint does not hold.

    Raises:
        ConfigError: tokenizer, model, objective and chunks do not fit.
        HubError: the hub cannot be reached, or has no such model.
    """
    has_pairs = objective != "mlm"

    def prepare(model_config: Any) -> None:
        if has_pairs:
            _check_pair_head(config.name_or_path, objective, model_config)

    found = _load(
        config,
        AutoModelForPreTraining if has_pairs else AutoModelForMaskedLM,
        prepare,
        dropout_fields=(*DROPOUT_FIELDS, *(PAIR_DROPOUT_FIELDS if has_pairs else ())),
        length=chunk_length,
        length_key="chunking.chunk_length",
        device=device,
        precision=precision,
        seed=seed,
    )
    return LoadedModel(
        found.model,
        found.tokenizer,
        new_weights=tuple(sorted(found.missing)),
        new_pair_weights=_pair_weights(found.model, found.missing) if has_pairs else (),
        kept_weights=read_kept_weights(found.folder, found.model, found.unexpected),
        attn_implementation=found.model.config._attn_implementation,
        context_length=found.context_length,
    )


def load_classifier(
    config: ModelConfig,
    *,
    labels: Sequence[str],
    max_length: int,
    device: torch.device,
    precision: str,
    seed: int,
) -> LoadedModel:
    """Load tokenizer and encoder with a head for classes, which is new unless it is of these.

    Args:
        config: which model, and how it runs.
        labels: the classes, by number.
        max_length: longest input, special tokens included.
        device: where the model will run.
        precision: what it will compute in.
        seed: draws the weights that the checkpoint does not hold.

    Raises:
        ConfigError: tokenizer, model, labels and length do not fit.
        HubError: the hub cannot be reached, or has no such model.
    """

    def prepare(model_config: Any) -> None:
        is_classifier = any("SequenceClassification" in a for a in model_config.architectures or [])
        others = [name for _, name in sorted(model_config.id2label.items())]
        if is_classifier and others != list(labels):
            raise ConfigError(
                f"model.name_or_path: {config.name_or_path} is a classifier of other labels "
                f"({', '.join(others)}); give the model that it was made from"
            )
        model_config.num_labels = len(labels)
        model_config.id2label = dict(enumerate(labels))
        model_config.label2id = {label: number for number, label in enumerate(labels)}
        model_config.problem_type = "single_label_classification"

    found = _load(
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
        found.model,
        found.tokenizer,
        new_weights=tuple(sorted(found.missing)),
        new_pair_weights=(),
        kept_weights={},
        attn_implementation=found.model.config._attn_implementation,
        context_length=found.context_length,
    )


@dataclass(frozen=True)
class _Loaded:
    """What from_pretrained() gave, and from where."""

    folder: Path
    model: Any
    tokenizer: PreTrainedTokenizerFast
    missing: set[str]
    unexpected: set[str]
    context_length: int | None


def _load(
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
        config: which model, and how it runs.
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
    folder = locate_model(config.name_or_path, config.revision)
    tokenizer = load_tokenizer(folder)
    try:
        model_config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:
        raise ConfigError(_why_not_loadable(config.name_or_path, error)) from error
    _check_no_decoder(config.name_or_path, model_config)
    _check_vocabulary(config.name_or_path, tokenizer, model_config)
    prepare(model_config)
    if config.dropout is not None:
        _set_dropout(model_config, config.dropout, dropout_fields)
    attention: str = config.attn_implementation
    is_free = attention == "auto"
    if is_free:
        attention = _attention_for(
            device, precision, length, has_dropout=_has_dropout(model_config)
        )

    torch.manual_seed(seed)
    try:
        model, report = auto_class.from_pretrained(
            folder,
            config=model_config,
            dtype=torch.float32,
            # Left to transformers, sdpa gives way to eager in architectures without it (DeBERTa).
            attn_implementation=None if is_free and attention == "sdpa" else attention,
            output_loading_info=True,
            trust_remote_code=False,
        )
    except Exception as error:
        raise ConfigError(_why_not_loadable(config.name_or_path, error)) from error
    _check_encoder(config.name_or_path, model, report["missing_keys"])
    _keep_attention_type(model)
    context_length = _context_length(model, tokenizer)
    if context_length is not None and length > context_length:
        raise ConfigError(
            f"{length_key} is {length}, but {config.name_or_path} takes at most {context_length} "
            f"tokens; set {length_key} to {context_length} or less"
        )
    if context_length is not None:
        tokenizer.model_max_length = context_length  # where it did not know its model's limit
    return _Loaded(
        folder, model, tokenizer, report["missing_keys"], report["unexpected_keys"], context_length
    )


def start_from_frequencies(loaded: LoadedModel, token_counts: NDArray[np.int64]) -> bool:
    """Set the output bias of a new head to the log frequencies of the tokens, smoothed by one.

    A new head would spend its first steps on learning which tokens are frequent. The class prior
    as the bias of a last layer: Lin et al. 2017 ("Focal loss for dense object detection", 4.1).

    Args:
        loaded: its model is changed if its output bias is new.
        token_counts: (V,) how often each id occurs in the training text.

    Returns:
        Whether the bias was set; False where the checkpoint holds one, or the head has none.
    """
    bias = _output_bias(loaded.model)
    parameters = loaded.model.named_parameters(remove_duplicate=False)
    if bias is None or not any(p is bias and name in loaded.new_weights for name, p in parameters):
        return False
    smoothed = torch.from_numpy(token_counts).double() + 1.0
    with torch.no_grad():
        bias.copy_((smoothed / smoothed.sum()).log())
    return True


def _output_bias(model: Any) -> torch.Tensor | None:
    """(V,) the bias of the layer that predicts tokens; None where it has none."""
    shape = model.get_input_embeddings().weight.shape[:1]
    bias = getattr(model.get_output_embeddings(), "bias", None)
    if bias is not None and bias.shape == shape:
        return bias  # type: ignore[no-any-return]
    # DeBERTa's head of `legacy: false` multiplies by the input embeddings and keeps its bias
    # elsewhere; what it calls its output embeddings is the dense layer before them.
    encoder = f"{model.base_model_prefix}."
    return next(
        (
            parameter
            for name, parameter in model.named_parameters()
            if name.endswith(".bias") and parameter.shape == shape and not name.startswith(encoder)
        ),
        None,
    )


def _keep_attention_type(model: Any) -> None:
    """Let BigBird compute each input by its own kind of attention.

    At its first short input it would turn from sparse to full attention, and never back.
    """
    encoder = model.base_model
    if hasattr(encoder, "set_attention_type"):
        own = encoder.attention_type
        encoder.register_forward_pre_hook(lambda module, args: module.set_attention_type(own))


def _check_encoder(name: str, model: Any, missing: set[str]) -> None:
    """A head may be new; an encoder that is in part new would be ruined without a word."""
    encoder = f"{model.base_model_prefix}."
    lost = sorted(key for key in missing if key.startswith(encoder) and ".pooler." not in key)
    if lost:
        raise ConfigError(
            f"model.name_or_path: {name} lacks weights of its encoder ({lost[0]}"
            + (f" and {len(lost) - 1} more" if len(lost) > 1 else "")
            + "); its files are damaged or of another architecture: fetch or save it again"
        )


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


def _check_no_decoder(name: str, model_config: Any) -> None:
    """BART has a class for masked tokens, whose decoder would be fed masked text to predict it."""
    if getattr(model_config, "is_encoder_decoder", False):
        raise ConfigError(
            f"model.name_or_path: {name} ({model_config.model_type}) is an encoder with a decoder, "
            "which is not trained on masked tokens alone; choose one of the BERT kind (BERT, "
            "RoBERTa, DeBERTa, ModernBERT, ...)"
        )


def _check_vocabulary(name: str, tokenizer: PreTrainedTokenizerFast, model_config: Any) -> None:
    vocab_size = getattr(model_config, "vocab_size", None)
    num_ids = max(tokenizer.get_vocab().values()) + 1  # more than len(tokenizer) if ids have gaps
    if vocab_size is not None and num_ids > vocab_size:
        raise ConfigError(
            f"{name}: the tokenizer has ids for {num_ids} tokens, but the model has embeddings for "
            f"{vocab_size}; resize them (model.resize_token_embeddings({num_ids}) in "
            "transformers, then save_pretrained), or use the model's own tokenizer"
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


def _attention_for(
    device: torch.device, precision: str, chunk_length: int, *, has_dropout: bool
) -> str:
    for on, computes_in, up_to, with_dropout, implementation in ATTENTION_TABLE:
        if (
            on in (None, device.type)
            and computes_in in (None, precision)
            and (up_to is None or chunk_length <= up_to)
            and with_dropout in (None, has_dropout)
        ):
            return implementation
    raise AssertionError("the table's last row fits everything")


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


def _why_not_loadable(name: str, error: Exception) -> str:
    text = str(error)
    if "trust_remote_code" in text:
        return (
            f"model.name_or_path: {name} needs code from its own repository (trust_remote_code), "
            "which mlmtune never runs; choose an architecture that transformers has"
        )
    if "Unrecognized configuration class" in text or "Unrecognized model" in text:
        return (
            f"model.name_or_path: {name} is not a masked language model that transformers knows; "
            "choose one of the BERT kind (BERT, RoBERTa, DeBERTa, ModernBERT, ...)"
        )
    return f"model.name_or_path: {name} cannot be loaded ({first_line(error)})"


def _quiet_libraries() -> None:
    """What transformers has to say on loading is said by us, in our own words."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
