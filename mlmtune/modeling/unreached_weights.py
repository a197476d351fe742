"""Weights that no loss depends on, such as BigBird's pooler where there are no pairs."""

from typing import Any

import torch


def freeze_unreached_weights(model: Any) -> None:
    """Let only those parameters be trained that the model's logits depend on.

    AdamW would pass the others over, but several processes would wait for their gradients.

    Args:
        model: of transformers, bare; not compiled yet.
    """
    device = next(model.parameters()).device
    ids = torch.arange(2 * 8, device=device).reshape(2, 8) % model.config.vocab_size
    was_training = model.training
    model.eval()
    try:
        outputs = model(input_ids=ids).values()
    finally:
        model.train(was_training)
    nodes = [output.grad_fn for output in outputs if isinstance(output, torch.Tensor)]
    seen, reached = set(), set()
    while nodes:
        node: Any = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):  # it adds up the gradient of a parameter
            reached.add(node.variable)
        nodes += [before for before, _ in node.next_functions]
    for parameter in model.parameters():
        parameter.requires_grad_(parameter in reached)
