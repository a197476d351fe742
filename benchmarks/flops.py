"""The arithmetic that a training step needs, counted from a model's shape."""

import json
from pathlib import Path


def training_flops_per_token(model: Path, length: int, mlm_probability: float) -> float:
    """FLOPs for each token of a step, forward and backward, as the objective needs them.

    2 FLOPs a weight of the encoder and 4 T H a layer for attention over T tokens; the head at
    masked positions only, whatever a side computes besides. Backward is twice forward (Kaplan et
    al. 2020, "Scaling laws for neural language models", 2.1).

    Args:
        model: folder with a config.json of BERT's or DistilBERT's kind.
        length: tokens in a sequence.
        mlm_probability: share of the positions that the head has to predict.
    """
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    is_distilbert = config["model_type"] == "distilbert"
    names = (
        ("dim", "hidden_dim", "n_layers")
        if is_distilbert
        else ("hidden_size", "intermediate_size", "num_hidden_layers")
    )
    hidden, inner, num_layers = (config[name] for name in names)
    encoder = num_layers * (2 * (4 * hidden**2 + 2 * hidden * inner) + 4 * length * hidden)
    head = 2 * (hidden**2 + hidden * config["vocab_size"])
    return float(3 * (encoder + mlm_probability * head))
