"""The curve of a merge: each merged model measured on the text of the run, with the same masks."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mlmtune.config import Config
from mlmtune.console import Console
from mlmtune.errors import ConfigError
from mlmtune.merging.choosing import best_of
from mlmtune.merging.findings import Point
from mlmtune.merging.weights import Interpolation
from mlmtune.numbers import perplexity
from mlmtune.report.estimates import perplexity as written
from mlmtune.report.findings import Measurement, Model, Text
from mlmtune.report.measurements import Measurements
from mlmtune.report.runs import FinishedRun

LARGEST_DRIFT = 0.01
"""Nats by which the base's loss may differ from what the run measured; devices differ by less."""


@dataclass(frozen=True)
class Curve:
    """The measured models, by alpha, and the texts; see `Merge`."""

    texts: tuple[Text, ...]
    points: tuple[Point, ...]


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
    measured, models = Measurements(runs, config), []
    for alpha in alphas:
        console.say(f"measuring alpha {alpha:g}")
        weights.write(folder, alpha)
        location = config.model.model_copy(update={"name_or_path": str(folder), "revision": None})
        base = None if alpha == 0 else "0"
        model = Model(f"{alpha:g}", base, str(folder), head_is_new=False, tokenizer="")
        models.append(measured.add(model, location, console))
        if alpha == 0 and not weights.new_weights:
            _check_base(runs[0], config, _texts(measured, models, "0")[0].measurements[0])
    texts = domain, *general = _texts(measured, models, "0")
    points = [
        Point(alpha, of_domain, None, general[0].measurements[number] if general else None)
        for number, (alpha, of_domain) in enumerate(zip(alphas, domain.measurements, strict=True))
    ]
    best = f"{best_of(points).alpha:g}"
    behind = _texts(measured, models, best)[0].measurements
    return Curve(
        tuple(replace(t, measurements=(), sources=(), specificity=()) for t in texts),
        tuple(
            replace(point, behind_best=m.change.loss if m.change is not None else None)
            for point, m in zip(points, behind, strict=True)
        ),
    )


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
    other = {"general", "max_forgetting", "examples", "every", "batch_size"}
    is_same = config.evaluation.model_dump(exclude=other) == run.config.evaluation.model_dump(
        exclude=other
    )
    if is_same and abs((base.loss.value or 0.0) - then) > LARGEST_DRIFT:
        raise ConfigError(
            f"{run.config.model.name_or_path} has changed since {run.path} started from it "
            f"(perplexity {perplexity(run.record.eval_results['perplexity_before'])} then, "
            f"{written(base.perplexity, with_interval=False)} now); restore that model"
        )
