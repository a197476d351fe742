"""`mlmtune probe`: models side by side on a task, frozen and fine-tuned."""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xxhash
from accelerate import Accelerator
from numpy.typing import NDArray

from mlmtune.classification.batches import EncodedExamples
from mlmtune.classification.frozen import check_available, fit_and_predict
from mlmtune.classification.metrics import (
    accuracy,
    confusion_matrix,
    gain_over_majority,
    macro_f1,
)
from mlmtune.classification.prediction import mean_pooled
from mlmtune.classification.sequence_classification import classification_of
from mlmtune.classification.task_data import Side, TaskData, read_task_data, subset
from mlmtune.config import ClassificationConfig, TrackingConfig
from mlmtune.console import Console, table
from mlmtune.corpus.corpus import read_corpus
from mlmtune.corpus.overlap import OverlapIndex
from mlmtune.corpus.scanning import scan
from mlmtune.errors import ConfigError, MlmtuneError
from mlmtune.files import read_json, write_json, write_text
from mlmtune.locations import cache_directory, expand_home, resolve, run_directory
from mlmtune.modeling.device import build_accelerator, precision_of
from mlmtune.modeling.loading import LoadedModel, load_classifier
from mlmtune.modeling.locating import locate_model
from mlmtune.modeling.names import short_names
from mlmtune.printable import counted, in_markdown
from mlmtune.report.bootstrap import NUM_RESAMPLES, SEED, estimate
from mlmtune.report.findings import Probe, ProbeRow
from mlmtune.report.many_runs import train_one_of_many
from mlmtune.report.numbers import change, points
from mlmtune.report.rendering import probe_table
from mlmtune.report.report import renew_report
from mlmtune.report.runs import FinishedRun, open_run
from mlmtune.training.run_dir import RunDir

FEWEST_EVALUATIONS, MOST_EVALUATIONS = 3, 10
"""Of a fit. In between, evaluating takes about as long as training: a step forward and back takes
three times as long as one forward."""
OVERLAP_WORDS = 13
"""In a row, as in `corpus.exclude_overlap_with`."""

Method = Literal["frozen", "finetuned"]


@dataclass(frozen=True)
class Candidate:
    """A model that is probed.

    Attributes:
        name: short, for tables.
        location: folder, hub name, or `package://NAME/FOLDER`.
        run: the run that it is the result of, if it is one's.
    """

    name: str
    location: str
    run: FinishedRun | None


@dataclass(frozen=True)
class Setting:
    """What all models are set side by side in.

    Attributes:
        method: how.
        size: training examples, or all.
    """

    method: Method
    size: int | Literal["all"]

    def __str__(self) -> str:
        """For people."""
        method = "frozen" if self.method == "frozen" else "fine-tuned"
        return f"{method} on {self.size}"


def probe(
    config: ClassificationConfig, models: Sequence[str], console: Console, *, as_json: bool
) -> None:
    """Measure each model on the task, print it, and write it where it belongs.

    Args:
        config: of the task.
        models: folders, hub names, `package://NAME/FOLDER`, or directories of runs. The first is
            what the others are compared with; before a run alone its base is put.
        console: shows how far it is; prints the table.
        as_json: probe.json's content instead of the table.

    Raises:
        ConfigError: there is no test, or a model does not fit.
        Interrupted: by a signal; what is finished is kept.
        MlmtuneError: the examples or a model cannot be had.
    """
    if config.data.test is None and config.data.test_fraction is None:
        raise ConfigError(
            "data.test: models are compared on a test; name one, or set data.test_fraction"
        )
    if "frozen" in config.probe.methods:
        check_available()
    candidates = _candidates(models)
    data = read_task_data(config.data, console.say)
    for candidate in candidates:
        # A fault of the last is not to be found after hours.
        _, loaded = _load(candidate, config, data)
        for note in loaded.notes:
            console.say(note)
        del loaded
    folder = Path(f"{expand_home(config.run.output_dir)}-probe")
    folder.mkdir(parents=True, exist_ok=True)

    predictions: dict[tuple[Setting, str], NDArray[np.int64]] = {}
    for method in config.probe.methods:
        settings = [Setting(method, size) for size in _sizes(config, data)]
        measure = _frozen if method == "frozen" else partial(_finetuned, folder=folder)
        for candidate in candidates:
            found = measure(candidate, config, data, settings, console)
            predictions |= {(setting, candidate.name): found[setting] for setting in settings}

    result = _compare(config, candidates, data, predictions, console)
    write_json(folder / "probe.json", result.to_json())
    write_text(folder / "probe.md", to_markdown(result))
    for candidate in candidates:
        if candidate.run is not None:
            _keep_in_run(candidate.run.path, result, console)
    if as_json:
        console.result(json.dumps(result.to_json(), indent=2, ensure_ascii=False))
        return
    for line in describe(result):
        console.result(line)
    console.result(f"written to {folder / 'probe.md'} (also as .json)")


# ---------------------------------------------------------------------------------------- models


def _candidates(models: Sequence[str]) -> list[Candidate]:
    """The models, a run's by its directory or its folder `model`.

    Raises:
        ConfigError: there is nothing to compare, or a run is not finished.
    """
    found: list[tuple[str, FinishedRun | None]] = []
    for model in models:
        directory = run_directory(resolve(model))
        # A classifier's run has no base that it is compared with.
        is_of_text = directory is not None and not (directory / "data.json").exists()
        run = open_run(directory) if directory is not None and is_of_text else None
        found.append((model if run is None else str(run.model), run))
    if len(found) == 1:
        run = found[0][1]
        if run is None:
            raise ConfigError(
                "--model: give two models at least, the base first; or the directory of a run, "
                "which is compared with its base"
            )
        found.insert(0, (run.config.model.name_or_path, None))
    names = short_names([location for location, _ in found])
    return [Candidate(name, *one) for name, one in zip(names, found, strict=True)]


def _sizes(config: ClassificationConfig, data: TaskData) -> list[int | Literal["all"]]:
    """Numbers of training examples; what is no fewer than all is all."""
    sizes: list[int | Literal["all"]] = [
        "all" if size == "all" or size >= len(data.train) else size
        for size in config.probe.train_sizes
    ]
    return list(dict.fromkeys(sizes))


def _load(
    candidate: Candidate, config: ClassificationConfig, data: TaskData
) -> tuple[Accelerator, LoadedModel]:
    """The model with a new head for the task, where it is to run.

    Raises:
        MlmtuneError: it is not there, or does not fit the task.
    """
    accelerator = build_accelerator(config.training.precision)
    loaded = load_classifier(
        config.model.model_copy(update={"name_or_path": candidate.location}),
        labels=data.labels,
        max_length=config.data.max_length,
        device=accelerator.device,
        precision=precision_of(accelerator),
        seed=config.run.seed,
        found=locate_model(candidate.location, None, "--model"),
    )
    return accelerator, loaded


# ---------------------------------------------------------------------------------------- frozen


def _frozen(
    candidate: Candidate,
    config: ClassificationConfig,
    data: TaskData,
    settings: Sequence[Setting],
    console: Console,
) -> dict[Setting, NDArray[np.int64]]:
    """(S, n) predictions of the test by seed, in each setting; all examples need one fit."""
    console.say(f"{candidate.name}, frozen: {counted(len(data.train), 'training example')}")
    accelerator, loaded = _load(candidate, config, data)

    def features(side: Side) -> NDArray[np.float32]:
        examples = EncodedExamples.of(
            side, loaded, config.data.max_length, [1.0] * len(data.labels)
        )
        return mean_pooled(accelerator, loaded.model, examples, config.evaluation.batch_size)

    assert data.test is not None
    sides = (data.train, data.validation, data.test)
    train_features, validation, test = map(
        features, console.counted(sides, total=len(sides), unit="side", what="features")
    )

    def predictions(size: int | Literal["all"], seed: int) -> NDArray[np.int64]:
        labels = data.train.labels
        chosen = np.arange(len(labels)) if size == "all" else subset(labels, size, seed)
        return fit_and_predict(
            (train_features[chosen], labels[chosen]),
            (validation, data.validation.labels),
            test,
            config.data.class_weights,
        )

    return {
        setting: np.stack(
            [
                predictions(setting.size, seed)
                for seed in (_seeds(config)[:1] if setting.size == "all" else _seeds(config))
            ]
        )
        for setting in settings
    }


def _seeds(config: ClassificationConfig) -> list[int]:
    return [config.run.seed + number for number in range(config.probe.seeds)]


# ------------------------------------------------------------------------------------ fine-tuned


def _finetuned(
    candidate: Candidate,
    config: ClassificationConfig,
    data: TaskData,
    settings: Sequence[Setting],
    console: Console,
    *,
    folder: Path,
) -> dict[Setting, NDArray[np.int64]]:
    """(S, n) predictions of the test by seed, in each setting; a fit that is kept is not redone."""
    fits = [(setting, seed) for setting in settings for seed in _seeds(config)]
    found: dict[Setting, list[NDArray[np.int64]]] = {setting: [] for setting in settings}
    for number, (setting, seed) in enumerate(fits, start=1):
        predictions = _fit(candidate, config, data, setting, seed, folder / "fits", console)
        found[setting].append(predictions)
        assert data.test is not None
        f1 = macro_f1(confusion_matrix(data.test.labels, predictions, len(data.labels)))
        console.say(
            f"{candidate.name}, fine-tuned {number}/{len(fits)}: {setting.size} examples, seed "
            f"{seed}: macro-F1 {100 * float(f1):.1f}"
        )
    return {setting: np.stack(predictions) for setting, predictions in found.items()}


def _fit(
    candidate: Candidate,
    config: ClassificationConfig,
    data: TaskData,
    setting: Setting,
    seed: int,
    folder: Path,
    console: Console,
) -> NDArray[np.int64]:
    """(n,) predictions of the test by a classifier that is trained for them, and then deleted."""
    fit = _config_of_fit(candidate, config, data, setting, seed)
    settings = fit.model_dump(exclude={"probe", "tracking", "hub"})
    digest = xxhash.xxh3_64_hexdigest(
        repr((settings, data.fingerprint, _state_of(candidate))).encode()
    )
    path = folder / f"{setting.size}-{seed}-{digest}"
    kept = path.with_name(f"{path.name}.json")
    content = read_json(kept)
    if content is None or "predictions" not in content:
        run_config = fit.run.model_copy(update={"output_dir": str(path)})

        def build(of_fit: ClassificationConfig, accelerator: Accelerator, _: Console) -> Any:
            return classification_of(data, of_fit, accelerator)

        train_one_of_many(fit.model_copy(update={"run": run_config}), build, console)
        lines = (path / "test_predictions.jsonl").read_text(encoding="utf-8").splitlines()
        content = {"predictions": [json.loads(line)["prediction"] for line in lines]}
        write_json(kept, content)
        shutil.rmtree(path)
    numbers = {label: number for number, label in enumerate(data.labels)}
    return np.asarray([numbers[label] for label in content["predictions"]], dtype=np.int64)


def _config_of_fit(
    candidate: Candidate,
    config: ClassificationConfig,
    data: TaskData,
    setting: Setting,
    seed: int,
) -> ClassificationConfig:
    """The task's config for one fit: few examples get steps enough, and are evaluated as often."""
    size = len(data.train) if setting.size == "all" else setting.size
    training = config.training
    steps = training.max_steps
    if steps is None and training.max_tokens is None:
        epochs = training.epochs or 3.0
        steps = max(config.probe.min_steps, int(-(-epochs * size // training.global_batch_size)))
        training = training.model_copy(update={"max_steps": steps, "epochs": None})
    every: int | str = "epoch"
    if steps is not None:
        affordable = 3 * steps * training.global_batch_size // len(data.validation)
        count = min(max(affordable, FEWEST_EVALUATIONS), MOST_EVALUATIONS)
        every = max(1, steps // count)
    changes: dict[str, dict[str, Any]] = {
        "run": {"seed": seed},
        "model": {"name_or_path": candidate.location},
        "data": {"max_train_examples": None if setting.size == "all" else setting.size},
        "evaluation": {"every": every},
        "checkpoint": {"every": None, "keep": 1, "export": "best"},
    }
    return config.model_copy(
        update={"training": training, "tracking": TrackingConfig()}
        | {
            section: getattr(config, section).model_copy(update=values)
            for section, values in changes.items()
        }
    )


def _state_of(candidate: Candidate) -> list[tuple[str, int, int]]:
    """Changes when a local model's files do."""
    folder = Path(candidate.location).expanduser()
    with suppress(OSError):
        folder = resolve(candidate.location)
    files = sorted(folder.glob("*")) if folder.is_dir() else []
    return [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]


# ------------------------------------------------------------------------------------- comparing


def _compare(
    config: ClassificationConfig,
    candidates: Sequence[Candidate],
    data: TaskData,
    predictions: dict[tuple[Setting, str], NDArray[np.int64]],
    console: Console,
) -> Probe:
    assert data.test is not None
    labels = data.test.labels
    rows = []
    reference = candidates[0].name
    for setting in dict.fromkeys(setting for setting, _ in predictions):
        draws = {
            candidate.name: resampled_macro_f1(
                labels, predictions[setting, candidate.name], len(data.labels)
            )
            for candidate in candidates
        }
        for candidate in candidates:
            confusions = np.stack(
                [
                    confusion_matrix(labels, of_seed, len(data.labels))
                    for of_seed in predictions[setting, candidate.name]
                ]
            )
            f1s = macro_f1(confusions)
            difference = None
            if candidate.name == reference:
                base_f1 = float(f1s.mean())
            else:
                drawn = draws[candidate.name] - draws[reference]
                difference = estimate(float(f1s.mean()) - base_f1, drawn)
            rows.append(
                ProbeRow(
                    method=setting.method,
                    num_train_examples=(len(data.train) if setting.size == "all" else setting.size),
                    model=candidate.name,
                    accuracies=tuple(accuracy(confusions).tolist()),
                    macro_f1s=tuple(f1s.tolist()),
                    difference=difference,
                )
            )
    return Probe(
        task=Path(config.run.output_dir).name,
        num_test_examples=len(labels),
        labels=data.labels,
        models=tuple(candidate.name for candidate in candidates),
        rows=tuple(rows),
        sentences=tuple(sentences(rows, reference)),
        notes=(
            *data.notes,
            *what_says_little(data.labels, labels, predictions),
            *_overlaps(candidates, data.test, console),
        ),
    )


def what_says_little(
    names: Sequence[str],
    labels: NDArray[np.int64],
    predictions: Mapping[tuple[Setting, str], NDArray[np.int64]],
) -> Iterator[str]:
    """Settings whose comparison says little of the models.

    Args:
        names: of the labels, by number.
        labels: (n,) of the test.
        predictions: (S, n) by seed, of each setting and model.
    """
    for setting in dict.fromkeys(setting for setting, _ in predictions):
        of_setting = [found for (other, _), found in predictions.items() if other == setting]
        gains = [
            gain_over_majority(confusion_matrix(labels, of_seed, len(names)))
            for found in of_setting
            for of_seed in found
        ]
        if all(gain.interval[0] <= 0 for gain in gains):
            yield (
                f"{setting}: no model is clearly more accurate than always answering "
                f"{names[gains[0].label]!r} ({gains[0].share:.1%}), so how they differ says little"
            )
        if setting.method == "finetuned" and len(of_setting[0]) == 1:
            yield (
                f"{setting}: with one seed the interval says nothing of how much seeds differ; "
                "raise probe.seeds"
            )


def resampled_macro_f1(
    labels: NDArray[np.int64], predictions: NDArray[np.int64], num_labels: int
) -> NDArray[np.float64]:
    """Macro-F1 with test examples and seeds drawn anew, the same ones whatever the predictions.

    Both are drawn with replacement, each apart from the other: what is said holds for other
    examples and other seeds. A model's seeds pair with another's, as seed s takes the same training
    examples in the same order.

    Args:
        labels: (n,) of the test.
        predictions: (S, n) by seed.
        num_labels: K.

    Returns:
        (NUM_RESAMPLES,)
    """
    generator = np.random.default_rng(SEED)
    num_seeds, num_examples = predictions.shape
    counts = generator.multinomial(
        num_examples, np.full(num_examples, 1 / num_examples), size=NUM_RESAMPLES
    )
    cells = labels * num_labels + predictions
    f1s = np.empty((NUM_RESAMPLES, num_seeds))
    for seed in range(num_seeds):
        is_in_cell = np.zeros((num_examples, num_labels**2))
        is_in_cell[np.arange(num_examples), cells[seed]] = 1.0
        confusions = (counts @ is_in_cell).astype(np.int64)
        f1s[:, seed] = macro_f1(confusions.reshape(-1, num_labels, num_labels))
    drawn = generator.integers(num_seeds, size=(NUM_RESAMPLES, num_seeds))
    means: NDArray[np.float64] = np.take_along_axis(f1s, drawn, axis=1).mean(axis=1)
    return means


def _overlaps(candidates: Sequence[Candidate], test: Side, console: Console) -> Iterator[str]:
    """What of the test a run's model may have read, as far as the corpus is still there."""
    runs = [(candidate.name, candidate.run) for candidate in candidates if candidate.run]
    if not runs:
        return
    index = OverlapIndex.of((text for texts in test.texts for text in texts), OVERLAP_WORDS)
    for name, run in runs:
        corpus, cache = run.config.corpus, run.config.tokenization.cache_dir
        try:
            listing = scan(corpus, cache_directory(cache, "git"), console.say)
            cleaned = cache_directory(cache, "cleaned")
            documents = read_corpus(corpus, listing, cleaned, console).documents()
            num_shared = sum(
                index.first_shared(document.text) is not None for document in documents
            )
        except MlmtuneError as error:
            yield (
                f"whether {name} has read test texts could not be looked up: the corpus of its run "
                f"is not to be had ({error})"
            )
            continue
        if num_shared:
            yield (
                f"{name} may have read part of the test: {counted(num_shared, 'document')} of its "
                f"corpus with {OVERLAP_WORDS} words in a row of a test text, or a whole shorter "
                "one; leave them out by corpus.exclude_overlap_with"
            )


# --------------------------------------------------------------------------------------- telling


def sentences(rows: Sequence[ProbeRow], reference: str) -> Iterator[str]:
    """What the rows show of each model but the first, in a sentence."""
    for model in dict.fromkeys(row.model for row in rows if row.difference is not None):
        found: dict[str, list[str]] = {"better": [], "worse": [], "unclear": []}
        for row in rows:
            if row.model == model and row.difference is not None:
                kind = change(row.difference, is_loss=False)
                found[kind].append(f"{row.setting} ({points(row.difference)})")
        parts = [
            f"{word} {', '.join(found[kind])}"
            for kind, word in (
                ("better", "better"), ("worse", "worse"), ("unclear", "no clear difference"),
            )
            if found[kind]
        ]  # fmt: skip
        yield f"{model} against {reference}, macro-F1 in points: {'; '.join(parts)}."


def describe(result: Probe) -> Iterator[str]:
    """The result for a terminal."""
    yield ""
    yield from table(probe_table(result))
    yield ""
    yield from result.sentences
    yield from result.notes


def to_markdown(result: Probe) -> str:
    """probe.md."""
    header, *rows = probe_table(result)
    lines = [
        f"# {result.task}: {', '.join(result.models)}",
        "",
        *result.sentences,
        "",
        f"On {counted(result.num_test_examples, 'test example')} of {len(result.labels)} labels; "
        "mean and standard deviation over seeds, in percent.",
        "",
        *(f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header))),
        *(f"| {' | '.join(map(in_markdown, row))} |" for row in rows),
        "",
        *(f"> {note}" for note in result.notes),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _keep_in_run(path: Path, result: Probe, console: Console) -> None:
    """Put the result beside the run's others, by task, and into its report."""
    run = RunDir(path)
    kept = run.read_json("probe.json") or {}
    run.write_json("probe.json", kept | {result.task: result.to_json()})
    renew_report(path, console)
