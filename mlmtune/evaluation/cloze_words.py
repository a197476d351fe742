"""The words of the word cloze, drawn from the text before any tokenizer is known.

Models whose tokenizers differ must be asked for the same words. So words are found and drawn by
their characters: the draw is a function of the documents' text and a seed, and depends on no
tokenizer, no model and no order of the documents.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from mlmtune.corpus.cleaning import UNSPACED, find_words
from mlmtune.corpus.document import Document
from mlmtune.corpus.text import CorpusText
from mlmtune.errors import DataError
from mlmtune.randomness import key
from mlmtune.shell import pip_install
from mlmtune.tokens.chunking import ChunkView
from mlmtune.tokens.words import SEGMENTERS, segmented

CLOZE_STREAM = 0xE7A6
"""Separates the choice of documents and words from the other uses of `evaluation.seed`."""

MOST_DOCUMENTS = 300
"""The documents that are read, at most. Words of many documents say more than many of one."""
MOST_OF_A_DOCUMENT = 1000
"""The words that are drawn of a document, at most."""
MOST_OF_A_FORM = 3
"""How often the same word is among those that are drawn, so that the commonest ones, which any
model knows, do not take the place of all others."""
FEWEST_LETTERS, MOST_LETTERS = 2, 30
"""The length of a word in scripts with spaces: a single letter is a name or an ending, and what is
longer is a code, or a sentence of a script that no segmenter has cut."""

_BETWEEN_WORDS = re.compile(rf"[\s{UNSPACED}]")
_APOSTROPHES = ("'", "\u2019")
"""What is beside one is a part of a word (don't, l'eau)."""


@dataclass(frozen=True)
class Window:
    """A word in a part of its document.

    Attributes:
        text: The part, which begins and ends between words.
        begin: The place of the word's first character.
        end: The place after its last one.
    """

    text: str
    begin: int
    end: int


@dataclass(frozen=True)
class DrawnWord:
    """A word of a document.

    Attributes:
        document: The content hash of the document.
        begin: The place of the word's first character in it.
        end: The place after its last one.
        text: The whole text of the document.
    """

    document: int
    begin: int
    end: int
    text: str = field(compare=False, repr=False)

    @property
    def form(self) -> str:
        """The word as it is written."""
        return self.text[self.begin : self.end]

    def window(self, num_characters: int) -> Window:
        """Return the word with up to this many characters on each side, cut between words."""
        begin, end = self.begin, self.end
        first, last = max(begin - num_characters, 0), min(end + num_characters, len(self.text))
        while first < begin and not _is_border(self.text, first):
            first += 1
        while last > end and not _is_border(self.text, last):
            last -= 1
        return Window(self.text[first:last], begin - first, end - first)


def _is_border(text: str, place: int) -> bool:
    """Whether a place is at an end of a text, at white space, or at an ideograph or kana."""
    if place in (0, len(text)):
        return True
    return _BETWEEN_WORDS.search(text, place - 1, place + 1) is not None


def drawn_documents(view: ChunkView, text: CorpusText, seed: int) -> list[Document]:
    """Draw some documents of a view, and read them.

    Raises:
        DataError: The text is not on this machine, or is not what was tokenized.
    """
    if text.listing is None:
        raise DataError("the text itself, of which words are drawn, is not on this machine")
    documents = view.layout.documents
    hashes = view.store.documents.content_hashes[documents]
    in_order = np.argsort(key(seed, CLOZE_STREAM, hashes), kind="stable")
    chosen = np.sort(documents[in_order[:MOST_DOCUMENTS]])
    drawn = list(text.read().some_documents(chosen))
    expected = view.store.documents.content_hashes[chosen].tolist()
    if [document.content_hash for document in drawn] != expected:
        raise DataError("the text has changed since it was tokenized; run `mlmtune prepare` again")
    return drawn


def draw_words(
    documents: Iterable[Document], seed: int, segmenter: str | None = None
) -> list[DrawnWord]:
    """Return words of some documents in a drawn order: those that come first are a fair sample.

    The order goes through the documents in turns, so that the first words are of as many documents
    as possible.

    Args:
        documents: The documents; of two with the same content, one counts.
        seed: The seed of the draw.
        segmenter: What finds the words of scripts without spaces; without one, each ideograph or
            kana is a word, as everywhere where words are counted. A run of them would be a clause.

    Raises:
        DataError: The segmenter is not installed.
    """
    cut = None if segmenter is None else _cutter(segmenter)
    texts: dict[int, str] = {}
    for document in documents:
        # The same content may differ in its white space, and nothing may depend on the order.
        known = texts.setdefault(document.content_hash, document.text)
        texts[document.content_hash] = min(known, document.text)
    drawn: list[tuple[int, int, DrawnWord]] = []
    for content_hash, text in sorted(texts.items()):
        places = np.asarray(list(_places_of_words(text, cut)), dtype=np.int64).reshape(-1, 2)
        keys = key(seed, CLOZE_STREAM, np.uint64(content_hash), places[:, 0])
        for turn, number in enumerate(np.argsort(keys)[:MOST_OF_A_DOCUMENT].tolist()):
            begin, end = places[number].tolist()
            word = DrawnWord(content_hash, begin, end, text)
            drawn.append((turn, int(keys[number]), word))
    drawn.sort(key=lambda place: place[:2])
    return list(_without_repetitions(word for _, _, word in drawn))


def _cutter(segmenter: str) -> Callable[[str], list[str]]:
    extra, load = SEGMENTERS[segmenter]
    try:
        return load()
    except ImportError as error:  # the marks of its words may have been found elsewhere
        raise DataError(
            f"tokenization.word_segmenter: {segmenter} is not installed; "
            f"{pip_install(f'mlmtune[{extra}]')}"
        ) from error


def _without_repetitions(words: Iterable[DrawnWord]) -> Iterator[DrawnWord]:
    counts = Counter[str]()
    for word in words:
        form = word.form.casefold()
        counts[form] += 1
        if counts[form] <= MOST_OF_A_FORM:
            yield word


def _places_of_words(
    text: str, cut: Callable[[str], list[str]] | None
) -> Iterator[tuple[int, int]]:
    """Yield where each word begins and ends that is made of letters alone."""
    for found in find_words(text):
        begin, end = found.span()
        if _BETWEEN_WORDS.match(text, begin):
            if cut is None:
                yield begin, end
        elif _is_whole_word(text, begin, end):
            yield begin, end
    if cut is not None:
        yield from segmented(text, cut)


def _is_whole_word(text: str, begin: int, end: int) -> bool:
    """Whether a word is made of letters and marks, and is no part of one with an apostrophe."""
    if not FEWEST_LETTERS <= end - begin <= MOST_LETTERS:
        return False
    if text[begin - 1 : begin] in _APOSTROPHES or text[end : end + 1] in _APOSTROPHES:
        return False
    word = text[begin:end]
    return word.isalpha() or not any(c == "_" or (c.isalnum() and not c.isalpha()) for c in word)
