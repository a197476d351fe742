"""Models compared by the documents that they find, query by query."""

from collections.abc import Callable, Mapping

import numpy as np

from mlmtune.config import Config
from mlmtune.errors import DataError
from mlmtune.evaluation.bm25 import bm25
from mlmtune.evaluation.bootstrap import resampled
from mlmtune.evaluation.retrieval import Retrieval, RetrievalProbe
from mlmtune.report.findings import (
    Estimate,
    RetrievalFindings,
    RetrievalMeasurement,
    RetrievalMeasures,
)
from mlmtune.training.setup import ModelAndText

BM25 = "BM25"
"""The name that BM25 has among the models."""


class Searches:
    """What models have found of the documents of one text, added model by model.

    Attributes:
        why_not: Why nothing is measured, in a sentence; None if it is.
    """

    def __init__(self) -> None:
        self.why_not: str | None = None
        self._results: dict[str, Retrieval] = {}
        self._bm25: Retrieval | None = None

    def add(
        self,
        name: str,
        setup: ModelAndText,
        config: Config,
        search: Callable[[RetrievalProbe], Retrieval | None],
    ) -> None:
        """Let a model search by a function, unless the text has too few documents."""
        try:
            probe = RetrievalProbe.of(setup.splits, setup.loaded, config.corpus, config.evaluation)
        except DataError as error:
            self.why_not = str(error)
            return
        found = search(probe)
        assert found is not None  # None means that it was stopped, which nothing does here
        self._results[name] = found
        if self._bm25 is None:  # of the first model's text, which others cut a little differently
            self._bm25 = bm25(probe.pool, setup.loaded.tokenizer)

    def findings(self, bases: Mapping[str, str | None]) -> RetrievalFindings | None:
        """Compare each model with its base, by name; None if nothing was measured."""
        if self._bm25 is None:
            return None
        return compare_retrieval({**self._results, BM25: self._bm25}, bases)


def compare_retrieval(
    results: Mapping[str, Retrieval], bases: Mapping[str, str | None]
) -> RetrievalFindings:
    """Compare models that searched the same pool, with intervals by its documents.

    Args:
        results: The result of each model, by its name, and that of BM25.
        bases: The name of the base of each model; None, or no entry, for a base and for BM25.
    """
    numbers = {name: number for number, name in enumerate(results)}
    by_query = np.stack([result.by_query() for result in results.values()], axis=1)  # (N, K, 4)
    num_queries = len(by_query)
    draws = resampled(by_query.reshape(num_queries, -1)) / num_queries
    draws, means = draws.reshape(-1, *by_query.shape[1:]), by_query.mean(axis=0)

    def difference(name: str, other: str) -> RetrievalMeasures:
        # The draws are the same for both models, so the difference is taken draw by draw.
        of, its = numbers[name], numbers[other]
        values = Estimate.of_each(means[of] - means[its], draws[:, of] - draws[:, its])
        return RetrievalMeasures(*values)

    measured = []
    for name, number in numbers.items():
        base = bases.get(name)
        measured.append(
            RetrievalMeasurement(
                model=name,
                measures=RetrievalMeasures(*Estimate.of_each(means[number], draws[:, number])),
                change=None if base is None else difference(name, base),
                against_bm25=None if name == BM25 else difference(name, BM25).ndcg_at_10,
                anisotropy=results[name].anisotropy,
            )
        )
    some = next(iter(results.values()))
    return RetrievalFindings(num_queries, some.num_titles, tuple(measured))
