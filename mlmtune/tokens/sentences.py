"""Where sentences begin, for pairs of segments."""

from collections.abc import Callable
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from mlmtune.shell import pip_install
from mlmtune.tokens.borders import Offsets
from mlmtune.tokens.marks import Marker

SENTENCES = "sentences-"
"""Begins the names of marks of sentences."""

PACKAGE, EXTRA = "sentencex", "sentences"


def sentence_marker(language: str) -> Marker:
    """Marks the first token of each sentence, by the rules of sentencex.

    It knows the abbreviations of many languages, ends a sentence at an ideographic full stop in any
    of them, and takes a blank line, a heading or an item of a list for an end, too.

    Args:
        language: `tokenization.language`.
    """
    try:
        made_by = f"{PACKAGE} {version(PACKAGE)}"
    except PackageNotFoundError:
        made_by = None
    return Marker(
        name=f"{SENTENCES}{language}",
        made_by=made_by,
        how_to_install=(
            f"objective: pairs of sentences need {PACKAGE}, which is not installed; "
            f"{pip_install(f'mlmtune[{EXTRA}]')}"
        ),
        purpose="finding sentences",
        concerns=lambda text: True,
        mark=lambda text, offsets, own: sentence_starts(text, offsets, language),
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
