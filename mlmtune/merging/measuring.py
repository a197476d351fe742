"""The curve of a merge: each merged model measured on the text of the run, with the same masks."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mlmtune.config import Config
from mlmtune.console import Console
from mlmtune.errors import ConfigError
from mlmtune.merging.choosing import best_by_retrieval, best_of
from mlmtune.merging.findings import Point
from mlmtune.merging.interpolation import Interpolation
from mlmtune.numbers import perplexity
from mlmtune.report.estimates import perplexity as written
from mlmtune.report.findings import Measurement, Model, RetrievalMeasurement, Text
from mlmtune.report.measurements import Measurements
from mlmtune.report.retrieval import BM25
from mlmtune.report.runs import FinishedRun

LARGEST_DRIFT = 0.01
"""Nats by which the base's loss may differ from what the run measured; devices differ by less."""


@dataclass(frozen=True)
class Curve:
    """The measured models, by alpha, the texts, and notes; see `Merge`."""

    texts: tuple[Text, ...]
    points: tuple[Point, ...]
    bm25: RetrievalMeasurement | None
    notes: tuple[str, ...]


def measure_curve(
    weights: Interpolation,
    runs: Sequence[FinishedRun],
    config: Config,
    alphas: Sequence[float],
    folder: Path,
    console: Console,
) -> Curve:
    """Measure the model of each alpha on the validation text and on general text.

    Args:
        weights: The weights of the models.
        runs: The runs that are merged; the text is that of the first.
        config: The config of the first run, with the settings that the user has overridden.
        alphas: From 0 to 1, rising; both ends are among them.
        folder: The folder of a complete model, whose weights are replaced by those of each alpha.
        console: Shows the progress.

    Raises:
        ConfigError: The base is not what the run started from.
        DataError: The text has changed since training, or runs were validated on different text.
        ResourceError: Memory does not suffice for one chunk, or the disk is full.
    """
    measured, models = Measurements(runs, config), list[Model]()
    notes = console
    for alpha in alphas:
        console.say(f"measuring alpha {alpha:g}")
        weights.write(folder, alpha)
        location = config.model.model_copy(update={"name_or_path": str(folder), "revision": None})
        base = models[0].name if models else None
        model = Model(name_of(alpha), base, str(folder), head_is_new=False, tokenizer="")
        models.append(measured.add(model, location, notes))
        # All models have the same notes.
        notes = Console(is_quiet=not console.shows_bars, shows_lines=False)
        if alpha == 0 and not weights.new_weights:
            _check_base(runs[0], config, _texts(measured, models, model.name)[0].measurements[0])
    texts = domain, *general = _texts(measured, models, models[0].name)
    found = measured.searches.findings({model.name: model.base for model in models})
    points = [
        Point(
            alpha,
            domain.measurements[number],
            behind_best=None,
            general=general[0].measurements[number] if general else None,
            retrieval=None if found is None else found.of(name_of(alpha)),
        )
        for number, alpha in enumerate(alphas)
    ]
    return Curve(
        tuple(replace(t, measurements=(), sources=(), specificity=()) for t in texts),
        tuple(_compared_with_best(points, measured, models)),
        bm25=None if found is None else found.of(BM25),
        notes=tuple(filter(None, [measured.searches.why_not])),
    )


def name_of(alpha: float) -> str:
    """Return the name of a merged model."""
    return f"alpha {alpha:g}"


def _compared_with_best(
    points: Sequence[Point], measured: Measurements, models: Sequence[Model]
) -> list[Point]:
    """Return the points with how far each is behind the best, by its loss and by retrieval."""
    behind = _texts(measured, models, name_of(best_of(points).alpha))[0].measurements
    compared = [
        replace(point, behind_best=None if m.change is None else m.change.loss)
        for point, m in zip(points, behind, strict=True)
    ]
    if (finder := best_by_retrieval(points)) is None:
        return compared
    best = name_of(finder.alpha)
    found = measured.searches.findings({m.name: None if m.name == best else best for m in models})
    assert found is not None  # it was measured
    changes = [found.of(model.name).change for model in models]
    return [
        replace(point, behind_best_retrieval=None if c is None else c.ndcg_at_10)
        for point, c in zip(compared, changes, strict=True)
    ]


def _texts(measured: Measurements, models: Sequence[Model], reference: str) -> tuple[Text, ...]:
    """Return the measurements on each text, with the changes from one of the models."""
    return measured.texts(
        [
            replace(model, compared_with=None if model.name == reference else reference)
            for model in models
        ]
    )


def _check_base(run: FinishedRun, config: Config, base: Measurement) -> None:
    """Refuse a base that no longer predicts as it did when the run began."""
    then = run.record.eval_results["loss_before"]
    other = {"general", "max_forgetting", "examples", "every", "batch_size", "retrieval"}
    settings, of_run = (c.evaluation.model_dump(exclude=other) for c in (config, run.config))
    if settings == of_run and abs((base.loss.value or 0.0) - then) > LARGEST_DRIFT:
        raise ConfigError(
            f"{run.config.model.name_or_path} has changed since {run.path} started from it "
            f"(perplexity {perplexity(run.record.eval_results['perplexity_before'])} then, "
            f"{written(base.perplexity, with_interval=False)} now); restore that model"
        )
