"""`mlmtune probe`: compare models on a task, with frozen features and fine-tuned."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mlmtune.classification import frozen
from mlmtune.classification.building import KINDS
from mlmtune.commands.probe_fits import ProbeFits
from mlmtune.config import ClassificationConfig
from mlmtune.console import Console
from mlmtune.errors import ConfigError
from mlmtune.files import write_json, write_text
from mlmtune.locations import expand_home, resolve, run_directory
from mlmtune.modeling.names import short_names
from mlmtune.printable import in_markdown
from mlmtune.report.findings import Probe
from mlmtune.report.probing import ProbedModel, ProbeSetting, compare_on_task
from mlmtune.report.rendering import probe_table
from mlmtune.report.runs import FinishedRun, read_finished_run
from mlmtune.report.writing import renew_report
from mlmtune.tables import table
from mlmtune.training.run_dir import RunDir


def probe(
    config: ClassificationConfig, models: Sequence[str], console: Console, *, as_json: bool
) -> None:
    """Measure each model on the task, print the comparison, and write it to files.

    Args:
        config: The config of the task.
        models: Folders, hub names, `package://NAME/FOLDER`, or directories of runs. The others are
            compared with the first; a run alone is compared with its base model.
        console: Shows the progress; prints the table.
        as_json: Print the content of probe.json instead of the table.

    Raises:
        ConfigError: There is no test set, or a model does not fit.
        Interrupted: A signal stopped the command; what is finished is kept.
        MlmtuneError: The examples or a model cannot be read.
    """
    if config.data.test is None and config.data.test_fraction is None:
        raise ConfigError(
            "data.test: models are compared on a test set; name one, or set data.test_fraction"
        )
    if "frozen" in config.probe.methods:
        frozen.check_available()
    probed = _probed_models(models)
    folder = Path(f"{expand_home(config.run.output_dir)}-probe")
    kind = KINDS[config.task]
    task = kind.probed(kind.read(config.data, console.say))
    fits = ProbeFits(config, task, folder / "fits", console)
    # All models are loaded once, so that a fault of the last one is not found after hours.
    for model in probed:
        _, loaded = fits.load(model)
        for note in loaded.notes:
            console.say(note)
        del loaded
    folder.mkdir(parents=True, exist_ok=True)  # only now, when nothing is wrong any more

    predictions: dict[tuple[ProbeSetting, str], NDArray[np.int64]] = {}
    for method in config.probe.methods:
        for model in probed:
            by_setting = fits.predict(model, method)
            predictions |= {(setting, model.name): by_setting[setting] for setting in by_setting}

    name = Path(config.run.output_dir).name
    result = compare_on_task(name, probed, task, predictions, console)
    content = asdict(result)
    write_json(folder / "probe.json", content)
    write_text(folder / "probe.md", to_markdown(result))
    for model in probed:
        if model.run is not None:
            # By the name of the task, because a run may be probed on several.
            run = RunDir(model.run.path)
            run.write_json("probe.json", (run.read_json("probe.json") or {}) | {name: content})
            renew_report(run.path, console)
    if as_json:
        console.result(json.dumps(content, indent=2, ensure_ascii=False))
        return
    for line in describe(result):
        console.result(line)
    console.result(f"written to {folder / 'probe.md'} (also as .json)")


def _probed_models(models: Sequence[str]) -> list[ProbedModel]:
    """Return the models to compare; a run may be given by its directory or its folder `model`.

    Raises:
        ConfigError: There is nothing to compare, or a run is not finished.
    """
    locations: list[tuple[str, FinishedRun | None]] = []
    for model in models:
        directory = run_directory(resolve(model))
        # The run of a classifier is compared like any model, because it has no base.
        is_of_text = directory is not None and not (directory / "data.json").exists()
        run = read_finished_run(directory) if directory is not None and is_of_text else None
        locations.append((model if run is None else str(run.model), run))
    if len(locations) == 1:
        run = locations[0][1]
        if run is None:
            raise ConfigError(
                "--model: give at least two models, the base first; or the directory of a run, "
                "which is compared with its base"
            )
        locations.insert(0, (run.config.model.name_or_path, None))
    names = short_names([location for location, _ in locations])
    return [
        ProbedModel(name, location, run)
        for name, (location, run) in zip(names, locations, strict=True)
    ]


def describe(result: Probe) -> Iterator[str]:
    """Yield the lines that a terminal shows of a result."""
    yield ""
    yield from table(probe_table(result))
    yield ""
    yield from result.sentences
    yield from result.notes


def to_markdown(result: Probe) -> str:
    """Return the content of probe.md."""
    header, *rows = probe_table(result)
    lines = [
        f"# {result.task}: {', '.join(result.models)}",
        "",
        *result.sentences,
        "",
        f"On {result.measured_on}; mean and standard deviation over seeds, in percent.",
        "",
        *(f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header))),
        *(f"| {' | '.join(map(in_markdown, row))} |" for row in rows),
        "",
        *(f"> {note}" for note in result.notes),
    ]
    return "\n".join(lines).rstrip() + "\n"
