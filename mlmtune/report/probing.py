"""Models compared on a task by what they predict of its test."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mlmtune.classification.probed_tasks import ProbedTask
from mlmtune.classification.sides import Side
from mlmtune.console import Console
from mlmtune.corpus.overlap import OverlapIndex
from mlmtune.corpus.text import CorpusText
from mlmtune.errors import MlmtuneError
from mlmtune.evaluation import bootstrap
from mlmtune.printable import counted
from mlmtune.report.estimates import change, points
from mlmtune.report.findings import METHOD_NAMES, METRIC_NAMES, Estimate, Method, Probe, ProbeRow
from mlmtune.report.runs import FinishedRun

OVERLAP_WORDS = 13
"""Words in a row that count as an overlap, as in `corpus.exclude_overlap_with`."""

Size = int | Literal["all"]
"""A number of training examples."""


@dataclass(frozen=True)
class ProbedModel:
    """A model that is probed, with a short name, and the run that produced it if one did."""

    name: str
    location: str
    run: FinishedRun | None


@dataclass(frozen=True)
class ProbeSetting:
    """The method and the number of training examples with which all models are compared."""

    method: Method
    size: Size

    def __str__(self) -> str:
        return f"{METHOD_NAMES[self.method]} on {self.size}"


Predictions = Mapping[tuple[ProbeSetting, str], NDArray[np.int64]]
"""(S, R) predictions of the test by S seeds, for each setting and model; see `probed_tasks`."""


def compare_on_task(
    name: str,
    models: Sequence[ProbedModel],
    task: ProbedTask[Any],
    predictions: Predictions,
    console: Console,
) -> Probe:
    """Compare models with the first of them by what they predict of the test of a task."""
    data, rows = task.data, list[ProbeRow]()
    for setting in dict.fromkeys(setting for setting, _ in predictions):
        by_model = {model.name: predictions[setting, model.name] for model in models}
        num_train_examples = len(data.train) if setting.size == "all" else setting.size
        rows += _rows(setting.method, num_train_examples, by_model, task)
    metric = METRIC_NAMES[task.metrics[-1]]
    return Probe(
        task=name,
        num_test_examples=len(task.test),
        measured_on=task.measured_on,
        metrics=task.metrics,
        models=tuple(model.name for model in models),
        rows=tuple(rows),
        sentences=tuple(sentences(rows, models[0].name, metric)),
        notes=(
            *data.notes,
            *what_says_little(task, predictions),
            *_overlaps(models, task.test, console),
        ),
        format_version=2,
    )


def _rows(
    method: Method,
    num_train_examples: int,
    predictions: Mapping[str, NDArray[np.int64]],
    task: ProbedTask[Any],
) -> Iterator[ProbeRow]:
    """Yield the row of each model in one setting, from (S, R) predictions of the test."""
    reference: tuple[float, NDArray[np.float64]] | None = None
    for model, of_model in predictions.items():
        by_metric = tuple(zip(*(task.scores(task.test, seed) for seed in of_model), strict=True))
        mean, draws, difference = float(np.mean(by_metric[-1])), resampled(task, of_model), None
        if reference is None:
            reference = mean, draws
        else:
            difference = Estimate.of(mean - reference[0], draws - reference[1])
        yield ProbeRow(method, num_train_examples, model, by_metric, difference)


def what_says_little(task: ProbedTask[Any], predictions: Predictions) -> Iterator[str]:
    """Note the settings whose comparison says little about the models."""
    for setting in dict.fromkeys(setting for setting, _ in predictions):
        of_setting = [by_seed for (other, _), by_seed in predictions.items() if other == setting]
        reason = task.why_worthless([of_seed for by_seed in of_setting for of_seed in by_seed])
        if reason is not None:
            yield f"{setting}: {reason}, so how they differ says little"
        if setting.method == "finetuned" and len(of_setting[0]) == 1:
            yield (
                f"{setting}: with one seed the interval does not include how much seeds differ; "
                "raise probe.seeds"
            )


def resampled(task: ProbedTask[Any], predictions: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return (NUM_RESAMPLES,) the mean score of S seeds, resampled over examples and over seeds.

    Both are drawn with replacement and independently, so that the interval covers other examples
    and other seeds. Every model gets the same draws: seed s trains all models on the same examples
    in the same order, so the seeds of two models pair. `predictions` are (S, R).
    """
    num_seeds = len(predictions)
    by_example = np.stack([task.counts(of_seed) for of_seed in predictions], axis=1)  # (n, S, C)
    sums = bootstrap.resampled(by_example.reshape(len(by_example), -1))
    scores = task.score_of(sums.reshape(-1, *by_example.shape[1:]))
    generator = np.random.default_rng((bootstrap.SEED, num_seeds))  # apart from the examples' draws
    drawn = generator.integers(num_seeds, size=scores.shape)
    means: NDArray[np.float64] = np.take_along_axis(scores, drawn, axis=1).mean(axis=1)
    return means


def _overlaps(models: Sequence[ProbedModel], test: Side, console: Console) -> Iterator[str]:
    """Note models of runs whose corpus shares text with the test examples."""
    runs = [(model.name, model.run) for model in models if model.run]
    if not runs:
        return
    index = OverlapIndex.of((text for texts in test.texts for text in texts), OVERLAP_WORDS)
    for name, run in runs:
        try:
            text = CorpusText.of(run.config.corpus, run.config.tokenization, console)
            num_shared = sum(
                index.first_shared(document.text) is not None
                for document in text.listed().read().documents()
            )
        except MlmtuneError as error:
            yield (
                f"whether {name} has read test texts could not be looked up, because the corpus of "
                f"its run cannot be read ({error})"
            )
            continue
        if num_shared:
            yield (
                f"{name} may have read part of the test: {counted(num_shared, 'document')} of its "
                f"corpus with {OVERLAP_WORDS} words in a row of a test text, or a whole shorter "
                "one; leave them out by corpus.exclude_overlap_with"
            )


def sentences(rows: Sequence[ProbeRow], reference: str, metric: str) -> Iterator[str]:
    """Say in one sentence how each model differs from the reference, by the metric compared."""
    for model in dict.fromkeys(row.model for row in rows if row.difference is not None):
        settings: dict[str, list[str]] = {"better": [], "worse": [], "no clear difference": []}
        for row in rows:
            if row.model == model and row.difference is not None:
                verdict = change(row.difference, is_loss=False)
                kind = "no clear difference" if verdict == "unclear" else verdict
                setting = f"{METHOD_NAMES[row.method]} on {row.num_train_examples:,}"
                settings[kind].append(f"{setting} ({points(row.difference)})")
        parts = [f"{kind} {', '.join(named)}" for kind, named in settings.items() if named]
        yield f"{model} against {reference}, {metric} in points: {'; '.join(parts)}."
