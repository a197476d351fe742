"""Which of the words of a text are worth an entry of the vocabulary."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mlmtune.tokens.borders import UNSPACED_LETTER, character_kinds
from mlmtune.vocabulary.counting import CountedWord, WordCounts

FEWEST_LETTERS = 3
"""The letters of the shortest word; shorter ones are mostly parts of code. In scripts without
spaces, where a letter is a syllable or a word, two suffice."""

LEAST_RATIO = 2.0
"""How many times as frequent as in general text a word is that is typical of the domain."""

SMOOTHING = 0.5
"""Added to each count, because a word that was not seen is rare, not impossible."""


def candidates(
    counts: WordCounts, min_documents: int, general: WordCounts | None = None
) -> list[CountedWord]:
    """Return the words that may be added, those that save most tokens first.

    Args:
        counts: The words of the training text.
        min_documents: The fewest documents in which a word occurs; names and slips are in fewer.
        general: The words of general text. With it, a word must be typical of the training text.
    """
    words = [
        word
        for word in counts.words
        if word.documents >= min_documents and len(word.word) >= _fewest_letters(word.word)
    ]
    if general is not None:
        elsewhere = {word.word: word.occurrences for word in general.words}
        share = LEAST_RATIO * (counts.num_words + SMOOTHING) / (general.num_words + SMOOTHING)
        words = [
            word
            for word in words
            if word.occurrences + SMOOTHING >= share * (elsewhere.get(word.word, 0) + SMOOTHING)
        ]
    return sorted(words, key=lambda word: (-word.tokens_saved, word.word))


def _fewest_letters(word: str) -> int:
    is_unspaced = character_kinds()[ord(word[0])] == UNSPACED_LETTER
    return 2 if is_unspaced else FEWEST_LETTERS


def tokens_saved(words: Sequence[CountedWord]) -> NDArray[np.int64]:
    """Return (W,) how many tokens the first 1, 2, ... words save together."""
    return np.cumsum([word.tokens_saved for word in words], dtype=np.int64)


def bend(saved: NDArray[np.int64]) -> int:
    """Return the number of words at which the curve of tokens saved bends most.

    There it is highest above the straight line from its beginning to its end (Satopää et al. 2011,
    "Finding a 'kneedle' in a haystack", 3, without smoothing, since the curve is concave).

    Args:
        saved: (W,) Of 1, 2, ... words; at least one.
    """
    numbers = np.arange(1, len(saved) + 1)
    return int(numbers[np.argmax(saved / saved[-1] - numbers / len(saved))])
