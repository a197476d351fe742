"""The special tokens that a tokenizer puts around a sequence."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mlmtune.tokens.encoding import framed

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


@dataclass(frozen=True)
class SpecialTokens:
    """The ids that frame a sequence, as the tokenizer's own template puts them.

    Attributes:
        prefix: ids before a sequence ([CLS]).
        suffix: ids after it ([SEP]).
        separator: ids between documents in one chunk ([SEP]); empty where the tokenizer has none.
    """

    prefix: tuple[int, ...]
    suffix: tuple[int, ...]
    separator: tuple[int, ...]

    @classmethod
    def of(cls, tokenizer: "PreTrainedTokenizerFast") -> "SpecialTokens":
        """Read the frame off the tokenizer's template; else take its cls and sep tokens."""
        encoding = framed(tokenizer)
        is_special = np.asarray(encoding.special_tokens_mask, dtype=bool)
        body = np.flatnonzero(~is_special)
        separator_id = tokenizer.sep_token_id
        if separator_id is None:
            separator_id = tokenizer.eos_token_id
        separator = () if separator_id is None else (int(separator_id),)
        if not is_special.any():
            cls_id = tokenizer.cls_token_id
            return cls(() if cls_id is None else (int(cls_id),), separator, separator)
        return cls(tuple(encoding.ids[: body[0]]), tuple(encoding.ids[body[-1] + 1 :]), separator)
