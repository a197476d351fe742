"""`mlmtune merge`: a model between a base and what runs made of it, and the curve of both ends."""

import shutil
import time
from collections.abc import Iterator, Sequence

from mlmtune import __version__
from mlmtune.commands.merge_grid import MergePlan
from mlmtune.commands.report import with_overrides
from mlmtune.console import Console
from mlmtune.errors import explaining_failures
from mlmtune.files import whole_folder, write_json
from mlmtune.merging.choosing import RULES, choose
from mlmtune.merging.findings import Choice, Merge
from mlmtune.merging.loading import load_interpolation
from mlmtune.merging.measuring import measure_curve
from mlmtune.merging.rendering import curve_table
from mlmtune.report.runs import FinishedRun
from mlmtune.shell import own_command
from mlmtune.tables import table

IS_WRITTEN_ANEW = shutil.ignore_patterns("*.safetensors", "README.md")
"""The files of a run's model that are not copied: its weights and its card."""


def merge_runs(
    runs: Sequence[FinishedRun], overrides: list[str], plan: MergePlan, console: Console
) -> None:
    """Measure models between the base and the runs, and write the one that is chosen.

    Args:
        runs: The finished runs, all of one base; the text is that of the first.
        overrides: Settings that override those of the first run; only `evaluation.*`.
        plan: The alphas that are measured, and the folder that is written.
        console: Shows the progress; prints the curve.

    Raises:
        MlmtuneError: See `load_interpolation` and `measure_curve`.
        ResourceError: The disk is full, or the folder cannot be written.
    """
    config = with_overrides(runs[0], overrides)
    weights = load_interpolation(runs, console)
    with explaining_failures(plan.target, "--out"):
        plan.target.parent.mkdir(parents=True, exist_ok=True)
        with whole_folder(plan.target) as folder:
            shutil.copytree(runs[0].model, folder, ignore=IS_WRITTEN_ANEW, dirs_exist_ok=True)
            points = measure_curve(weights, runs, config, plan.alphas, folder, console)
            choice = choose(points) if plan.given is None else Choice(plan.given, RULES["given"])
            merge = Merge(
                created_at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                mlmtune_version=__version__,
                base=runs[0].config.model.name_or_path,
                runs=tuple(str(run.path) for run in runs),
                new_weights=weights.new_weights,
                has_new_head=runs[0].record.eval_results["model_head_was_new"],
                choice=choice,
                points=points,
            )
            weights.write(folder, choice.alpha)
            write_json(folder / "merge.json", merge.to_json())
    for line in describe(merge):
        console.result(line)
    console.result(f"the merged model is in {plan.target}")
    console.say(f"try it: {own_command('fill', '--model', plan.target)}")


def describe(merge: Merge) -> Iterator[str]:
    """Yield the lines that a terminal shows."""
    yield ""
    yield from table(curve_table(merge))
    yield ""
    yield f"alpha {merge.choice.alpha:g} is written: {merge.choice.rule}"
