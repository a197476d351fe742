"""Counts the arithmetic that a training step needs, from the shape of a model."""

import json
from pathlib import Path


def training_flops_per_token(model: Path, length: int, mlm_probability: float) -> float:
    """Count the FLOPs that the objective needs per token of a step, forward and backward.

    The encoder needs 2 FLOPs per weight, and 4 T H per layer for attention over T tokens, or over
    the window of a layer with local attention. The head counts at masked positions only, whatever
    else a side computes. Backward is twice forward (Kaplan et al. 2020, "Scaling laws for neural
    language models", 2.1).

    Args:
        model: A folder with a config.json of BERT, DistilBERT or ModernBERT.
        length: The tokens in a sequence.
        mlm_probability: The share of positions that the head must predict.
    """
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    names = ["hidden_size", "intermediate_size", "num_hidden_layers"]
    if config["model_type"] == "distilbert":
        names = ["dim", "hidden_dim", "n_layers"]
    hidden, inner, num_layers = (config[name] for name in names)
    # The gated layers of ModernBERT have a third matrix.
    num_matrices = 3 if config["model_type"] == "modernbert" else 2
    kinds = config.get("layer_types") or ["full_attention"] * num_layers
    seen = [
        min(length, config["local_attention"] + 1) if kind == "sliding_attention" else length
        for kind in kinds
    ]
    weights = num_layers * (4 * hidden**2 + num_matrices * hidden * inner)
    encoder = 2 * weights + 4 * hidden * sum(seen)
    head = 2 * (hidden**2 + hidden * config["vocab_size"])
    return float(3 * (encoder + mlm_probability * head))
