"""Data selection: how much a document of a general source (the pool) is like a domain's documents.

As in DSIR (Xie et al. 2023, "Data selection for language models via importance resampling",
section 3), a text is a bag of its words and pairs of words in a row, hashed into 10,000 buckets,
and the importance weight of an n-gram is its probability in the domain over that in the pool.

DSIR draws texts of one length by the sum of the logarithms. Documents have many lengths: their sums
are hundreds of nats, beside which the Gumbel noise of a draw is nothing, and which grow with the
length. So the score is the mean over the n-grams of a document, and the highest scores are kept,
without a draw (`benchmarks/selection.py` compares these).

Legend: B buckets, n documents.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlmtune.config import CorpusConfig
from mlmtune.corpus.engine import Engine, Work
from mlmtune.corpus.filtering import DocumentTable
from mlmtune.corpus.ngrams import ngram_hashes, word_windows
from mlmtune.corpus.parts import Part, read_part
from mlmtune.corpus.sources import SOURCES_KEY, CorpusSource
from mlmtune.corpus.splitting import validation_mask
from mlmtune.errors import DataError

NUM_BUCKETS = 10_000

_PRIOR_NGRAMS = 100
_DOCUMENTS_AT_ONCE = 1024

_Block = tuple[Part, NDArray[np.int64]]
"""A part, and the rows of some of its documents."""


def ngram_counts(text: str) -> NDArray[np.int64]:
    """Return (B,) counts of the words of a text and its pairs of words in a row."""
    counts = np.zeros(NUM_BUCKETS, dtype=np.int64)
    for first, hashes in word_windows(text, 2):
        words, pairs = ngram_hashes(hashes, 2)
        # A later window begins with the last word of the one before, which was counted there.
        ngrams = np.concatenate([words[1:] if first else words, pairs])
        buckets = (ngrams % np.uint64(NUM_BUCKETS)).astype(np.int64)
        counts += np.bincount(buckets, minlength=NUM_BUCKETS)
    return counts


def log_ratios(domain: NDArray[np.int64], pool: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return (B,) the logarithm of each bucket's probability in the domain over that in the pool.

    The pool's probabilities are smoothed by one n-gram per bucket. The domain's are smoothed by as
    many n-grams, which are spread as those of the pool are (Zhai and Lafferty 2004, "A study of
    smoothing methods for language models", Dirichlet priors). So a small domain says little,
    and nothing about n-grams that it does not have.

    Args:
        domain: (B,) The counts of the domain's n-grams.
        pool: (B,) The counts of the pool's n-grams.
    """
    in_pool = (pool + 1) / (pool.sum() + NUM_BUCKETS)
    ratios: NDArray[np.float64] = (domain / in_pool + NUM_BUCKETS) / (domain.sum() + NUM_BUCKETS)
    return np.log(ratios)


def score(counts: NDArray[np.int64], ratios: NDArray[np.float64], pool_mean: float) -> float:
    """Return the mean log ratio of the n-grams of a text, in nats.

    The mean of a heading is high or low by chance. So the text is joined with 100 n-grams of the
    pool's mean, to which a text without words is equal.

    Args:
        counts: (B,) The counts of the n-grams of the text.
        ratios: (B,) The log ratios.
        pool_mean: The mean log ratio of all n-grams of the pool.
    """
    # Not a product of BLAS, whose order of additions depends on the machine.
    total = float((counts * ratios).sum()) + _PRIOR_NGRAMS * pool_mean
    return total / (int(counts.sum()) + _PRIOR_NGRAMS)


def ranking(scores: NDArray[np.float64], content_hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Return the positions of n documents, the highest score first.

    Of equal scores, the content decides, so that the choice does not depend on the order.
    """
    return np.lexsort((content_hashes, -scores))


class Selection(NamedTuple):
    """What was kept of a pool.

    Attributes:
        pool: The index of the source.
        domain: The index of the source that it is compared with.
        documents: (n,) The pool's documents, the most alike first.
        scores: (n,) Their scores.
        num_kept: The number of documents that are kept, which are the first ones.
        domain_median: The median score of the domain's own documents.
    """

    pool: int
    domain: int
    documents: NDArray[np.int64]
    scores: NDArray[np.float64]
    num_kept: int
    domain_median: float


def select(
    parts: list[Part],
    table: DocumentTable,
    sources: tuple[CorpusSource, ...],
    config: CorpusConfig,
    engine: Engine,
    *,
    is_small: bool,
) -> list[Selection]:
    """Leave out the documents of sources with `select` that are least like their domain.

    The domain is known by its training documents alone, so that nothing is chosen by text that the
    model is measured on. A pool is selected before its own documents are divided into sides, and
    both sides have the documents that were selected.

    Raises:
        DataError: The domain has no words to train on.
    """
    pools = [n for n, source in enumerate(sources) if source.config.select is not None]
    if not pools:
        return []
    kept = table.kept()
    of_sources = table.sources_of(kept)
    in_training = np.ones(len(kept), dtype=bool)
    if config.split_by == "document" and len(kept) > 1:
        in_training = ~validation_mask(table.content_hashes[kept], of_sources, config)
    texts, selections = _Texts(parts, table, engine, is_small), []
    for pool in pools:
        wanted = sources[pool].config.select
        assert wanted is not None
        index = config.index_of(wanted.like, SOURCES_KEY)
        domain = next(n for n, s in enumerate(sources) if s.key == f"{SOURCES_KEY}[{index}]")
        documents = kept[of_sources == pool]
        if len(documents) == 0:
            continue
        domain_counts = texts.counts(kept[in_training & (of_sources == domain)])
        if not domain_counts.any():
            raise DataError(
                f"{sources[pool].key}.select.like: {wanted.like} has no words to train on, with "
                "which documents could be compared; give it more text"
            )
        pool_counts = texts.counts(documents)
        ratios = log_ratios(domain_counts, pool_counts)
        pool_mean = float((pool_counts * ratios).sum()) / max(int(pool_counts.sum()), 1)
        scores = texts.scores(documents, ratios, pool_mean)
        order = ranking(scores, table.content_hashes[documents])
        num_kept = max(1, round(wanted.fraction * len(documents)))
        table.leave_out(documents[order[num_kept:]], "not_selected")
        median = float(np.median(texts.scores(kept[of_sources == domain], ratios, pool_mean)))
        selections.append(
            Selection(pool, domain, documents[order], scores[order], num_kept, median)
        )
    return selections


@dataclass(frozen=True)
class _Texts:
    """The texts of documents, which are read anew for each measure, because memory may be small."""

    parts: list[Part]
    table: DocumentTable
    engine: Engine
    is_small: bool

    def counts(self, documents: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return (B,) the counts of the n-grams of n documents together."""
        totals = np.zeros(NUM_BUCKETS, dtype=np.int64)
        for counts in self._blocks(_count, documents, None, "counting words"):
            totals += counts
        return totals

    def scores(
        self, documents: NDArray[np.int64], ratios: NDArray[np.float64], pool_mean: float
    ) -> NDArray[np.float64]:
        """Return (n,) the scores of n documents."""
        shared = (ratios, pool_mean)
        return np.concatenate([*self._blocks(_score, documents, shared, "scoring documents")])

    def _blocks(
        self,
        measure: Callable[[_Block, Any], NDArray[Any]],
        documents: NDArray[np.int64],
        shared: tuple[NDArray[np.float64], float] | None,
        what: str,
    ) -> Iterator[NDArray[Any]]:
        blocks = [
            (self.parts[part], rows)
            for part, rows in self.table.blocks(documents, _DOCUMENTS_AT_ONCE)
        ]
        work = Work(what, "document", is_small=self.is_small)
        sizes = [len(rows) for _, rows in blocks]
        return self.engine.map(measure, blocks, shared, work, sizes=sizes)


def _count(block: _Block, _: None) -> NDArray[np.int64]:
    """Return (B,) the counts of the n-grams of all documents of a block."""
    counts = np.zeros(NUM_BUCKETS, dtype=np.int64)
    for _id, text in read_part(*block):
        counts += ngram_counts(text)
    return counts


def _score(block: _Block, shared: tuple[NDArray[np.float64], float]) -> NDArray[np.float64]:
    """Return (n,) the scores of the n documents of a block."""
    return np.asarray([score(ngram_counts(text), *shared) for _, text in read_part(*block)])
