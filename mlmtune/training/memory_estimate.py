"""How many bytes training needs on a device, by what they hold."""

from dataclasses import dataclass
from typing import Any

from mlmtune.training.sharding import assign

GRADIENTS_PER_EMBEDDING = 2
"""A word's vector is often the weight of its logit, too. Both gradients, of 4 bytes, exist beside
the one that earlier micro-batches left. In 16 bits, copies of the last layer take as much."""


@dataclass(frozen=True)
class Memory:
    """The bytes on one device, at their most.

    Attributes:
        weights: The weights in fp32.
        gradients: Their gradients. With several processes they are parts of the buffers that are
            exchanged, and nothing comes on top.
        moments: AdamW's two moments, or this process's part of them.
        copies: The weights in the precision of matrix products, if that is not fp32.
        activations: What layers keep for the backward pass.
        vocabulary: The logits, and the gradients of embeddings before they are added up.
    """

    weights: int
    gradients: int
    moments: int
    copies: int
    activations: int
    vocabulary: int

    @property
    def total(self) -> int:
        """All of them, which never exist at one moment."""
        held = self.weights + self.gradients + self.moments
        return held + self.copies + self.activations + self.vocabulary


@dataclass(frozen=True)
class Load:
    """What a process computes at once, and how.

    Attributes:
        micro_batch_size: The number of sequences.
        num_tokens: The tokens of a sequence.
        num_logits: The logits that exist at a time.
        precision: fp32, bf16 or fp16.
        is_checkpointed: Whether activations of layers are computed twice.
        has_scores: Whether attention keeps a number for each pair of tokens.
        num_shards: The number of processes that AdamW's moments are divided over.
    """

    micro_batch_size: int
    num_tokens: int
    num_logits: int
    precision: str
    is_checkpointed: bool
    has_scores: bool
    num_shards: int = 1


def estimate(model: Any, load: Load) -> Memory:
    """Estimate what training a model needs, by its sizes alone; its weights may be on `meta`."""
    sizes = [parameter.numel() for parameter in model.parameters()]
    num_shards = load.num_shards
    shares = [0] * num_shards
    for size, owner in zip(sizes, assign(sizes, num_shards), strict=True):
        shares[owner] += size
    layers = _Layers.of(model)
    sequences = load.micro_batch_size * load.num_tokens
    by_layer = sequences * layers.bytes_per_token(load)
    copies = 0 if load.precision == "fp32" else 2 * layers.num_parameters
    activations = layers.number * by_layer
    if load.is_checkpointed:
        # The input of each layer, and one layer that is computed again, with its own copies.
        activations = layers.number * sequences * 4 * layers.hidden + by_layer
        copies //= max(layers.number, 1)
    embeddings = model.get_input_embeddings().weight.numel()
    return Memory(
        weights=4 * sum(sizes),
        gradients=4 * sum(sizes),
        moments=8 * max(shares),
        copies=copies,
        activations=activations,
        # Logits with their gradients, and in fp32.
        vocabulary=4 * GRADIENTS_PER_EMBEDDING * embeddings + 12 * load.num_logits,
    )


@dataclass(frozen=True)
class _Layers:
    """The sizes of an encoder's layers.

    Attributes:
        number: The number of layers.
        hidden: The size of a token's vector.
        inner: The numbers per token that the feed-forward part keeps.
        heads: Heads of attention.
        positions: Relative positions that attention keeps a number for, as if they were tokens.
        num_parameters: The weights of all layers.
    """

    number: int
    hidden: int
    inner: int
    heads: int
    positions: int
    num_parameters: int

    @classmethod
    def of(cls, model: Any) -> "_Layers":
        config = model.config
        number, hidden, heads = (
            int(getattr(config, name, 0))
            for name in ("num_hidden_layers", "hidden_size", "num_attention_heads")
        )
        inner = int(getattr(config, "intermediate_size", None) or 4 * hidden)
        words = (model.get_input_embeddings(), model.get_output_embeddings())
        of_words = {getattr(layer, "weight", None) for layer in words} - {None}  # one if tied
        num_parameters = sum(p.numel() for p in model.parameters() if p not in of_words)
        # Two matrices and what is between them, or with a gate three and four.
        key_heads = getattr(config, "num_key_value_heads", None) or heads
        of_attention = 2 * hidden**2 * (1 + key_heads / max(heads, 1))
        is_gated = num_parameters / max(number, 1) > of_attention + 2.5 * hidden * inner
        positions = 0
        if getattr(config, "relative_attention", False):
            buckets = max(getattr(config, "position_buckets", 0), 0)
            positions = 2 * buckets or config.max_position_embeddings
        return cls(number, hidden, (4 if is_gated else 2) * inner, heads, positions, num_parameters)

    def bytes_per_token(self, load: Load) -> int:
        """Return what a layer keeps of a token for the backward pass.

        The factors are those of layers of seven encoders under autocast, which keeps residuals and
        norms in fp32 (`python benchmarks/memory_table.py --layers`). Korthikanti et al. 2022,
        "Reducing activation recomputation in large transformer models", eq. 1, count less: 34 H +
        5 A T bytes, all at 16 bits.
        """
        pairs = self.heads * (load.num_tokens + self.positions) if load.has_scores else 0
        if load.precision == "fp32":
            return 40 * self.hidden + 4 * self.inner + 12 * pairs
        return 34 * self.hidden + 2 * self.inner + 6 * pairs


def has_scores(model: Any, implementation: str) -> bool:
    """Whether an implementation of attention keeps a number for each pair of tokens."""
    return implementation == "eager" or not getattr(model, "_supports_sdpa", False)
