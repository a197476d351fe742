"""Words for Unigram, which cuts a text into the pieces whose scores have the largest sum.

The score of a new word is the sum of the scores of its pieces, and a little more. A text then has
the new word where it had exactly these pieces, and no other text changes: in any way to cut a text,
the word is worth what its pieces are worth. A text cannot have more tokens than before. This holds
for words whose characters are all known: the score of an unknown one depends on all other scores,
and unknown characters side by side become one token.
"""

import math
from collections.abc import Mapping

from mlmtune.vocabulary.plan import Plan, Reason, Request

ADVANTAGE = 1e-4
"""What the score of a word exceeds that of its pieces by: more than what is lost in fp32, in which
SentencePiece keeps scores (4e-6 at -50), and less than what two ways to cut a text differ by."""


def plan_unigram(request: Request) -> Plan:
    """Plan scores for words."""
    scores: dict[str, float] = dict(request.content["model"]["vocab"])
    least = min(scores.values())
    keeps_unknown = _each_character_is_a_piece(request, scores)
    best = _BestCuts(scores)
    planned: dict[str, float] = {}
    dropped: dict[str, Reason] = {}
    # Shorter words first, because longer ones must score more than what is made of them.
    for word in sorted(request.words, key=len):
        score = best.score(word) + ADVANTAGE
        if not all(character in scores for character in word):
            dropped[word] = Reason.UNKNOWN
        elif score < least and not keeps_unknown:
            dropped[word] = Reason.SCORE
        else:
            planned[word] = score
            best.add(word, score)
    words = tuple(word for word in request.words if word in planned)
    return Plan(words, dropped, scores={word: planned[word] for word in words})


def _each_character_is_a_piece(request: Request, scores: Mapping[str, float]) -> bool:
    """Whether a lower least score, and so a lower one of unknown characters, changes no text.

    Then a text has the same unknown characters however it is cut. SentencePiece trains such
    vocabularies; those that were pruned later may be others.
    """
    added = {token["content"] for token in request.content["added_tokens"]}
    return all(c in scores for piece in scores.keys() - added for c in piece)


class _BestCuts:
    """The best way to cut a text, by dynamic programming as in tokenizers."""

    def __init__(self, scores: Mapping[str, float]) -> None:
        self._scores = dict(scores)
        self._longest = max(map(len, self._scores))

    def add(self, piece: str, score: float) -> None:
        self._scores[piece] = score
        self._longest = max(self._longest, len(piece))

    def score(self, text: str) -> float:
        """Return the sum of the scores of the best pieces; -inf if a character is unknown."""
        best = [0.0] + [-math.inf] * len(text)
        for begin in range(len(text)):
            for end in range(begin + 1, min(len(text), begin + self._longest) + 1):
                score = self._scores.get(text[begin:end], -math.inf)
                best[end] = max(best[end], best[begin] + score)
        return best[-1]
