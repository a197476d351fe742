"""`mlmtune sweep`: train a small grid of settings, and compare the runs."""

import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from mlmtune.classification.building import build_task
from mlmtune.classification.labelled_task import LabelledTask
from mlmtune.commands.sweep_grid import PlannedSweep, Trial
from mlmtune.commands.training import train_one_of_many
from mlmtune.config import BestBy, ClassificationConfig, Config, TaskName
from mlmtune.console import Console
from mlmtune.errors import DivergedError
from mlmtune.evaluation.perplexity import criterion_of
from mlmtune.files import write_json
from mlmtune.locations import expand_home
from mlmtune.numbers import f1, perplexity, share
from mlmtune.printable import counted
from mlmtune.shell import own_command
from mlmtune.tables import table
from mlmtune.training.masked_lm import build_masked_lm
from mlmtune.training.run_dir import RunDir


@dataclass(frozen=True)
class Outcome:
    """The outcome of a run of a sweep.

    Attributes:
        results: The content of its eval_results.json; None if it diverged.
        seconds: How long it trained.
    """

    trial: Trial
    results: dict[str, Any] | None
    seconds: float

    @property
    def criterion(self) -> float:
        """The value by which runs are ranked; that of the best run is the lowest."""
        if self.results is None:
            return float("inf")
        config = self.trial.config
        if isinstance(config, Config):
            return criterion_of(self.results, config.checkpoint.best_by)
        if config.metric == "loss":
            return float(self.results["loss"])
        return -float(self.results[config.metric])

    def to_json(self) -> dict[str, Any]:
        """Return the record of sweep.json."""
        return {
            "settings": self.trial.settings,
            "run": self.trial.config.run.output_dir,
            "results": self.results,
            "train_runtime": self.seconds,
        }


def sweep(path: Path, planned: PlannedSweep, console: Console, *, as_json: bool) -> None:
    """Train the planned runs, print them by rank, and say how to train with the best settings.

    A run that diverges is one of the results. The checkpoints of finished runs are deleted; each
    keeps its `model/`.

    Args:
        path: The config, for the command that is suggested.
        planned: The runs.
        console: Shows the progress; prints the table.
        as_json: Whether to print the content of sweep.json instead of the table.

    Raises:
        Interrupted: A signal stopped the command; finished runs are kept.
        MlmtuneError: A run cannot start.
    """
    outcomes = []
    for number, trial in enumerate(planned.trials, start=1):
        console.say(f"{number}/{len(planned.trials)}: {' '.join(trial.overrides)}")
        outcome = _run(trial, console)
        measured = zip(_columns(outcome), _values(outcome), strict=True)
        values = ", ".join(f"{name} {value}" for name, value in measured)
        console.say("  diverged" if outcome.results is None else f"  {values}")
        outcomes.append(outcome)
    outcomes.sort(key=lambda outcome: outcome.criterion)

    content = {"axes": list(planned.axes), "runs": [outcome.to_json() for outcome in outcomes]}
    planned.folder.mkdir(parents=True, exist_ok=True)
    write_json(planned.folder / "sweep.json", content)
    if as_json:
        console.result(json.dumps(content, indent=2, ensure_ascii=False))
        return
    for line in _report(path, planned, outcomes):
        console.result(line)


def _run(trial: Trial, console: Console) -> Outcome:
    run = RunDir(expand_home(trial.config.run.output_dir))
    try:
        if isinstance(trial.config, Config):
            train_one_of_many(trial.config, build_masked_lm, console)
        else:
            train_one_of_many(trial.config, _build_untested, console)
    except DivergedError as error:
        Console(notes_to_stderr=True).say(str(error))
        return Outcome(trial, None, 0.0)
    shutil.rmtree(run.checkpoints, ignore_errors=True)  # a finished run is not resumed
    results = run.read_json("eval_results.json")
    seconds = (run.read_json("train_results.json") or {}).get("train_runtime", 0.0)
    return Outcome(trial, results, seconds)


def _build_untested(
    config: ClassificationConfig, accelerator: Accelerator, console: Console
) -> LabelledTask[Any, Any]:
    """Build the task without its test set, because settings are chosen on validation data."""
    return build_task(config, accelerator, console).without_test()


def _nats(loss: float) -> str:
    return f"{loss:.3f}"


COLUMNS: dict[TaskName, dict[str, tuple[str, Callable[[float], str]]]] = {
    "classification": {
        "macro-F1": ("macro_f1", f1), "accuracy": ("accuracy", share), "loss": ("loss", _nats),
    },
    "entities": {
        "entity F1": ("micro_f1", f1), "precision": ("precision", share),
        "recall": ("recall", share), "loss": ("loss", _nats),
    },
}  # fmt: skip
"""The columns of a task's table: the measurement that each shows, and how it is written."""


def _task(outcome: Outcome) -> TaskName | None:
    """Return the name of the task; None for masked language modelling."""
    config = outcome.trial.config
    return config.task if isinstance(config, ClassificationConfig) else None


def _columns(outcome: Outcome) -> list[str]:
    config = outcome.trial.config
    if isinstance(config, ClassificationConfig):
        return list(COLUMNS[config.task])
    return ["perplexity", "accuracy", *["nDCG at 10"] * config.evaluation.retrieval]


def _values(outcome: Outcome) -> list[str]:
    """Return what was measured on the validation data, as a reader sees it."""
    results, task = outcome.results, _task(outcome)
    if results is None:
        return ["diverged", *[""] * (len(_columns(outcome)) - 1)]
    if task is not None:
        return [write(results[key]) for key, write in COLUMNS[task].values()]
    shown = perplexity(results["perplexity"], results.get("perplexity_interval"))
    found = [share(results[name]) for name in ("retrieval_ndcg_at_10",) if name in results]
    return [shown, share(results["accuracy"]), *found]


def _report(path: Path, planned: PlannedSweep, outcomes: Sequence[Outcome]) -> Iterator[str]:
    best = outcomes[0]
    header = [*planned.axes, *_columns(best), "step", "minutes"]
    rows = [header]
    for outcome in outcomes:
        step = "" if outcome.results is None else f"{outcome.results['step']:,}"
        values = [override.partition("=")[2] for override in outcome.trial.overrides]
        rows.append([*values, *_values(outcome), step, f"{outcome.seconds / 60:.1f}"])
    yield ""
    yield from table(rows)
    yield ""
    if best.results is None:
        yield "every run diverged; try lower values of optimizer.learning_rate"
        return
    yield from _how_sure(outcomes)
    command = "train" if _task(best) is None else "finetune"
    chosen = own_command(command, "--config", path, *planned.fixed, *best.trial.overrides)
    yield f"best: {' '.join(best.trial.overrides)}, in {best.trial.config.run.output_dir}"
    yield f"train with it: {chosen}"


def _how_sure(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """Say whether the validation data can tell the other runs from the best, which is the first."""
    best, *others = (outcome.results for outcome in outcomes if outcome.results is not None)
    if not others:
        return
    task = _task(outcomes[0])
    if task == "entities":
        num_entities = best["num_entities"]
        yield (
            f"{counted(num_entities, 'validation entity', 'validation entities')}: one of them is "
            f"{share(1 / num_entities)} of recall, so differences of a few entities may be chance"
        )
        return
    if task == "classification":
        num_examples = best["num_examples"]
        yield (
            f"{counted(num_examples, 'validation example')}: one of them is "
            f"{share(1 / num_examples)} of accuracy, so differences of a few examples may be chance"
        )
        return
    config = outcomes[0].trial.config
    assert isinstance(config, Config)
    best_by = config.checkpoint.best_by
    yield from _against_base(best, best_by)
    frequency_loss = best.get("token_frequency_loss")
    if frequency_loss is not None and best["loss"] >= frequency_loss:
        yield (
            "no run predicts better than token frequencies alone (perplexity "
            f"{perplexity(math.exp(frequency_loss))}); train longer, or try other values "
            "of optimizer.learning_rate"
        )
    name = {"perplexity": "perplexity", "retrieval": "retrieval_ndcg_at_10"}[best_by]
    interval = best[f"{name}_interval"]
    if interval is None:
        yield "there is too little validation text for an interval, so the order may be chance"
        return
    close = sum(interval[0] <= results[name] <= interval[1] for results in others)
    if len(others) > 1:
        lie = "lies" if close == 1 else "lie"
        yield f"{close:,} of {len(others):,} others {lie} within the 95 % interval of the best"
    elif close:
        yield "the other run lies within the 95 % interval of the best"


def _against_base(best: Mapping[str, Any], best_by: BestBy) -> Iterator[str]:
    """Say that the first run is worse than its base; so is every run, by the measure that ranks."""
    worse = {}
    if best["worse_than_base"]:
        worse["perplexity"] = f"perplexity {perplexity(best['perplexity_before'])}"
    if best.get("retrieval_worse_than_base"):
        worse["retrieval"] = f"nDCG at 10 {share(best['retrieval_ndcg_at_10_before'])}"
    for measure, before in worse.items():
        if measure == best_by:
            yield (
                f"every run is worse than its base ({before} before training); try lower values of "
                "optimizer.learning_rate"
            )
        else:
            yield f"by {measure}, the best run is worse than its base ({before} before training)"
