"""Which tokens are predicted. Each strategy is a pure function, vectorised over a batch.

A new strategy is a function with the signature of `Selector` and a row in SELECTORS.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from mlmtune.randomness import UInt64Array, uniform
from mlmtune.tokens.chunking import ChunkBatch

Selector = Callable[[ChunkBatch, UInt64Array, float], NDArray[np.bool_]]
"""(chunks, (B,) keys, mlm_probability) -> (B, T) bool, False at every special token."""


def select_tokens(
    chunks: ChunkBatch, keys: UInt64Array, mlm_probability: float
) -> NDArray[np.bool_]:
    """Select each token on its own, with one probability (Devlin et al. 2019, 3.1).

    A token is selected when its own uniform draw is below the probability; the draw does not
    depend on the probability, so a higher one selects a superset.
    """
    positions = np.arange(chunks.input_ids.shape[1], dtype=np.uint64)
    draws = uniform(keys[:, None], positions)
    return (draws < mlm_probability) & ~chunks.special_tokens_mask


SELECTORS: dict[str, Selector] = {"token": select_tokens}
