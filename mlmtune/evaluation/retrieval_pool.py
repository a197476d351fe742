"""The queries and targets of retrieval: what is searched for, and in what.

A query is a title, and its target the body; without a title they are the beginnings of a document's
two halves. Text that many documents share (a banner, a licence, one first line for all pages) is
in neither, because nothing could be found by it.

Legend: N documents of the pool, n tokens of a text.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from mlmtune.config import EvaluationConfig
from mlmtune.corpus.ngrams import distinct, ngram_hashes
from mlmtune.errors import DataError
from mlmtune.evaluation.scoring import ENOUGH_PREDICTIONS, MOST_DRAWS, Numbers
from mlmtune.numbers import share
from mlmtune.randomness import key, mix, permute
from mlmtune.tokens.chunking import ChunkView

POOL_STREAM, UNKNOWN_STREAM = 0xE7A4, 0xE7A5
"""Separate the choice of the pool, and the names of unknown tokens, from other draws."""

MOST_DOCUMENTS, ALWAYS_AFFORDABLE = 300, 50
"""The size of the largest pool, and of one that is cheap beside any evaluation."""
FEWEST_DOCUMENTS = 20
"""In a smaller pool, chance alone would find a page among ten half of the time."""
FEWEST_WORDS = 32
"""A shorter document has too little text beside a title. Words, because they are the same for every
tokenizer, so that models with different ones get the same pool."""
MOST_WORDS = 128
"""About as many words of a document are read, at most."""
SHARE_OF_WORDS = 0.06
"""The words that are read, of those that perplexity is measured on: with them, retrieval takes less
than a tenth of the time of an evaluation (benchmarks/retrieval.py)."""

EXACT_TOKENS, TOKENS_AT_A_TIME = 24, 8
"""Of a longer body or half, a multiple of eight tokens is read. So texts have few lengths, and many
of them are embedded at once without padding."""

SHINGLE_TOKENS = 5
SAME_SHARE = 0.5
"""Two targets that share half of the token 5-grams of the shorter one are nearly the same."""
MOST_SET_ASIDE = 0.5
"""The share of the pool that the average query may have set aside; the rest must be worth
searching."""

COMMON_SHARE, FEWEST_COMMON = 0.02, 3
"""What so many of the documents have in common, and three or more, is boilerplate."""
FEWEST_COMMON_TOKENS = 16
"""Boilerplate is at least as long: a sentence, and not a turn of phrase."""
SEARCHED_TOKENS = 512
"""Boilerplate is looked for at the beginning of a document, where a query or target would be."""


@dataclass(frozen=True)
class Tokens:
    """Tokens of a document.

    Attributes:
        ids: (n,) The ids.
        names: (n,) uint64 One for each token of the vocabulary, but for every unknown token another
            one, because two of them may stand for different text.
        starts_word: (n,) Whether the token begins a word.
    """

    ids: NDArray[np.int64]
    names: NDArray[np.uint64]
    starts_word: NDArray[np.bool_]

    @classmethod
    def of(cls, view: ChunkView, document: int, unknown_id: int | None) -> Self:
        """Read a document of the view's store."""
        places = np.arange(*view.store.offsets[document : document + 2])
        ids, starts_word = view.store.tokens_at(places)
        names = mix(ids.astype(np.uint64))
        if unknown_id is not None:
            names = np.where(ids == unknown_id, key(UNKNOWN_STREAM, places), names)
        return cls(ids.astype(np.int64), names, starts_word)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, which: slice | NDArray[np.bool_]) -> Self:
        return replace(self, **{name: array[which] for name, array in vars(self).items()})

    def shingles(self) -> NDArray[np.uint64]:
        """Return a hash of each `SHINGLE_TOKENS` in a row; of a shorter text, one of all of it."""
        *_, longest = ngram_hashes(self.names, max(1, min(SHINGLE_TOKENS, len(self))))
        return longest

    def halves(self) -> tuple[Self, Self]:
        """Divide the text between two words."""
        middle = len(self) // 2
        middle += int(self.starts_word[middle:].argmax()) if len(self) else 0
        return self[:middle], self[middle:]

    def after(self, title: Self) -> Self:
        """Return what follows the title where the text begins with it once more."""
        for begin in range(3 * bool(title)):  # up to two tokens may stand for the lines in between
            end = begin + len(title)
            if np.array_equal(self.names[begin:end], title.names):
                return self[end:].after(title)
        return self

    def beginning(self, max_tokens: int) -> Self:
        """Return the first tokens, in one of few lengths."""
        if EXACT_TOKENS < len(self) < max_tokens:
            return self[: len(self) - len(self) % TOKENS_AT_A_TIME]
        return self[:max_tokens]


@dataclass(frozen=True)
class RetrievalPool:
    """The queries and targets of some validation documents; they have the same order.

    Attributes:
        documents: (N,) The numbers of the documents in their store.
        queries: N arrays of ids, without special tokens.
        targets: N arrays of ids, without special tokens. A target does not begin with its query.
        set_aside: (N, N) The targets that are not ranked for a query, because they nearly equal its
            target, or because their own query is the same. To find one of them is no error.
        num_titles: How many queries are titles; the others are halves of their documents.
    """

    documents: Numbers
    queries: tuple[NDArray[np.int64], ...]
    targets: tuple[NDArray[np.int64], ...]
    set_aside: NDArray[np.bool_]
    num_titles: int

    @classmethod
    def of(
        cls, view: ChunkView, config: EvaluationConfig, max_tokens: int, unknown_id: int | None
    ) -> Self:
        """Choose documents of a view of whole documents, and cut them.

        Args:
            view: The validation text.
            config: `seed` chooses the pool, whose size depends on how often the text is masked.
            max_tokens: The tokens of the longest query or target, without special tokens.
            unknown_id: The id that stands for text that the tokenizer does not know.

        Raises:
            DataError: The view has too few documents of enough words, or they are all alike.
        """
        chosen = _choose(view, config)
        texts = [Tokens.of(view, int(document), unknown_id) for document in chosen]
        titles, bodies = _titles_and_bodies(texts, view.store.documents.title_lengths[chosen])
        queries, targets = [], []
        for title, body in zip(titles, bodies, strict=True):
            query, target = (title, body) if title else body.halves()
            queries.append(query[:max_tokens] if title else query.beginning(max_tokens))
            targets.append(target.beginning(max_tokens))
        set_aside = _same(queries) | _nearly_same(targets)
        if set_aside.mean() > MOST_SET_ASIDE:
            raise DataError(
                "retrieval cannot be measured: on average, a validation document is nearly the "
                f"same as {share(float(set_aside.mean()))} of the others; leave out "
                "near-duplicates (corpus.near_duplicates), or validate on other documents"
            )
        return cls(
            chosen, tuple(text.ids for text in queries), tuple(text.ids for text in targets),
            set_aside, num_titles=sum(map(bool, titles)),
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.documents)

    def ranks(self, scores: NDArray[np.floating[Any]]) -> Numbers:
        """Return (N,) the rank of each query's own target, from 1, by scores (N, N).

        Targets with the same score count as better, so that a model that tells nothing apart finds
        nothing.
        """
        own = scores.diagonal()[:, None]
        ranks: Numbers = ((scores >= own) & ~self.set_aside).sum(axis=1)
        return ranks


def _choose(view: ChunkView, config: EvaluationConfig) -> Numbers:
    """Return the numbers of some documents, in order, by their words alone."""
    documents = view.layout.documents
    num_words = view.store.documents.num_text_words[documents]
    usable = np.flatnonzero(num_words >= FEWEST_WORDS)
    if len(usable) < FEWEST_DOCUMENTS:
        raise DataError(
            f"retrieval cannot be measured: it takes {FEWEST_DOCUMENTS} validation documents "
            f"of {FEWEST_WORDS} words or more, and this text has {len(usable)}; add documents, "
            "or raise corpus.validation_fraction"
        )
    in_order = usable[permute(np.arange(len(usable)), len(usable), key(config.seed, POOL_STREAM))]
    read = np.minimum(num_words[in_order], MOST_WORDS).cumsum()
    evaluated = int(num_words.sum()) * _num_draws(int(num_words.sum()), config)
    num_affordable = int(np.searchsorted(read, SHARE_OF_WORDS * evaluated, side="right"))
    size = min(max(num_affordable, ALWAYS_AFFORDABLE), MOST_DOCUMENTS)
    return documents[np.sort(in_order[:size])]


def _num_draws(num_words: int, config: EvaluationConfig) -> int:
    """Return how many times a text is masked, counting words where `FixedMasks` counts tokens."""
    if config.mask_draws != "auto":
        return config.mask_draws
    enough = ENOUGH_PREDICTIONS / config.mlm_probability
    return min(math.ceil(enough / num_words), MOST_DRAWS)


def _titles_and_bodies(
    texts: Sequence[Tokens], title_lengths: Numbers
) -> tuple[list[Tokens], list[Tokens]]:
    """Divide documents into titles, which may be empty, and bodies, all without boilerplate."""
    fewest = max(FEWEST_COMMON, math.ceil(COMMON_SHARE * len(texts)))
    titles = [text[:length] for text, length in zip(texts, title_lengths.tolist(), strict=True)]
    bodies = [text[len(title) :] for text, title in zip(texts, titles, strict=True)]
    counts = Counter(title.names.tobytes() for title in titles)
    titles = [title if counts[title.names.tobytes()] < fewest else title[:0] for title in titles]
    bodies = [
        body.after(title)
        for body, title in zip(_without_boilerplate(bodies, fewest), titles, strict=True)
    ]
    for number, body in enumerate(bodies):
        if not body:  # all of it is the title
            titles[number], bodies[number] = titles[number][:0], texts[number]
    return titles, bodies


def _without_boilerplate(texts: Sequence[Tokens], fewest: int) -> list[Tokens]:
    """Leave out what as many texts as `fewest` have in common, except where nothing else is."""
    beginnings = [text[:SEARCHED_TOKENS].shingles() for text in texts]
    shingles, counts = np.unique(
        np.concatenate([distinct(of_text) for of_text in beginnings]), return_counts=True
    )
    common = shingles[counts >= fewest]
    rest = []
    for text, of_text in zip(texts, beginnings, strict=True):
        is_common = np.zeros(len(text) + 1, dtype=bool)  # one more, which ends the last run
        for start in np.flatnonzero(np.isin(of_text, common)):
            is_common[start : start + SHINGLE_TOKENS] = True
        is_common[-1] = False
        begins, ends = np.flatnonzero(np.diff(is_common, prepend=False)).reshape(-1, 2).T
        is_kept = np.ones(len(text), dtype=bool)
        for begin, end in zip(begins, ends, strict=True):
            is_kept[begin:end] = end - begin < FEWEST_COMMON_TOKENS
        rest.append(text[is_kept] if is_kept.sum() >= FEWEST_COMMON_TOKENS else text)
    return rest


def _same(texts: Sequence[Tokens]) -> NDArray[np.bool_]:
    """Return (N, N) whether two texts are equal; False on the diagonal."""
    numbers: dict[bytes, int] = {}
    number = np.asarray([numbers.setdefault(t.names.tobytes(), len(numbers)) for t in texts])
    same: NDArray[np.bool_] = number[:, None] == number
    return same & ~np.eye(len(texts), dtype=bool)


def _nearly_same(texts: Sequence[Tokens]) -> NDArray[np.bool_]:
    """Return (N, N) whether two texts share `SAME_SHARE` of the shorter one's shingles."""
    shingles = [distinct(text.shingles()) for text in texts]
    known = distinct(np.concatenate(shingles))
    has = np.zeros((len(texts), len(known)), dtype=np.float32)
    for row, of_text in zip(has, shingles, strict=True):
        row[np.searchsorted(known, of_text)] = 1.0
    sizes = has.sum(axis=1)
    similar: NDArray[np.bool_] = has @ has.T >= SAME_SHARE * np.minimum(sizes[:, None], sizes)
    return similar & ~np.eye(len(texts), dtype=bool)
