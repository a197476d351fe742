"""The curve of a merge: each merged model measured on the text of the run, with the same masks."""

import gc
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from mlmtune.config import Config
from mlmtune.console import Console
from mlmtune.errors import ConfigError
from mlmtune.merging.choosing import best_by_retrieval, best_of
from mlmtune.merging.findings import OtherRun, Point
from mlmtune.merging.interpolation import Interpolation
from mlmtune.modeling.names import short_names
from mlmtune.numbers import perplexity
from mlmtune.report.estimates import perplexity as written
from mlmtune.report.findings import (
    Estimate,
    Measurement,
    Model,
    RetrievalFindings,
    RetrievalMeasurement,
    Text,
)
from mlmtune.report.measurements import Measurements
from mlmtune.report.retrieval import BM25
from mlmtune.report.runs import FinishedRun

LARGEST_DRIFT = 0.01
"""Nats by which the base's loss may differ from what the run measured; devices differ by less."""


class Curve:
    """Merged models, and runs beside them, measured on the same masks and by the same searches.

    Args:
        measured: The measurements of all models.
        merged: The merged models by alpha, rising, the base first.
        others: The runs beside them, by their path.

    Attributes:
        texts: The texts, without measurements; that of the domain comes first.
        points: The merged models, measured.
        bm25: What BM25 finds; None if retrieval was not measured.
        notes: What the reader must know about the numbers.
    """

    def __init__(
        self, measured: Measurements, merged: Mapping[float, Model], others: Mapping[Path, Model]
    ) -> None:
        self._measured, self._others = measured, others
        self._models = [*merged.values(), *others.values()]
        base = merged[0.0].name
        self._texts_from_base = self._texts(base)
        self._found = self._searches(base)
        self.texts = tuple(
            replace(text, measurements=(), sources=(), specificity=())
            for text in self._texts_from_base
        )
        self.bm25 = None if self._found is None else self._found.of(BM25)
        self.notes = tuple(filter(None, [measured.searches.why_not]))
        points = [
            Point(alpha, *self._measurements_of(model.name)) for alpha, model in merged.items()
        ]
        best, finder = best_of(points), best_by_retrieval(points)
        behind = self._differences(name_of(best.alpha))
        behind_finder = {} if finder is None else self._differences(name_of(finder.alpha))
        self.points = tuple(
            replace(
                point,
                behind_best=behind[name_of(point.alpha)][0] if point is not best else None,
                behind_best_retrieval=(
                    behind_finder[name_of(point.alpha)][2]
                    if behind_finder and point is not finder
                    else None
                ),
            )
            for point in points
        )

    def beside(self, alpha: float) -> tuple[OtherRun, ...]:
        """Return the other runs, compared with the model of an alpha."""
        differences = self._differences(name_of(alpha))
        runs = []
        for path, model in self._others.items():
            domain, general, retrieval = differences[model.name]
            assert domain is not None  # it is another model
            found = self._measurements_of(model.name)
            runs.append(OtherRun(model.name, str(path), *found, domain, general, retrieval))
        return tuple(runs)

    def _measurements_of(
        self, name: str
    ) -> tuple[Measurement, Measurement | None, RetrievalMeasurement | None]:
        domain, *general = (_of(name, text) for text in self._texts_from_base)
        found = None if self._found is None else self._found.of(name)
        return domain, general[0] if general else None, found

    def _differences(
        self, reference: str
    ) -> dict[str, tuple[Estimate | None, Estimate | None, Estimate | None]]:
        """Return how each model differs from one: losses on both texts, and nDCG at 10."""
        texts, found = self._texts(reference), self._searches(reference)
        differences = {}
        for model in self._models:
            changes = [_of(model.name, text).change for text in texts]
            domain, *general = (None if change is None else change.loss for change in changes)
            of_search = None if found is None else found.of(model.name).change
            differences[model.name] = (
                domain,
                general[0] if general else None,
                None if of_search is None else of_search.ndcg_at_10,
            )
        return differences

    def _texts(self, reference: str) -> tuple[Text, ...]:
        compared = [
            replace(model, compared_with=None if model.name == reference else reference)
            for model in self._models
        ]
        return self._measured.texts(compared)

    def _searches(self, reference: str) -> RetrievalFindings | None:
        names = [model.name for model in self._models]
        return self._measured.searches.findings(
            {name: None if name == reference else reference for name in names}
        )


def measure_curve(
    weights: Interpolation,
    runs: Sequence[FinishedRun],
    others: Sequence[FinishedRun],
    config: Config,
    alphas: Sequence[float],
    folder: Path,
    console: Console,
) -> Curve:
    """Measure the model of each alpha on the validation text and on general text.

    Args:
        weights: The weights of the models.
        runs: The runs that are merged; the text is that of the first.
        others: Runs that are only measured.
        config: The config of the first run, with the settings that the user has overridden.
        alphas: From 0 to 1, rising; both ends are among them.
        folder: The folder of a complete model, whose weights are replaced by those of each alpha.
        console: Shows the progress.

    Raises:
        ConfigError: The base is not what the run started from.
        DataError: The text has changed since training, or runs were validated on different text.
        ResourceError: Memory does not suffice for one chunk, or the disk is full.
    """
    measured = Measurements([*runs, *others], config)
    notes = console

    def measure(name: str, base: str | None, location: Path) -> Model:
        nonlocal notes
        console.say(f"measuring {name}")
        changes = {"name_or_path": str(location), "revision": None}
        model = Model(name, base, str(location), head_is_new=False, tokenizer="")
        model = measured.add(model, config.model.model_copy(update=changes), notes)
        gc.collect()  # the model refers to itself, and the next one needs its memory
        # All models have the same notes.
        notes = Console(is_quiet=not console.shows_bars, shows_lines=False)
        return model

    merged: dict[float, Model] = {}
    for alpha in alphas:
        weights.write(folder, alpha)
        merged[alpha] = measure(name_of(alpha), name_of(0) if merged else None, folder)
        if alpha == 0 and not weights.new_weights:
            _check_base(runs[0], config, _of(name_of(0), measured.texts([merged[0.0]])[0]))
    names = short_names([*(str(run.path) for run in (*runs, *others))])[len(runs) :]
    compared = {
        run.path: measure(name, name_of(0), run.model)
        for name, run in zip(names, others, strict=True)
    }
    return Curve(measured, merged, compared)


def name_of(alpha: float) -> str:
    """Return the name of a merged model."""
    return f"alpha {alpha:g}"


def _of(name: str, text: Text) -> Measurement:
    return next(measured for measured in text.measurements if measured.model == name)


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
