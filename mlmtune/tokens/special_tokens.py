"""The special tokens that a tokenizer puts around a sequence."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mlmtune.tokens.encoding import framed

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


@dataclass(frozen=True)
class SpecialTokens:
    """The special ids around a sequence, as the tokenizer's template puts them.

    Attributes:
        prefix: The ids before a sequence ([CLS]).
        suffix: The ids after it ([SEP]).
        separator: The ids between documents in one chunk ([SEP]); empty if the tokenizer has none.
    """

    prefix: tuple[int, ...]
    suffix: tuple[int, ...]
    separator: tuple[int, ...]

    @classmethod
    def of(cls, tokenizer: "PreTrainedTokenizerFast") -> "SpecialTokens":
        """Read the ids off the tokenizer's template; without one, take its cls and sep tokens."""
        encoding = framed(tokenizer)
        is_special = np.asarray(encoding.special_tokens_mask, dtype=bool)
        body = np.flatnonzero(~is_special)
        ends = (tokenizer.sep_token_id, tokenizer.eos_token_id)
        separator = tuple(int(id_) for id_ in ends if id_ is not None)[:1]
        if not is_special.any():
            cls_id = tokenizer.cls_token_id
            return cls(() if cls_id is None else (int(cls_id),), separator, separator)
        return cls(tuple(encoding.ids[: body[0]]), tuple(encoding.ids[body[-1] + 1 :]), separator)
