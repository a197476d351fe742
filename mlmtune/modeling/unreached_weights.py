"""Weights that no loss depends on, such as BigBird's pooler without pairs."""

from typing import Any

import torch

from mlmtune.modeling.evaluation_mode import in_evaluation_mode


def freeze_unreached_weights(model: Any) -> None:
    """Freeze the parameters that the model's logits do not depend on.

    AdamW would skip them, but several processes would wait for their gradients.

    Args:
        model: A model of transformers, neither wrapped nor compiled.
    """
    device = next(model.parameters()).device
    ids = torch.arange(2 * 8, device=device).reshape(2, 8) % model.config.vocab_size
    with in_evaluation_mode(model):
        outputs = model(input_ids=ids).values()
    nodes = [output.grad_fn for output in outputs if isinstance(output, torch.Tensor)]
    seen, reached = set(), set()
    while nodes:
        node: Any = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):  # this node accumulates the gradient of a parameter
            reached.add(node.variable)
        nodes += [earlier for earlier, _ in node.next_functions]
    for parameter in model.parameters():
        parameter.requires_grad_(parameter in reached)
