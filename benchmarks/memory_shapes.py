"""The encoders of memory_table.py by their published shapes, and what training them needs."""

from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

import torch
from torch.autograd.graph import saved_tensors_hooks
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    BertConfig,
    DebertaV2Config,
    EuroBertConfig,
    ModernBertConfig,
    PreTrainedConfig,
    XLMRobertaXLConfig,
)

from mlmtune.modeling.output_layer import LOGITS_AT_ONCE
from mlmtune.training.memory_estimate import Load, Memory, estimate, has_scores
from mlmtune.training.memory_table import smallest_card

MASKED = 0.3
SHAPES: dict[str, PreTrainedConfig] = {
    "bert-base": BertConfig(),
    "ModernBERT-large": ModernBertConfig(
        hidden_size=1024, intermediate_size=2624, num_hidden_layers=28, num_attention_heads=16
    ),
    "DeBERTa-v3-large": DebertaV2Config(
        vocab_size=128_100, hidden_size=1024, intermediate_size=4096, num_hidden_layers=24,
        num_attention_heads=16, relative_attention=True, position_buckets=256, share_att_key=True,
        norm_rel_ebd="layer_norm", pos_att_type=["p2c", "c2p"], position_biased_input=False,
        type_vocab_size=0,
    ),
    "EuroBERT-210m": EuroBertConfig(),
    "EuroBERT-610m": EuroBertConfig(
        hidden_size=1152, intermediate_size=4096, num_hidden_layers=26, num_attention_heads=18,
        num_key_value_heads=6,
    ),
    "ettin-encoder-1b": ModernBertConfig(
        hidden_size=1792, intermediate_size=3840, num_hidden_layers=28, num_attention_heads=28
    ),
    "EuroBERT-2.1B": EuroBertConfig(
        hidden_size=2304, intermediate_size=6144, num_hidden_layers=32, num_attention_heads=18,
        num_key_value_heads=6,
    ),
    "xlm-roberta-xl": XLMRobertaXLConfig(),
}  # fmt: skip
"""Their configs as published; EuroBERT's last layer is not tied to its embeddings."""

SPECIAL = {
    f"{name}_token_id": number
    for number, name in enumerate(("pad", "bos", "eos", "cls", "sep", "mask"))
}
SMALL_VOCABULARY = 1000


def fits(
    name: str, num_tokens: int, micro_batch_size: int, num_gpus: tuple[int, ...]
) -> list[dict[str, Any]]:
    """Return the bytes on each GPU in bf16, by the ways to divide what is held."""
    with torch.device("meta"):
        model = AutoModelForMaskedLM.from_config(SHAPES[name])  # type: ignore[no-untyped-call]
    vocab_size = model.config.vocab_size
    num_logits = round(micro_batch_size * num_tokens * MASKED) * vocab_size
    whole = Load(
        micro_batch_size, num_tokens, min(num_logits, LOGITS_AT_ONCE["cuda"]), "bf16",
        is_checkpointed=False, has_scores=has_scores(model, "auto"),
    )  # fmt: skip
    made = []
    for is_checkpointed in (False, True):
        load = replace(whole, is_checkpointed=is_checkpointed)
        ways = {"whole": estimate(model, load)}
        for number in num_gpus:
            ways[f"sharded {number}"] = estimate(model, replace(load, num_shards=number))
        layer = replace(load, is_checkpointed=True)
        for number in num_gpus:
            ways[f"full {number}"] = _fully_sharded(ways["whole"], estimate(model, layer), number)
        made.append(
            {
                "model": name,
                "num_parameters": sum(p.numel() for p in model.parameters()),
                "num_tokens": num_tokens,
                "is_checkpointed": is_checkpointed,
                "bytes": {way: asdict(memory) for way, memory in ways.items()},
                "total_bytes": {way: memory.total for way, memory in ways.items()},
                "card_gb": {way: smallest_card(memory) for way, memory in ways.items()},
            }
        )
    return made


def _fully_sharded(whole: Memory, of_one_layer: Memory, num_gpus: int) -> Memory:
    """Return what FSDP2 would need: equal parts, and two layers at a time in 16 bits."""
    return replace(
        whole,
        weights=whole.weights // num_gpus,
        gradients=whole.gradients // num_gpus,
        moments=whole.moments // num_gpus,
        copies=2 * of_one_layer.copies,
    )


def layers(name: str, num_tokens: int, precision: str) -> dict[str, Any]:
    """Return the bytes that autograd keeps of a token in one layer, and the estimate of them."""
    load = Load(2, num_tokens, 0, precision, is_checkpointed=False, has_scores=False)
    kept, estimated = [], []
    for number in (1, 3):  # the difference leaves out what is not in layers
        config = type(SHAPES[name]).from_dict(
            SHAPES[name].to_dict()
            | {"num_hidden_layers": number, "layer_types": None, "vocab_size": SMALL_VOCABULARY}
            | SPECIAL
        )
        # As a run chooses it: on a CPU, dropout keeps the scores of attention in any case.
        has_dropout = bool(getattr(config, "attention_probs_dropout_prob", 0.0))
        attention = "eager" if has_dropout else "sdpa"
        model = AutoModel.from_config(config, attn_implementation=attention).train()
        scores = has_scores(model, attention)
        memory = estimate(model, replace(load, has_scores=scores))
        estimated.append(memory.activations)
        kept.append(sum(_kept(model, load)) - memory.copies)
    num_kept = 2 * load.micro_batch_size * num_tokens
    return {
        "model": name,
        "num_tokens": num_tokens,
        "hidden": config.hidden_size,
        "kept": (kept[1] - kept[0]) / num_kept,
        "estimated": (estimated[1] - estimated[0]) / num_kept,
    }


def _kept(model: Any, load: Load) -> Iterator[int]:
    """Yield the bytes of each storage that a forward pass keeps, apart from the weights."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    storages: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage
        return tensor

    ids = torch.full((load.micro_batch_size, load.num_tokens), SMALL_VOCABULARY - 1)
    with (
        saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=load.precision == "bf16"),
    ):
        kept = model(input_ids=ids, attention_mask=torch.ones_like(ids))  # alive until counted
        yield from (s.nbytes() for pointer, s in storages.items() if pointer not in weights)
        del kept
