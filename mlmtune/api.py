"""What the commands do, for Python: each function is what the command of the same work calls.

They print what the commands print, and raise the exceptions of `mlmtune.errors`.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate.state import AcceleratorState

from mlmtune.commands import starting
from mlmtune.commands.check import preview
from mlmtune.commands.corpus import read_summary
from mlmtune.commands.eval import Row, measure_models
from mlmtune.commands.fill import FilledText, MaskFiller
from mlmtune.commands.report import report_on as make_report
from mlmtune.commands.train import adapt
from mlmtune.config import Config
from mlmtune.config_loading import as_override, load_config_text, own_yaml
from mlmtune.console import Console
from mlmtune.drafting.draft import Draft, draft_config
from mlmtune.locations import expand_home
from mlmtune.report.findings import Report
from mlmtune.report.runs import read_finished_run
from mlmtune.run import Run
from mlmtune.training.run_options import RunOptions

AnyConfig = Config | Draft | Mapping[str, Any] | str | os.PathLike[str]
"""A config: as `load_config` and `draft` return it, its sections as a mapping, or the path of its
YAML file."""

AnyRun = Run | str | os.PathLike[str]


def train(
    config: AnyConfig,
    *,
    resume: str = "never",
    overwrite: bool = False,
    allow_changes: bool = False,
    report: bool = True,
    quiet: bool = False,
    **overrides: Any,
) -> Run:
    """Train a model on text, and report whether it helped, as `mlmtune train` does.

    Args:
        config: The config.
        resume: `never`, `auto`, or a checkpoint.
        overwrite: Delete the run in the output directory first.
        allow_changes: Resume even if data, model, seed or batch size changed.
        report: Whether to make the report at the end.
        quiet: Print only the result.
        **overrides: Settings that replace those of the config: `training={"max_steps": 100}`, or
            `**{"training.max_steps": 100}`.

    Raises:
        MlmtuneError: Whatever `mlmtune train` ends with; `Interrupted` after Ctrl-C.
    """
    chosen = _chosen(config, overrides)
    options = RunOptions(
        resume, overwrite, allow_changes, quiet, config_text=chosen.text,
        command=chosen.command("train"),
    )  # fmt: skip
    starting.start_run(chosen.settings, options, starting.Processes())
    _forget_precision()
    adapt(chosen.settings, options, has_report=report)
    return Run.load(chosen.settings.run.output_dir)


def draft(
    model: str, *text: str | os.PathLike[str], quiet: bool = False, **overrides: Any
) -> Draft:
    """Choose settings for a model and text, as `mlmtune train --model` does.

    Args:
        model: A hub name, a folder, or `package://NAME/FOLDER`.
        *text: Files, folders, globs, URLs of git repositories, or names of datasets.
        quiet: Print nothing.
        **overrides: Settings that the others go along with; see `train`.

    Returns:
        The config, and its text with the reason beside each setting; `train` takes it.

    Raises:
        MlmtuneError: The text or the model cannot be read, or a setting is wrong.
    """
    starting.check_models([model], "model")
    console = Console(is_quiet=quiet)
    return draft_config([str(place) for place in text], model, _settings(overrides), console)


def check(
    config: AnyConfig,
    *,
    measure: bool = False,
    masks: bool = False,
    chunks: int = 1,
    draws: int = 1,
    **overrides: Any,
) -> None:
    """Print what a config would do, as `mlmtune check` does.

    Args:
        config: The config.
        measure: Take ten real steps, and print their speed.
        masks: Show every masking strategy.
        chunks: How many chunks are shown.
        draws: How many draws of masks are shown of each.
        **overrides: Settings that replace those of the config; see `train`.

    Raises:
        MlmtuneError: Something would keep the run from starting.
    """
    settings = _chosen(config, overrides).settings
    starting.check_model_and_text(settings)
    _forget_precision()
    preview(settings, measure=measure, num_chunks=chunks, num_draws=draws, compares=masks)


def corpus_summary(config: AnyConfig, *, refresh: bool = False, **overrides: Any) -> dict[str, Any]:
    """Return what text a corpus yields: what `mlmtune corpus --json` prints.

    Args:
        config: The config.
        refresh: Look up the current commits of git branches and tags again.
        **overrides: Settings that replace those of the config; see `train`.

    Raises:
        MlmtuneError: The text or the tokenizer cannot be read.
    """
    settings = _chosen(config, overrides).settings
    starting.check_text(settings)
    return read_summary(settings, Console(), refresh=refresh)[1]


def evaluate(models: AnyRun | Sequence[AnyRun], config: AnyConfig, **overrides: Any) -> list[Row]:
    """Measure models on the validation text and the general text of a config, as `mlmtune eval`.

    Args:
        models: Runs, folders, hub names, or `package://NAME/FOLDER`. The others are compared with
            the first.
        config: The config that has the text.
        **overrides: Settings that replace those of the config; see `train`.

    Returns:
        A row for each model on each text; its `to_json()` is a record of `mlmtune eval --json`. In
        several processes, all but the first get none.

    Raises:
        MlmtuneError: A model or the text is missing, or they do not fit.
    """
    named = [*_each(models)]
    settings = _chosen(config, {**overrides, "model.revision": None}).settings
    starting.check_models(named, "models")
    starting.check_text(settings)
    _forget_precision()
    measured = measure_models({"validation": settings}, named, Console())
    return [] if measured is None else measured.rows


def fill(
    models: AnyRun | Sequence[AnyRun],
    sentences: str | Sequence[str],
    *,
    targets: Sequence[str] = (),
    top_k: int = 5,
) -> list[FilledText]:
    """Return what models predict for the masks of sentences, as `mlmtune fill` shows it.

    Args:
        models: Runs, folders, hub names, or `package://NAME/FOLDER`.
        sentences: Sentences with `[MASK]`, or with the mask token of a model.
        targets: Words whose probability and rank are looked up at each mask.
        top_k: The number of candidates for each mask.

    Raises:
        MlmtuneError: A model cannot be loaded, or a sentence has no mask.
    """
    texts = [sentences] if isinstance(sentences, str) else list(sentences)
    named = [*_each(models)]
    starting.check_models(named, "models")
    filler = MaskFiller(named, texts, targets, top_k, Console())
    return [filler.fill(text) for text in texts]


def report_on(
    runs: AnyRun | Sequence[AnyRun],
    *,
    output: str | os.PathLike[str] | None = None,
    quiet: bool = False,
    **overrides: Any,
) -> Report:
    """Report on finished runs, and write the report, as `mlmtune report` does.

    Args:
        runs: One run, or several to compare.
        output: The folder of the report; by default that of the run, or `report` for several.
        quiet: Print only the verdicts.
        **overrides: Settings of `evaluation`, such as `evaluation={"general": [...]}`.

    Raises:
        MlmtuneError: A run has not finished, or its text or base is missing.
    """
    finished = [read_finished_run(Path(path)) for path in _each(runs)]
    folder = None if output is None else Path(output)
    return make_report(finished, _settings(overrides), folder, Console(is_quiet=quiet))


def _chosen(config: AnyConfig, overrides: Mapping[str, Any]) -> starting.ChosenConfig:
    settings = _settings(overrides)
    if isinstance(config, str | os.PathLike):
        return starting.choose_config(expand_home(Path(config)), None, settings, Console())
    text = config.text if isinstance(config, Draft) else own_yaml(config)
    loaded = load_config_text(text, "the config", settings)
    return starting.ChosenConfig(loaded, own_yaml(loaded) if settings else text, None)


def _settings(overrides: Mapping[str, Any], above: str = "") -> list[str]:
    """Return overrides as on the command line: `{"a": {"b": 1}}` and `{"a.b": 1}` are `a.b=1`."""

    def written() -> Iterator[str]:
        for key, value in overrides.items():
            if isinstance(value, Mapping) and not above and "." not in key:
                yield from _settings(value, f"{key}.")
            else:
                yield f"{above}{key}={as_override(value)}"

    return list(written())


def _each(models: AnyRun | Sequence[AnyRun]) -> Iterator[str]:
    several = [models] if isinstance(models, Run | str | os.PathLike) else models
    for each in several:
        yield str(each.path if isinstance(each, Run) else os.fspath(each))


def _forget_precision() -> None:
    """Let a second run of a process have another precision, which Accelerate keeps."""
    AcceleratorState._reset_state()
