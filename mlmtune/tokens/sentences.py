"""Where sentences begin, for pairs of segments."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from mlmtune.corpus.document import Document
from mlmtune.shell import pip_install
from mlmtune.tokens.borders import Offsets
from mlmtune.tokens.marks import Marker

SENTENCES = "sentences-"
"""Begins the names of marks of sentences."""

PACKAGE, EXTRA = "sentencex", "sentences"

WINDOW_CHARACTERS = 20_000
"""Of a text, looked at together."""
MARGIN_CHARACTERS = 2_000
"""Before the end of a window that cuts a paragraph. Sentences that begin there are looked for
again, because a bracket or a quotation that the window cuts may have parted them wrongly."""

_PARAGRAPH = "\n\n"


def sentence_marker(language: str, by_lines: Sequence[bool] = ()) -> Marker:
    """Marks the first token of each sentence: of each line, or by the rules of sentencex.

    sentencex knows the abbreviations of many languages, ends a sentence at an ideographic full stop
    in any of them, and takes a blank line, a heading or an item of a list for an end, too.

    Args:
        language: `tokenization.language`.
        by_lines: for each source of the store, whether each of its lines is a sentence.
    """

    def mark(
        document: Document, pieces: Iterator[Offsets], own: NDArray[np.bool_]
    ) -> NDArray[np.bool_]:
        is_by_lines = document.source < len(by_lines) and by_lines[document.source]
        text = document.text
        starts = line_starts(text) if is_by_lines else sentence_starts(text, language)
        return first_tokens(starts, pieces, len(own))

    made_by: str | None
    try:
        made_by = f"{PACKAGE} {version(PACKAGE)}"
    except PackageNotFoundError:
        made_by = None
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
        concerns=lambda document: True,
        mark=mark,
    )


def sentence_starts(text: str, language: str) -> Iterator[int]:
    """Where each sentence begins in a text, in characters: at its first that is no white space.

    A long text is looked at in windows, because sentencex takes time that grows with the square of
    a paragraph's sentences, and hundreds of bytes for each of them. A window ends between two
    paragraphs. Where it has no border of those, the next window begins with the last sentence that
    does not begin in the window's margin.

    Args:
        text: of a document.
        language: ISO 639.
    """
    begin = 0
    is_inside = False  # the window begins within a sentence that was too long for the one before
    while begin < len(text):
        end = _end_of_window(text, begin)
        boundaries = _splitter()(language, text[begin:end])
        next_begin = end
        cuts_sentence = end < len(text) and not text.startswith(_PARAGRAPH, end)
        if cuts_sentence and len(boundaries) > 1:
            last = boundaries.pop()["start_index"]
            while len(boundaries) > 1 and begin + last > end - MARGIN_CHARACTERS:
                last = boundaries.pop()["start_index"]
            next_begin, cuts_sentence = begin + last, False
        for boundary in boundaries[1:] if is_inside else boundaries:
            sentence = boundary["text"].lstrip()
            if sentence:  # else it is what parts paragraphs
                yield begin + boundary["end_index"] - len(sentence)
        begin, is_inside = next_begin, cuts_sentence


def _end_of_window(text: str, begin: int) -> int:
    end = begin + WINDOW_CHARACTERS
    if end >= len(text):
        return len(text)
    # White space behind a border of paragraphs goes with the next window, all of it.
    paragraph = len(text[begin : text.rfind(_PARAGRAPH, begin + 1, end) + 1].rstrip())
    return begin + paragraph if paragraph else end


def line_starts(text: str) -> Iterator[int]:
    """Where each line that is not blank begins in a text, in characters."""
    start = 0
    while start <= len(text):
        end = text.find("\n", start)
        end = len(text) if end < 0 else end
        if text[start:end].strip():
            yield start
        start = end + 1


def first_tokens(
    starts: Iterator[int], pieces: Iterable[Offsets], num_tokens: int
) -> NDArray[np.bool_]:
    """(n,) whether each token is the first of a sentence, which the first of a text always is.

    It is the first token that reaches beyond the border: one may begin with the space before it.

    Args:
        starts: where the sentences of a text begin, in order.
        pieces: the offsets of its tokens, in order.
        num_tokens: n.
    """
    marks = np.zeros(num_tokens, dtype=bool)
    marks[:1] = True
    num_done = 0
    start = next(starts, None)
    for _, ends in pieces:
        here = []
        while start is not None and len(ends) and start < ends[-1]:
            here.append(start)
            start = next(starts, None)
        marks[num_done + np.searchsorted(ends, here, side="right")] = True
        num_done += len(ends)
    return marks


@cache
def _splitter() -> Callable[[str, str], list[dict[str, Any]]]:
    from sentencex import get_sentence_boundaries

    return cast(Callable[[str, str], list[dict[str, Any]]], get_sentence_boundaries)
