"""The start of a new head: the frequencies of the training tokens."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mlmtune.modeling.loading import LoadedModel


def start_from_frequencies(loaded: LoadedModel, token_counts: NDArray[np.int64]) -> bool:
    """Set the output bias of a new head to the log frequencies of the tokens, smoothed by one.

    Otherwise a new head would spend its first steps on learning which tokens are frequent. Lin et
    al. 2017 ("Focal loss for dense object detection", 4.1) set the bias of a last layer likewise.

    Args:
        loaded: The model, which is changed if its output bias is new.
        token_counts: (V,) How often each id occurs in the training text.

    Returns:
        Whether the bias was set; False if the checkpoint has one, or the head has none.
    """
    bias = _output_bias(loaded.model)
    parameters = loaded.model.named_parameters(remove_duplicate=False)
    if bias is None or not any(p is bias and name in loaded.new_weights for name, p in parameters):
        return False
    smoothed = torch.from_numpy(token_counts).double() + 1.0  # fp32 is exact up to 2**24 only
    with torch.no_grad():
        bias.copy_((smoothed / smoothed.sum()).log())
    return True


def _output_bias(model: Any) -> torch.Tensor | None:
    """Return the bias (V,) of the layer that predicts tokens; None if it has none."""
    shape = model.get_input_embeddings().weight.shape[:1]
    bias = getattr(model.get_output_embeddings(), "bias", None)
    if bias is not None and bias.shape == shape:
        return bias  # type: ignore[no-any-return]
    # DeBERTa's head of `legacy: false` multiplies by the input embeddings and has its bias
    # elsewhere; what it calls its output embeddings is the dense layer before them.
    for name, parameter in model.named_parameters():
        is_in_head = not name.startswith(f"{model.base_model_prefix}.")
        if is_in_head and name.endswith(".bias") and parameter.shape == shape:
            return parameter  # type: ignore[no-any-return]
    return None
