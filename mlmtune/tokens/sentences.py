"""Where sentences begin, for pairs of segments."""

from collections.abc import Callable, Iterator, Sequence
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


def sentence_marker(language: str, by_lines: Sequence[bool] = ()) -> Marker:
    """Marks the first token of each sentence: of each line, or by the rules of sentencex.

    sentencex knows the abbreviations of many languages, ends a sentence at an ideographic full stop
    in any of them, and takes a blank line, a heading or an item of a list for an end, too.

    Args:
        language: `tokenization.language`.
        by_lines: for each source of the store, whether each of its lines is a sentence.
    """

    def mark(document: Document, offsets: Offsets, own: NDArray[np.bool_]) -> NDArray[np.bool_]:
        if document.source < len(by_lines) and by_lines[document.source]:
            return line_starts(document.text, offsets)
        return sentence_starts(document.text, offsets, language)

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


def sentence_starts(text: str, offsets: Offsets, language: str) -> NDArray[np.bool_]:
    """(n,) whether each token is the first of a sentence, which the first of a text always is.

    Args:
        text: of a document.
        offsets: of its tokens.
        language: ISO 639.
    """
    starts = np.asarray(
        [
            found["start_index"]
            for found in _splitter()(language, text)
            if not found["text"].isspace()  # between paragraphs
        ],
        dtype=np.int64,
    )
    return _first_tokens(starts, offsets)


def line_starts(text: str, offsets: Offsets) -> NDArray[np.bool_]:
    """(n,) whether each token is the first of a line that is not blank.

    Args:
        text: of a document.
        offsets: of its tokens.
    """

    def starts() -> Iterator[int]:
        start = 0
        while start <= len(text):
            end = text.find("\n", start)
            end = len(text) if end < 0 else end
            if text[start:end].strip():
                yield start
            start = end + 1

    return _first_tokens(np.fromiter(starts(), dtype=np.int64), offsets)


def _first_tokens(starts: NDArray[np.int64], offsets: Offsets) -> NDArray[np.bool_]:
    """(n,) whether each token is the first of a sentence, by where sentences start in the text."""
    marks = np.zeros(len(offsets.ends), dtype=bool)
    marks[:1] = True
    # The first token that reaches beyond the border; a token may begin with the space before it.
    first = np.searchsorted(offsets.ends, starts, side="right")
    marks[first[first < len(marks)]] = True
    return marks


@cache
def _splitter() -> Callable[[str, str], list[dict[str, Any]]]:
    from sentencex import get_sentence_boundaries

    return cast(Callable[[str, str], list[dict[str, Any]]], get_sentence_boundaries)
