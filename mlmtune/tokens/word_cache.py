"""WordCache: each distinct word of a corpus is encoded once, and texts are put together from words.

A tokenizer cuts a text into words before it looks for tokens. Then the tokens of a text are those
of its words, one after the other (`word_splitting`). A corpus has few distinct words: the 3.5
million words of 21 MB of documentation are 20,000 different ones.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mlmtune.tokens.sums import end_to_end
from mlmtune.tokens.word_splitting import WordSplitter

Tokens = tuple[NDArray[Any], NDArray[np.bool_], NDArray[np.int64]]
"""The ids of some texts' tokens, whether each begins a word, and the number of tokens per text."""

MOST_WORDS = 1 << 18
"""The number of words at which a cache is emptied; each takes about 200 bytes."""
MOST_CHARACTERS = 1 << 24
"""The number of characters at which a cache is emptied, because some words are very long."""


class WordCache:
    """Encodes texts by looking up their words.

    Args:
        split: Cuts texts into words.
        encode: Encodes new words.
    """

    def __init__(self, split: WordSplitter, encode: Callable[[list[str]], Tokens]) -> None:
        self._split = split
        self._encode = encode
        self._known = _Numbers()
        self._tokens = encode([])
        self._begins = np.empty(0, dtype=np.int64)

    def __call__(self, texts: list[str]) -> Tokens:
        """Return the tokens of some texts; a word begins at its first token in any case."""
        if len(self._known) > MOST_WORDS or self._known.num_characters > MOST_CHARACTERS:
            self._known, self._tokens = _Numbers(), self._encode([])
        split = self._split(texts)
        words = self._numbers(split.words)
        ids, starts_word, lengths = self._tokens
        word_lengths = lengths[words]
        word_ends = end_to_end(word_lengths)
        # The tokens of a word lie side by side, at other positions in the result than in the cache.
        shifts = self._begins[words] - word_ends[:-1]
        positions = np.repeat(shifts, word_lengths) + np.arange(word_ends[-1])
        text_ends = word_ends[np.cumsum(split.per_text)]
        return ids[positions], starts_word[positions], np.diff(text_ends, prepend=0)

    def words_of(self, text: str, tokens: NDArray[np.bool_]) -> tuple[str, NDArray[np.bool_]]:
        """Return the words of a text that have some of its tokens, and these tokens among theirs.

        Args:
            text: The text.
            tokens: (n,) Which of its tokens.
        """
        words, _, runs = self._split([text])
        numbers = self._numbers(words)  # first, because new words change what is known
        # A word between white space may have been cut; its parts stay together here.
        run_of_token = np.repeat(runs, self._tokens[2][numbers])
        concerned = np.unique(run_of_token[tokens])
        begins = np.searchsorted(runs, concerned).tolist()
        ends = np.searchsorted(runs, concerned, side="right").tolist()
        parts = (
            "".join(words[begin:end].to_pylist()) for begin, end in zip(begins, ends, strict=True)
        )
        return " ".join(parts), tokens[np.isin(run_of_token, concerned)]

    def _numbers(self, words: pa.StringArray) -> NDArray[np.int32]:
        """Return (n,) the number of each word; new ones are encoded."""
        encoded = words.dictionary_encode()
        distinct = encoded.dictionary.to_pylist()
        numbers = np.fromiter(map(self._known.__getitem__, distinct), np.int32, len(distinct))
        if self._known.new:
            new, self._known.new = self._known.new, []
            added = self._encode(new)
            ids, starts_word, lengths = map(np.concatenate, zip(self._tokens, added, strict=True))
            self._tokens = ids, starts_word, lengths
            self._begins = np.cumsum(lengths) - lengths
        of_words: NDArray[np.int32] = numbers[encoded.indices.to_numpy()]
        return of_words


class _Numbers(dict[str, int]):
    """The number of each word; a word that is asked for the first time gets the next one.

    Attributes:
        new: The words that are not encoded yet.
        num_characters: The number of characters in all words.
    """

    def __init__(self) -> None:
        self.new: list[str] = []
        self.num_characters = 0

    def __missing__(self, word: str) -> int:
        self.new.append(word)
        self.num_characters += len(word)
        number = self[word] = len(self)
        return number
