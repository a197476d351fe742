"""Models compared by the documents that they find, query by query."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from mlmtune.evaluation.retrieval import Retrieval
from mlmtune.report.bootstrap import estimate, resampled
from mlmtune.report.findings import RetrievalFindings, RetrievalMeasurement, RetrievalMeasures

BM25 = "BM25"
"""The name that BM25 has among the models."""


def compare_retrieval(
    results: Mapping[str, Retrieval], bases: Mapping[str, str | None]
) -> RetrievalFindings:
    """Compare models that searched the same pool, with intervals by its documents.

    Args:
        results: The result of each model, by its name.
        bases: The name of the base of each model; None, or no entry, for a base and for BM25.
    """
    numbers = {name: number for number, name in enumerate(results)}
    by_query = np.stack([result.by_query() for result in results.values()], axis=1)  # (N, K, 4)
    num_queries = len(by_query)
    draws = resampled(by_query.reshape(num_queries, -1)) / num_queries
    draws, means = draws.reshape(-1, *by_query.shape[1:]), by_query.mean(axis=0)
    measured = []
    for name, number in numbers.items():
        change, base = None, bases.get(name)
        if base is not None:
            # The draws are the same for both models, so the difference is taken draw by draw.
            other = numbers[base]
            change = _measures(means[number] - means[other], draws[:, number] - draws[:, other])
        measures = _measures(means[number], draws[:, number])
        anisotropy = results[name].anisotropy
        measured.append(RetrievalMeasurement(name, measures, change, anisotropy))
    some = next(iter(results.values()))
    return RetrievalFindings(num_queries, some.num_titles, tuple(measured))


def _measures(means: NDArray[np.float64], draws: NDArray[np.float64]) -> RetrievalMeasures:
    return RetrievalMeasures(
        *(estimate(float(mean), of_mean) for mean, of_mean in zip(means, draws.T, strict=True))
    )
