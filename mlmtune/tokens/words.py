"""Words of scripts without spaces between them, for masking whole words.

In such a script a tokenizer's word is a single character (BERT), or everything up to the next
punctuation mark (byte-level BPE, Unigram). A segmenter finds the real words, and then each token
begins a word or continues the one before it.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from importlib.metadata import distributions

import numpy as np
from numpy.typing import NDArray

from mlmtune.config import StrategyName
from mlmtune.corpus.cleaning import UNSPACED
from mlmtune.corpus.document import Document
from mlmtune.errors import ConfigError
from mlmtune.shell import pip_install
from mlmtune.tokens.borders import Offsets
from mlmtune.tokens.marks import Marker
from mlmtune.tokens.store import TokenStore

WORDS = "words-"
"""The prefix of the names of marks of words."""

LEAST_WORDS_PER_TOKEN = 0.2
"""If a source has fewer words per token, they are not words, or the tokenizer hardly knows their
script."""

MOST_CHARACTERS_PER_WORD = 16.0
"""No language has longer words on average, white space included: Malayalam has about 12."""

MOST_WORDS_PER_TOKEN = 0.97
"""If a text has more words per token, masking words is the same as masking tokens."""

MOST_CHARACTERS_PER_CUT = 100_000
"""The most characters that a segmenter, which takes hundreds of bytes for each, gets at once. Real
text has punctuation much earlier."""

_RUN = re.compile(f"[{UNSPACED}]+")


def _cut_by_rjieba() -> Callable[[str], list[str]]:
    from rjieba import cut

    return lambda text: cut(text, True)  # True: also find words that are not in the dictionary


SEGMENTERS: dict[str, tuple[str, Callable[[], Callable[[str], list[str]]]]] = {
    "rjieba": ("zh", _cut_by_rjieba),
}
"""For each package of a segmenter, the extra that installs it, and a function that imports it and
returns its function that cuts a text into words."""


def word_marker(segmenter: str) -> Marker:
    """Return a marker of the first token of each word.

    In scripts without spaces the words are those of a segmenter of `SEGMENTERS`; elsewhere they
    are the store's own.
    """
    extra, _ = SEGMENTERS[segmenter]
    return Marker(
        name=f"{WORDS}{segmenter}",
        made_by=next(
            (f"{segmenter} {dist.version}" for dist in distributions(name=segmenter)), None
        ),
        how_to_install=(
            f"tokenization.word_segmenter: {segmenter} is not installed; "
            f"{pip_install(f'mlmtune[{extra}]')}"
        ),
        purpose="finding words",
        concerns=_has_unspaced,
        mark=partial(_mark_words, segmenter),
    )


def _has_unspaced(document: Document) -> bool:
    return _RUN.search(document.text) is not None


def _mark_words(
    segmenter: str, document: Document, pieces: Iterator[Offsets], own: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    _, load = SEGMENTERS[segmenter]
    return word_starts(document.text, pieces, own, load())


def segmented(text: str, cut: Callable[[str], list[str]]) -> Iterator[tuple[int, int]]:
    """Yield where each word of a script without spaces begins and ends in a text.

    Args:
        text: The text.
        cut: Cuts a run into words.
    """
    for run in _RUN.finditer(text):
        for begin in range(run.start(), run.end(), MOST_CHARACTERS_PER_CUT):
            end = begin
            for word in cut(text[begin : min(begin + MOST_CHARACTERS_PER_CUT, run.end())]):
                start, end = end, end + len(word)
                yield start, end


def word_starts(
    text: str,
    pieces: Iterable[Offsets],
    own: NDArray[np.bool_],
    cut: Callable[[str], list[str]],
) -> NDArray[np.bool_]:
    """Return (n,) whether each token of a document begins a word.

    In a run of characters of a script without spaces, a token begins a word where the segmenter
    begins one, and at the edges of the run. Elsewhere the tokenizer's words count. A token with
    parts of two words makes them one word, and only the first token of a character begins a word.

    Args:
        text: The text of the document.
        pieces: The offsets of its tokens, in order.
        own: (n,) Whether the tokenizer begins a word with each token.
        cut: Cuts a run into words.
    """
    is_unspaced = np.zeros(len(text) + 1, dtype=bool)
    is_border = np.zeros(len(text) + 1, dtype=bool)
    for run in _RUN.finditer(text):
        is_unspaced[run.start() : run.end()] = True
        for begin in range(run.start(), run.end(), MOST_CHARACTERS_PER_CUT):
            words = cut(text[begin : min(begin + MOST_CHARACTERS_PER_CUT, run.end())])
            is_border[begin + np.cumsum([0, *map(len, words)])] = True
    marks = own.copy()
    num_done = end_before = 0
    for starts, ends in pieces:
        touches = is_unspaced[starts] | (is_unspaced[starts - 1] & (starts > 0))
        begins = is_border[starts] & (starts >= np.append(end_before, ends[:-1]))
        here = slice(num_done, num_done + len(starts))
        marks[here] = np.where(touches, begins, own[here])
        num_done += len(starts)
        end_before = ends[-1] if len(ends) else end_before
    marks[:1] = True
    return marks


def check_words(store: TokenStore, section: str, strategy: StrategyName) -> str | None:
    """Refuse words that cannot be words, because they are whole sentences or codes.

    Args:
        store: The store with the words that will be masked.
        section: The section of the config that has the strategy.
        strategy: The masking strategy.

    Returns:
        A remark if masking words is the same as masking tokens, or if the tokenizer cuts words
        into more than five tokens on average; else None.

    Raises:
        ConfigError: The words of a source have more than five tokens on average, and its
            characters show that they are not words.
    """
    note = None
    for number, source in enumerate(store.sources):
        if source.num_words >= LEAST_WORDS_PER_TOKEN * source.num_tokens:
            continue
        tokens_per_word = source.num_tokens / max(source.num_words, 1)
        if not _are_words(store, number):
            raise ConfigError(
                f"{section}.strategy: {strategy}: the words of {source.name} have "
                f"{tokens_per_word:.1f} tokens on average, so they are not words (a script without "
                "spaces, or codes); set tokenization.word_segmenter: rjieba for Chinese, or "
                "strategy: token"
            )
        note = (
            f"{section}.strategy: {strategy}: the words of {source.name} have "
            f"{tokens_per_word:.1f} tokens on average, because the tokenizer hardly knows their "
            "script; each word is masked as a whole"
        )
    num_words = sum(source.num_words for source in store.sources)
    if num_words > MOST_WORDS_PER_TOKEN * store.num_tokens:
        return (
            f"{section}.strategy: {strategy}: nearly every token is a word of its own, so words "
            "are masked like tokens; for Chinese set tokenization.word_segmenter: rjieba"
        )
    return note


def _are_words(store: TokenStore, number: int) -> bool:
    """Whether the words of a source can be words, judged by its numbers of characters and words."""
    num_words = store.sources[number].num_words
    of_source = store.documents.sources == number
    num_characters = int(store.documents.num_characters[of_source].sum())
    # These count each ideograph as a word. A real word has about two, and a clause has many.
    num_text_words = int(store.documents.num_text_words[of_source].sum())
    return num_characters <= MOST_CHARACTERS_PER_WORD * num_words and num_text_words < 3 * num_words
