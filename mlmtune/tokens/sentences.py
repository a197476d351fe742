"""Where sentences begin, for pairs of segments."""

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from importlib.metadata import distributions

import numpy as np
from numpy.typing import NDArray

from mlmtune.corpus.document import Document
from mlmtune.shell import pip_install
from mlmtune.tokens.borders import Offsets
from mlmtune.tokens.marks import Marker

SENTENCES = "sentences-"
"""The prefix of the names of marks of sentences."""

PACKAGE, EXTRA = "sentencex", "sentences"

WINDOW_CHARACTERS = 20_000
"""The length of the windows in which a text is searched for sentences."""
MARGIN_CHARACTERS = 2_000
"""The length of a margin at the end of a window that cuts a paragraph. The next window searches it
again, because a bracket or quotation that is cut may have divided its sentences wrongly."""

_PARAGRAPH = "\n\n"


def sentence_marker(language: str, by_lines: Sequence[bool] = ()) -> Marker:
    """Return a marker of the first token of each sentence, which sentencex finds.

    sentencex knows the abbreviations of many languages, and ends a sentence at an ideographic full
    stop in any of them. It also ends one at a blank line, a heading or an item of a list.

    Args:
        language: The language whose rules end a sentence (ISO 639).
        by_lines: For each source of the store, whether each of its lines is a sentence instead.
    """
    made_by = next((f"{PACKAGE} {dist.version}" for dist in distributions(name=PACKAGE)), None)
    if by_lines and all(by_lines):
        made_by = "lines"
    return Marker(
        name=f"{SENTENCES}{language}",
        made_by=made_by,
        how_to_install=(
            f"objective: pairs of sentences need {PACKAGE}, which is not installed; "
            f"{pip_install(f'mlmtune[{EXTRA}]')}"
        ),
        purpose="finding sentences",
        concerns=_has_sentences,
        mark=partial(_mark_sentences, language, tuple(by_lines)),
    )


def _has_sentences(document: Document) -> bool:
    return True


def _mark_sentences(
    language: str,
    by_lines: tuple[bool, ...],
    document: Document,
    pieces: Iterator[Offsets],
    own: NDArray[np.bool_],
) -> NDArray[np.bool_]:
    is_by_lines = document.source < len(by_lines) and by_lines[document.source]
    text = document.text
    starts = line_starts(text) if is_by_lines else sentence_starts(text, language)
    return first_tokens(starts, pieces, len(own))


def sentence_starts(text: str, language: str) -> Iterator[int]:
    """Yield the position of each sentence's first character that is not white space.

    A long text is searched in windows, because the time of sentencex grows with the square of a
    paragraph's sentences, and it takes hundreds of bytes for each of them. A window ends between
    two paragraphs. If it has one paragraph alone, the next window begins with the last sentence
    that begins before the margin.

    Args:
        text: The text of a document.
        language: The language whose rules end a sentence (ISO 639).
    """
    from sentencex import get_sentence_boundaries  # an extra that may be missing

    begin = 0
    is_inside = False  # whether the window begins within a sentence that is longer than a window
    while begin < len(text):
        end = _end_of_window(text, begin)
        boundaries = get_sentence_boundaries(language, text[begin:end])
        next_begin = end
        cuts_sentence = end < len(text) and not text.startswith(_PARAGRAPH, end)
        if cuts_sentence and len(boundaries) > 1:
            last = boundaries.pop()["start_index"]
            while len(boundaries) > 1 and begin + last > end - MARGIN_CHARACTERS:
                last = boundaries.pop()["start_index"]
            next_begin, cuts_sentence = begin + last, False
        for boundary in boundaries[1:] if is_inside else boundaries:
            sentence = boundary["text"].lstrip()
            if sentence:  # else it is the white space between two paragraphs
                yield begin + boundary["end_index"] - len(sentence)
        begin, is_inside = next_begin, cuts_sentence


def _end_of_window(text: str, begin: int) -> int:
    end = begin + WINDOW_CHARACTERS
    if end >= len(text):
        return len(text)
    # All white space after a paragraph is left to the next window.
    paragraph = len(text[begin : text.rfind(_PARAGRAPH, begin + 1, end) + 1].rstrip())
    return begin + paragraph if paragraph else end


def line_starts(text: str) -> Iterator[int]:
    """Yield the position of the first character of each line that is not blank."""
    for line in re.finditer(r"[^\n]+", text):
        if line.group().strip():
            yield line.start()


def first_tokens(
    starts: Iterator[int], pieces: Iterable[Offsets], num_tokens: int
) -> NDArray[np.bool_]:
    """Return (num_tokens,) whether each token is the first of a sentence or of the text.

    The first token of a sentence is the first one that ends after the sentence's start, because a
    token may begin with the space before it.

    Args:
        starts: The positions at which the sentences of a text begin, in order.
        pieces: The offsets of its tokens, in order.
        num_tokens: The number of its tokens.
    """
    borders = np.fromiter(starts, dtype=np.int64)
    marks = np.zeros(num_tokens, dtype=bool)
    marks[:1] = True
    num_done = 0
    for _, ends in pieces:
        num_here = np.searchsorted(borders, ends.max(initial=0))
        marks[num_done + np.searchsorted(ends, borders[:num_here], side="right")] = True
        borders = borders[num_here:]
        num_done += len(ends)
    return marks
