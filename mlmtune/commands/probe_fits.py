"""The fits of a probe: each model, on each number of training examples, with each seed."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from accelerate import Accelerator
from numpy.typing import NDArray

from mlmtune.classification.building import KINDS
from mlmtune.classification.frozen import fit_and_predict
from mlmtune.classification.probed_tasks import ProbedTask
from mlmtune.classification.sides import TaskData, subset
from mlmtune.commands.training import train_one_of_many
from mlmtune.config import ClassificationConfig, TrackingConfig
from mlmtune.console import Console
from mlmtune.files import read_json, write_json
from mlmtune.locations import resolve
from mlmtune.modeling.device import build_accelerator, precision_of
from mlmtune.modeling.loading import LoadedModel, ModelRequest, load_classifier
from mlmtune.modeling.locating import locate_model
from mlmtune.numbers import f1
from mlmtune.printable import counted
from mlmtune.report.findings import METRIC_NAMES, Method
from mlmtune.report.probing import ProbedModel, ProbeSetting, Size

FEWEST_EVALUATIONS, MOST_EVALUATIONS = 3, 10
"""The fewest and the most evaluations of a fit. Between them, there are as many as let evaluation
take about as long as training: a training step takes three times as long as a forward pass alone.
"""


@dataclass(frozen=True)
class ProbeFits:
    """Fits models to a task, predicts its test examples, and keeps the predictions in a folder."""

    config: ClassificationConfig
    task: ProbedTask[Any]
    folder: Path
    console: Console

    def load(self, model: ProbedModel) -> tuple[Accelerator, LoadedModel]:
        """Load a model with a new head for the task, on the device that it runs on.

        Raises:
            MlmtuneError: The model is not there, or does not fit the task.
        """
        accelerator = build_accelerator(self.config.training.precision)
        request = ModelRequest(
            self.config.model.model_copy(update={"name_or_path": model.location}),
            max_length=self.config.data.max_length,
            device=accelerator.device,
            precision=precision_of(accelerator),
            seed=self.config.run.seed,
            folder=locate_model(model.location, None, "--model"),
        )
        return accelerator, load_classifier(request, self.config.task, self.task.data.labels)

    def predict(self, model: ProbedModel, method: Method) -> dict[ProbeSetting, NDArray[np.int64]]:
        """Fit a model by one method in each setting.

        Returns:
            (S, R) predictions of the test by S seeds, for each setting.
        """
        settings = [ProbeSetting(method, size) for size in self._sizes]
        return (self._frozen if method == "frozen" else self._finetuned)(model, settings)

    @property
    def _sizes(self) -> list[Size]:
        """Numbers of training examples; a number that is not below that of all examples is all."""
        num_examples = len(self.task.data.train)
        sizes = self.config.probe.train_sizes
        return list(dict.fromkeys("all" if s == "all" or s >= num_examples else s for s in sizes))

    @property
    def _seeds(self) -> range:
        return range(self.config.run.seed, self.config.run.seed + self.config.probe.seeds)

    def _frozen(
        self, model: ProbedModel, settings: Sequence[ProbeSetting]
    ) -> dict[ProbeSetting, NDArray[np.int64]]:
        config, task, data = self.config, self.task, self.task.data
        num_examples = counted(len(data.train), "training example")
        self.console.say(f"{model.name}, frozen: {num_examples}")
        accelerator, loaded = self.load(model)
        sides = (data.train, data.validation, task.test)
        train, validation, test = (
            task.features(side, accelerator, loaded, config)
            for side in self.console.under_bar(
                sides, total=len(sides), unit="side", what="features"
            )
        )
        # A word that the tokenizer drops has no features.
        is_known, in_validation, in_test = (
            ~np.isnan(features[:, 0]) for features in (train, validation, test)
        )
        examples_of_rows = task.examples_of(data.train)

        def validation_score(numbers: NDArray[np.int64]) -> float:
            return task.scores(data.validation, _spread(numbers, in_validation))[-1]

        def predictions(size: Size, seed: int) -> NDArray[np.int64]:
            rows = is_known
            if size != "all":
                rows = is_known & np.isin(examples_of_rows, subset(data.train.strata, size, seed))
            numbers = fit_and_predict(
                (train[rows], data.train.labels[rows]),
                validation[in_validation],
                test[in_test],
                config.data.class_weights,
                validation_score,
            )
            return task.settled(task.test, _spread(numbers, in_test))

        by_setting = {}
        for setting in settings:
            # A seed only draws the training examples, so all of them need a single fit.
            seeds = self._seeds[:1] if setting.size == "all" else self._seeds
            by_setting[setting] = np.stack([predictions(setting.size, seed) for seed in seeds])
        return by_setting

    def _finetuned(
        self, model: ProbedModel, settings: Sequence[ProbeSetting]
    ) -> dict[ProbeSetting, NDArray[np.int64]]:
        fits = [(setting, seed) for setting in settings for seed in self._seeds]
        by_setting: dict[ProbeSetting, list[NDArray[np.int64]]] = {key: [] for key in settings}
        for number, (setting, seed) in enumerate(fits, start=1):
            predictions = self._fit(model, setting, seed)
            by_setting[setting].append(predictions)
            score = self.task.scores(self.task.test, predictions)[-1]
            self.console.say(
                f"{model.name}, fine-tuned {number}/{len(fits)}: {setting.size} examples, seed "
                f"{seed}: {METRIC_NAMES[self.task.metrics[-1]]} {f1(score)}"
            )
        return {setting: np.stack(predictions) for setting, predictions in by_setting.items()}

    def _fit(self, model: ProbedModel, setting: ProbeSetting, seed: int) -> NDArray[np.int64]:
        """Train a classifier, predict the test examples, keep the predictions, delete the rest.

        Predictions that an earlier probe kept are read, and nothing is trained.
        """
        data = self.task.data
        fit = config_of_fit(model, self.config, data, setting, seed)
        # Predictions are kept by what decides them: settings, examples and weights.
        settings = fit.model_dump(exclude={"probe", "tracking", "hub"})
        digest = xxhash.xxh3_64_hexdigest(
            repr((settings, data.fingerprint, _state_of_files(model))).encode()
        )
        path = self.folder / f"{setting.size}-{seed}-{digest}"
        kept = path.with_name(f"{path.name}.json")
        content = read_json(kept)
        if content is None or "predictions" not in content:
            run_config = fit.run.model_copy(update={"output_dir": str(path)})
            train_one_of_many(
                fit.model_copy(update={"run": run_config}),
                lambda of_fit, accelerator, _: KINDS[of_fit.task].plan(data, of_fit, accelerator),
                self.console,
            )
            lines = (path / "test_predictions.jsonl").read_text(encoding="utf-8").splitlines()
            content = {"predictions": [json.loads(line)["prediction"] for line in lines]}
            write_json(kept, content)
            shutil.rmtree(path)  # the weights of all fits together would fill the disk
        numbers = {label: number for number, label in enumerate(data.labels)}
        # One label for each example, or a list of tags for each sentence.
        flat = chain.from_iterable([p] if isinstance(p, str) else p for p in content["predictions"])
        return np.asarray([numbers[label] for label in flat], dtype=np.int64)


def _spread(numbers: NDArray[np.int64], is_known: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return (R,) the numbers of those rows that are known; -1 for the others."""
    spread = np.full(len(is_known), -1, dtype=np.int64)
    spread[is_known] = numbers
    return spread


def config_of_fit(
    model: ProbedModel,
    config: ClassificationConfig,
    data: TaskData[Any],
    setting: ProbeSetting,
    seed: int,
) -> ClassificationConfig:
    """Return the config of one fit, with enough steps and evaluations for however few examples."""
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
        "model": {"name_or_path": model.location},
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


def _state_of_files(model: ProbedModel) -> list[tuple[str, int, int]]:
    """Return the name, the size and the time of change of each file of a local model."""
    folder = resolve(model.location)
    files = sorted(folder.glob("*")) if folder.is_dir() else []
    return [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
