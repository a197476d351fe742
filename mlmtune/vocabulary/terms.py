"""Words as users write them -> entries as a tokenizer's model sees them."""

import re
from collections.abc import Iterable

from tokenizers import Tokenizer

from mlmtune.corpus.cleaning import UNSPACED
from mlmtune.tokens.ideographs import is_several
from mlmtune.vocabulary.plan import BORDER_MARKS, Reason

_BEFORE = "a"
"""The word before another one, which shows what the tokenizer makes of the space between them."""
_BEGINS_UNSPACED = re.compile(f"[{UNSPACED}]")


class Terms:
    """The normalizer and the pre-tokenizer of a tokenizer.

    Args:
        backend: The tokenizer, whose model does not matter.
        parts_ideographs: Whether each ideograph is a word, and may be joined to one of several.
    """

    def __init__(self, backend: Tokenizer, *, parts_ideographs: bool) -> None:
        self.parts_ideographs = parts_ideographs
        self._normalizer = backend.normalizer
        self._pre_tokenizer = backend.pre_tokenizer

    def cut(self, text: str) -> list[str]:
        """Return the words of a text as the tokenizer's model gets them."""
        if self._normalizer is not None:
            text = self._normalizer.normalize_str(text)
        if self._pre_tokenizer is None:
            return [text]
        return [word for word, _ in self._pre_tokenizer.pre_tokenize_str(text)]

    def cut_all(self, texts: Iterable[str]) -> list[str]:
        """Return the distinct words of texts, in the order of their first occurrence."""
        return list(dict.fromkeys(word for text in texts for word in self.cut(text)))

    def entry(self, word: str) -> str | Reason:
        """Return the entry for a word in the middle of a text, or why there cannot be one.

        The entry includes the mark of the space before it. Chinese and Japanese words have none,
        because they stand in runs without spaces.
        """
        if not word:
            return Reason.EMPTY
        if re.search(r"\s", word):
            return Reason.WHITE_SPACE
        before, both = self.cut(_BEFORE), self.cut(f"{_BEFORE} {word}")
        # Without a pre-tokenizer that cuts at spaces, both are one word to the model.
        entry = "".join(both).removeprefix("".join(before))
        if len(both) > len(before) + 1 and not (self.parts_ideographs and is_several(entry)):
            return Reason.SEVERAL_WORDS
        if _BEGINS_UNSPACED.match(word):
            entry = entry.removeprefix(BORDER_MARKS[0]).removeprefix(BORDER_MARKS[1])
        return Reason.EMPTY if entry in ("", *BORDER_MARKS) else entry
