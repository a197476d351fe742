"""What the model sees instead of a selected token: [MASK], a random token, or the token itself."""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from mlmtune.config import MaskingConfig
from mlmtune.errors import ConfigError
from mlmtune.randomness import UInt64Array, key, uniform
from mlmtune.tokens.unknown import unknown_token_id

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

ACTION_STREAM, REPLACEMENT_STREAM = 1, 2
"""Keep apart the draws of what happens to a token and of which token replaces it."""

UNUSED_TOKEN = re.compile(r"\[unused\d+\]|<unused\d+>|madeupword\d+|<extra_id_\d+>|\|\|\|.*\|\|\|")
"""Vocabulary entries that are reserved and never occur in text."""


def replacement_ids(tokenizer: "PreTrainedTokenizerFast") -> NDArray[np.int64]:
    """Return (K,) the ascending ids of all tokens that are not special, unknown or unused."""
    special = {*tokenizer.all_special_ids, unknown_token_id(tokenizer)}
    special |= {id_ for id_, token in tokenizer.added_tokens_decoder.items() if token.special}
    allowed = (
        id_
        for token, id_ in tokenizer.get_vocab().items()
        if id_ not in special and not UNUSED_TOKEN.fullmatch(token)
    )
    return np.asarray(sorted(allowed), dtype=np.int64)


@dataclass(frozen=True)
class Corruption:
    """The rule that replaces selected tokens (Devlin et al. 2019, 3.1).

    Attributes:
        mask_token_id: The id of [MASK].
        replacements: (K,) The ids that random tokens are drawn from, uniformly.
        mask_replace_prob: The share of the selected tokens that become [MASK].
        random_replace_prob: The share that become random tokens. The rest stay unchanged.
    """

    mask_token_id: int
    replacements: NDArray[np.int64]
    mask_replace_prob: float
    random_replace_prob: float

    @classmethod
    def of(cls, tokenizer: "PreTrainedTokenizerFast", config: MaskingConfig) -> Self:
        """Take the ids from a tokenizer and the shares from the config.

        Raises:
            ConfigError: The tokenizer has no mask token.
        """
        if tokenizer.mask_token_id is None:
            raise ConfigError(
                f"{tokenizer.name_or_path}: the tokenizer has no mask token, so this is not a "
                "masked language model; choose another model.name_or_path"
            )
        return cls(
            int(tokenizer.mask_token_id),
            replacement_ids(tokenizer),
            config.mask_replace_prob,
            config.random_replace_prob,
        )

    def apply(
        self,
        input_ids: NDArray[np.int64],
        selected: NDArray[np.bool_],
        heads: NDArray[np.int64],
        keys: UInt64Array,
    ) -> NDArray[np.int64]:
        """Return (B, T) what the model sees.

        Args:
            input_ids: (B, T) The original ids, which are not changed.
            selected: (B, T) Whether each token is predicted.
            heads: (B, T) The position of the first token of each unit; the tokens of a unit are
                all masked, all random, or all unchanged.
            keys: (B,) One key per sequence; the draws follow from it and from positions alone.
        """
        rows, columns = np.nonzero(selected)
        units = heads[rows, columns].astype(np.uint64)
        action = uniform(key(keys[rows], ACTION_STREAM), units)
        becomes_mask = action < self.mask_replace_prob
        becomes_random = ~becomes_mask & (
            action < self.mask_replace_prob + self.random_replace_prob
        )

        corrupted = input_ids.copy()
        corrupted[rows[becomes_mask], columns[becomes_mask]] = self.mask_token_id
        rows, columns = rows[becomes_random], columns[becomes_random]
        # By position and not by unit, so that the tokens of a unit become different random tokens.
        draws = uniform(key(keys[rows], REPLACEMENT_STREAM), columns.astype(np.uint64))
        indices = (draws * len(self.replacements)).astype(np.int64)
        corrupted[rows, columns] = self.replacements[indices]
        return corrupted
