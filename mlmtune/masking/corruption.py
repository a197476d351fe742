"""What stands in the place of a selected token: the mask, a random token, or itself."""

import re
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mlmtune.randomness import UInt64Array, key, uniform
from mlmtune.tokens.unknown import unknown_token_id

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

ACTION_STREAM, REPLACEMENT_STREAM = 1, 2
"""Keep the draws of one token apart: what happens to it, and which token replaces it."""

UNUSED_TOKEN = re.compile(r"\[unused\d+\]|<unused\d+>|madeupword\d+|<extra_id_\d+>|\|\|\|.*\|\|\|")
"""Vocabulary entries that hold a place and never occur in text."""


def replacement_ids(tokenizer: "PreTrainedTokenizerFast") -> NDArray[np.int64]:
    """(K,) ids a random replacement is drawn from: all but special, unknown and unused tokens."""
    special = {*tokenizer.all_special_ids, unknown_token_id(tokenizer)}
    special |= {id_ for id_, token in tokenizer.added_tokens_decoder.items() if token.special}
    return np.asarray(
        sorted(
            id_
            for token, id_ in tokenizer.get_vocab().items()
            if id_ not in special and not UNUSED_TOKEN.fullmatch(token)
        ),
        dtype=np.int64,
    )


def corrupt(
    input_ids: NDArray[np.int64],
    selected: NDArray[np.bool_],
    heads: NDArray[np.int64],
    keys: UInt64Array,
    *,
    mask_token_id: int,
    replacements: NDArray[np.int64],
    mask_replace_prob: float,
    random_replace_prob: float,
) -> NDArray[np.int64]:
    """Replace selected tokens by the mask or a random token (Devlin et al. 2019, 3.1).

    Args:
        input_ids: (B, T) the original ids; left as they are.
        selected: (B, T) which tokens are predicted.
        heads: (B, T) first token of what is selected together, and so has one fate.
        keys: (B,) one key per sequence; with the position it decides every draw.
        mask_token_id: id of [MASK].
        replacements: (K,) ids that a random token is drawn from, uniformly.
        mask_replace_prob: share of the selected tokens that become the mask.
        random_replace_prob: share that become random tokens, each drawn for itself; the rest stay.

    Returns:
        (B, T) what the model sees.
    """
    rows, columns = np.nonzero(selected)
    units = heads[rows, columns].astype(np.uint64)
    action = uniform(key(keys[rows], ACTION_STREAM), units)
    becomes_mask = action < mask_replace_prob
    becomes_random = ~becomes_mask & (action < mask_replace_prob + random_replace_prob)

    corrupted = input_ids.copy()
    corrupted[rows[becomes_mask], columns[becomes_mask]] = mask_token_id
    rows, columns = rows[becomes_random], columns[becomes_random]
    draws = uniform(key(keys[rows], REPLACEMENT_STREAM), columns.astype(np.uint64))
    corrupted[rows, columns] = replacements[(draws * len(replacements)).astype(np.int64)]
    return corrupted
