"""Words of scripts that set no space between them, for masking whole words.

What a tokenizer takes for a word in such a script is a single character (BERT) or all up to the
next punctuation mark (byte-level BPE, Unigram). A segmenter finds the words; each token then begins
a word, or goes on with the one before it.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, version

import numpy as np
from numpy.typing import NDArray

from mlmtune.config import StrategyName
from mlmtune.corpus.cleaning import UNSPACED
from mlmtune.errors import ConfigError
from mlmtune.shell import pip_install
from mlmtune.tokens.borders import Offsets
from mlmtune.tokens.marks import Marker
from mlmtune.tokens.store import TokenStore

WORDS = "words-"
"""Begins the names of marks of words."""

LEAST_WORDS_PER_TOKEN = 0.2
"""With fewer words than this for each token, either they are no words, or the tokenizer hardly
knows their script."""

MOST_CHARACTERS_PER_WORD = 16.0
"""More on average, white space included, is not a word of any language: Malayalam has some 12."""

MOST_WORDS_PER_TOKEN = 0.97
"""With more words than this for each token, masking words is masking tokens."""

MOST_CHARACTERS_PER_CUT = 100_000
"""A segmenter takes hundreds of bytes per character. No text has so many without punctuation."""

_RUN = re.compile(f"[{UNSPACED}]+")


def _cut_by_rjieba() -> Callable[[str], list[str]]:
    from rjieba import cut

    return lambda text: cut(text, True)  # with its model for words that its dictionary lacks


SEGMENTERS: dict[str, tuple[str, Callable[[], Callable[[str], list[str]]]]] = {
    "rjieba": ("zh", _cut_by_rjieba),
}
"""By the name of its package: the extra that installs it, and how to get its function that cuts a
text into words."""


def word_marker(segmenter: str) -> Marker:
    """Marks where words begin: by a segmenter in scripts without spaces, else by the tokenizer.

    Args:
        segmenter: `tokenization.word_segmenter`.
    """
    extra, load = SEGMENTERS[segmenter]
    load_once = cache(load)
    try:
        made_by = f"{segmenter} {version(segmenter)}"
    except PackageNotFoundError:
        made_by = None
    return Marker(
        name=f"{WORDS}{segmenter}",
        made_by=made_by,
        how_to_install=(
            f"tokenization.word_segmenter: {segmenter} is not installed; "
            f"{pip_install(f'mlmtune[{extra}]')}"
        ),
        purpose="finding words",
        concerns=lambda document: _RUN.search(document.text) is not None,
        mark=lambda document, pieces, own: word_starts(document.text, pieces, own, load_once()),
    )


def word_starts(
    text: str,
    pieces: Iterable[Offsets],
    own: NDArray[np.bool_],
    cut: Callable[[str], list[str]],
) -> NDArray[np.bool_]:
    """(n,) whether each token begins a word.

    Inside a run of characters without spaces a token begins a word where one of the segmenter's
    begins; at the run's edges always; elsewhere where the tokenizer says so. A token over the
    border of two words makes them one, and the later tokens of a character never begin any.

    Args:
        text: of a document.
        pieces: the offsets of its tokens, in order.
        own: (n,) which tokens begin a word of the tokenizer's.
        cut: cuts a run into words.
    """
    is_unspaced = np.zeros(len(text) + 1, dtype=bool)
    is_border = np.zeros(len(text) + 1, dtype=bool)
    for begin, end, borders in _runs(text, cut):
        is_unspaced[begin:end] = True
        is_border[borders] = True
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


def _runs(
    text: str, cut: Callable[[str], list[str]]
) -> Iterator[tuple[int, int, NDArray[np.int64]]]:
    """Where each run of unspaced characters begins and ends, and the borders of its words."""
    for run in _RUN.finditer(text):
        for begin in range(run.start(), run.end(), MOST_CHARACTERS_PER_CUT):
            end = min(begin + MOST_CHARACTERS_PER_CUT, run.end())
            lengths = [0, *map(len, cut(text[begin:end]))]
            yield begin, end, begin + np.cumsum(lengths)


def check_words(store: TokenStore, section: str, strategy: StrategyName) -> str | None:
    """Refuse words that are none; say where they are tokens, or have very many.

    Args:
        store: with the words that will be masked.
        section: of the config, for the message.
        strategy: what is masked.

    Returns:
        A line for people where masking words is the same as masking tokens, or where the tokenizer
        cuts words into more than five tokens on average.

    Raises:
        ConfigError: the words of a source have more than five tokens on average, because they are
            whole sentences of a script without spaces, or codes.
    """
    note = None
    for number, source in enumerate(store.sources):
        if source.num_words >= LEAST_WORDS_PER_TOKEN * source.num_tokens:
            continue
        tokens_per_word = source.num_tokens / max(source.num_words, 1)
        if not _are_words(store, number):
            raise ConfigError(
                f"{section}.strategy: {strategy}: the words of {source.name} have "
                f"{tokens_per_word:.1f} tokens on average, so they are no words (a script without "
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
    """Whether what is masked together in a source can be words, as its text shows them."""
    num_words = store.sources[number].num_words
    of_source = store.documents.sources == number
    num_characters = int(store.documents.num_characters[of_source].sum())
    # Here each ideograph is a word, so that two stand for a word and a clause for many.
    num_text_words = int(store.documents.num_text_words[of_source].sum())
    return num_characters <= MOST_CHARACTERS_PER_WORD * num_words and num_text_words < 3 * num_words
