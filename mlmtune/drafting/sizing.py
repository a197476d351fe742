"""The settings of a first run, chosen by the size of the text, the model and the machine.

They are rules and never measured times, so that the same command gives the same settings.
"""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np

from mlmtune.config import Config
from mlmtune.corpus.parallel import num_processors
from mlmtune.modeling.device import num_gpus
from mlmtune.printable import counted
from mlmtune.tokens.store import TokenStore

CPU_HOURS = 1.0
"""How long a first run takes on a CPU, roughly, if the text would keep it busy for longer."""

FLOPS_PER_CORE = 3e10
"""What a core computes in a second of training in fp32. The run of configs/quickstart.yaml reached
3.3e10 on each of two cores (`bash scripts/run.sh`)."""

MOST_CORES = 32
"""More cores add little to batches as small as these."""

EPOCHS = ((300_000, 10), (3_000_000, 5), (30_000_000, 3), (300_000_000, 2))
"""Up to so many training tokens, and so many passes; beyond, one. Small text bears repetition,
because its masks change, and too few steps teach nothing."""

FEWEST_STEPS = 400
"""Fewer steps than this are avoided by smaller batches."""

VALIDATION_TOKENS = 50_000
"""Enough validation text for intervals of a few per cent."""

EVALUATED_SHARE, FEWEST_CHUNKS = 0.06, 100
"""Chunks of an evaluation for each one that is trained on, and at least how many: five evaluations,
each with two masks, then take a fifth of the time, because a step computes three times as much."""

SHORT_RUN = 2_000
"""In fewer steps than this, second moments must forget faster."""


class Choice(NamedTuple):
    """A setting and the reason for its value, which becomes the comment beside it."""

    section: str
    key: str
    value: Any
    why: str


@dataclass(frozen=True)
class TextSize:
    """The size of the text.

    Attributes:
        largest_share: The share of all tokens that the longest document has.
    """

    num_documents: int
    num_tokens: int
    largest_share: float

    @classmethod
    def of(cls, store: TokenStore) -> Self:
        """Measure a tokenized text."""
        lengths = store.documents.lengths
        total = int(lengths.sum())
        return cls(len(lengths), total, float(np.max(lengths, initial=0)) / max(total, 1))


@dataclass(frozen=True)
class ModelSize:
    """What the choice must know about a model.

    Attributes:
        context_length: The most tokens that it takes, or a few more.
        hidden_size: The width of its layers.
        num_weights: The weights of its layers, without embeddings and heads.
        has_trained_head: Whether it was saved with its masked-LM head.
        is_modern: Whether it was itself trained with a masking rate of 30 %.
    """

    context_length: int
    hidden_size: int
    num_weights: int
    has_trained_head: bool
    is_modern: bool

    @classmethod
    def of(cls, folder: Path) -> Self:
        """Read the config.json of a model; what it does not say is that of BERT base."""
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        hidden = int(config.get("hidden_size") or config.get("dim") or 768)
        layers = int(config.get("num_hidden_layers") or config.get("n_layers") or 12)
        inner = int(config.get("intermediate_size") or config.get("hidden_dim") or 4 * hidden)
        architectures = config.get("architectures") or []
        return cls(
            context_length=int(config.get("max_position_embeddings") or 512),
            hidden_size=hidden,
            num_weights=layers * (4 * hidden**2 + 2 * hidden * inner),
            has_trained_head=any(
                name.endswith(("ForMaskedLM", "ForPreTraining")) for name in architectures
            ),
            is_modern=config.get("model_type") in ("modernbert", "eurobert"),
        )


@dataclass(frozen=True)
class Machine:
    """What a run computes on: GPUs, or cores where there is none."""

    num_gpus: int
    num_cores: int

    @classmethod
    def here(cls) -> Self:
        """Look at this machine."""
        return cls(num_gpus(), num_processors())

    def describe(self) -> str:
        """Return it in words."""
        if self.num_gpus:
            return counted(self.num_gpus, "GPU")
        return f"{counted(self.num_cores, 'core')} without a GPU"


def choose(given: Config, text: TextSize, model: ModelSize, machine: Machine) -> Iterator[Choice]:
    """Yield the settings of a first run.

    Args:
        given: What the user has set already, which the other settings go along with.
        text: The size of the text.
        model: The size of the model.
        machine: What the run computes on.
    """
    # RoBERTa and its like have a few positions more (514) than tokens that they take.
    longest = min(512 if machine.num_gpus else 128, model.context_length // 8 * 8)
    mean_length = text.num_tokens / max(text.num_documents, 1)
    length = _given(given, "chunking", "chunk_length") or (
        longest if mean_length >= longest / 2 else min(128, longest)
    )
    fraction = _given(given, "corpus", "validation_fraction") or _validation_fraction(text)
    num_tokens = round(text.num_tokens * (1 - fraction))
    limit = _limit(given, num_tokens, model, machine)
    largest_batch = 64 if machine.num_gpus else 16
    batch = _given(given, "training", "global_batch_size") or _batch_size(
        limit.tokens / length, largest_batch
    )
    steps = max(1, math.ceil(limit.tokens / (batch * length)))
    if given.training.max_steps is not None:
        steps = min(steps, given.training.max_steps)
    rate, why_rate = _learning_rate(model)

    if not model.has_trained_head:
        yield Choice("model", "dropout", 0.0, "faster; a new head has much to learn")
    yield from _split(text, fraction)
    yield Choice("chunking", "chunk_length", length, "tokens the model sees at once")
    high = model.is_modern or not model.has_trained_head
    yield Choice(
        "masking", "mlm_probability", 0.3 if high else 0.15,
        "as this model was pretrained" if model.is_modern
        else "many, for a new head" if high else "share of the tokens that are predicted",
    )  # fmt: skip
    yield Choice("optimizer", "learning_rate", rate, why_rate)
    if steps < SHORT_RUN:
        yield Choice("optimizer", "adam_beta2", 0.98, "for few steps")
    if limit.key is not None:
        value = steps if limit.key == "max_steps" else limit.value
        yield Choice("training", limit.key, value, limit.why)
    yield Choice("training", "global_batch_size", batch, "chunks in a step, over all processes")
    every = max(1, math.ceil(steps / 4))
    yield Choice("evaluation", "every", every, "steps between measurements: a quarter of the run")
    most_chunks = min(4_000 if machine.num_gpus else 500, round(EVALUATED_SHARE * steps * batch))
    most_chunks = max(most_chunks, FEWEST_CHUNKS)
    if text.num_tokens * fraction / length > most_chunks:
        yield Choice("evaluation", "max_chunks", most_chunks, "of the validation text, for speed")
    yield Choice("checkpoint", "every", every, "steps between checkpoints")


class Limit(NamedTuple):
    """What ends a run.

    Attributes:
        tokens: The tokens that it sees.
        key: The key of the setting; None if the user has set one.
        value: Its value, unless it is the number of steps.
    """

    tokens: float
    key: str | None
    value: Any = None
    why: str = ""


def _given(config: Config, section: str, key: str) -> Any:
    """Return what the user has set; None for a default."""
    settings = getattr(config, section)
    return getattr(settings, key) if key in settings.model_fields_set else None


def _limit(given: Config, num_tokens: int, model: ModelSize, machine: Machine) -> Limit:
    epochs = next((number for most, number in EPOCHS if num_tokens <= most), 1)
    asked = given.training
    if asked.model_fields_set & {"epochs", "max_steps", "max_tokens", "max_minutes"}:
        tokens = (asked.epochs or epochs) * num_tokens
        if asked.max_steps is not None:
            length, batch = given.chunking.chunk_length, asked.global_batch_size
            tokens = min(tokens, asked.max_steps * length * batch)
        return Limit(min(tokens, asked.max_tokens or tokens), None)
    passes = f"passes over {num_tokens:,} training tokens"
    by_epochs = Limit(epochs * num_tokens, "epochs", epochs, passes)
    if machine.num_gpus:
        return by_epochs
    per_token = 6 * model.num_weights  # forward and backward (Kaplan et al. 2020, 2.1)
    speed = FLOPS_PER_CORE * min(machine.num_cores, MOST_CORES) / per_token
    in_time = CPU_HOURS * 3600 * speed
    if in_time >= by_epochs.tokens:
        return by_epochs
    hours = num_tokens / speed / 3600
    why = f"about {CPU_HOURS:g} h on this CPU; one pass takes about {hours:,.1f} h (epochs: 1)"
    return Limit(in_time, "max_steps", why=why)


def _batch_size(num_chunks: float, largest: int) -> int:
    batch = largest
    while batch > 4 and num_chunks / batch < FEWEST_STEPS:
        batch //= 2
    return batch


def _learning_rate(model: ModelSize) -> tuple[float, str]:
    if model.has_trained_head:
        return 5e-5, "the usual for BERT base"
    if model.hidden_size <= 512:
        return 5e-4, "high, for a small model with a new head"
    return 1e-4, "for a model with a new head"


def _validation_fraction(text: TextSize) -> float:
    share = VALIDATION_TOKENS / max(text.num_tokens, 1)
    return round(min(max(share, 0.05), 0.2), 2)


def _split(text: TextSize, fraction: float) -> Iterator[Choice]:
    yield Choice(
        "corpus", "validation_fraction", fraction, "share of the text that measures perplexity"
    )
    if text.num_documents < 10 or text.largest_share > 0.5:
        yield Choice(
            "corpus", "split_by", "chunk",
            "too few documents to hold out whole ones, so perplexity looks a little too good",
        )  # fmt: skip
