"""`mlmtune merge`: a model between a base and what runs made of it, chosen by its curve."""

import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from transformers import AutoTokenizer

from mlmtune import __version__
from mlmtune.commands.merge_grid import MergePlan
from mlmtune.commands.report import with_overrides
from mlmtune.config import Config
from mlmtune.console import Console
from mlmtune.errors import explaining_failures
from mlmtune.files import whole_folder, write_json, write_text
from mlmtune.merging.card import card_name, merged_card
from mlmtune.merging.choosing import RULES, choose
from mlmtune.merging.findings import Choice, Merge
from mlmtune.merging.interpolation import Interpolation
from mlmtune.merging.loading import load_interpolation
from mlmtune.merging.measuring import measure_curve
from mlmtune.merging.rendering import conclusions, curve_table, to_html
from mlmtune.report.runs import FinishedRun
from mlmtune.sharing.card import Card, write_card
from mlmtune.sharing.masked_lm_card import example_text, fill_mask_snippet
from mlmtune.shell import own_command
from mlmtune.tables import table

NOT_COPIED = shutil.ignore_patterns("*.safetensors", "README.md")
"""The files of a run's model that are written anew: its weights and its card."""


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
            shutil.copytree(runs[0].model, folder, ignore=NOT_COPIED, dirs_exist_ok=True)
            merge = _measured(weights, runs, config, plan, folder, console)
            weights.write(folder, merge.choice.alpha)
            write_json(folder / "merge.json", merge.to_json())
            write_text(folder / "merge.html", to_html(merge))

            def card() -> Card:
                mask = AutoTokenizer.from_pretrained(folder).mask_token
                snippet = fill_mask_snippet(folder, example_text(config.evaluation.examples, mask))
                return merged_card(card_name(plan.target), merge, runs, config, snippet)

            write_card(folder, card, console.say)
    for line in _described(merge):
        console.result(line)
    console.result(f"the model is in {plan.target}; merge.html there shows the curve")
    console.say(f"try it: {own_command('fill', '--model', plan.target)}")


def _measured(
    weights: Interpolation,
    runs: Sequence[FinishedRun],
    config: Config,
    plan: MergePlan,
    folder: Path,
    console: Console,
) -> Merge:
    """Measure each alpha in a folder with the other files of the model, and choose one."""
    curve = measure_curve(weights, runs, config, plan.alphas, folder, console)
    has_new_head = runs[0].record.eval_results["model_head_was_new"]
    given = None if plan.given is None else Choice(plan.given, RULES["given"])
    return Merge(
        created_at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        mlmtune_version=__version__,
        base=config.model.name_or_path,
        runs=tuple(str(run.path) for run in runs),
        new_weights=weights.new_weights,
        has_new_head=has_new_head,
        choice=given or choose(curve.points, has_new_head=has_new_head),
        texts=curve.texts,
        points=curve.points,
        bm25=curve.bm25,
        notes=curve.notes,
    )


def _described(merge: Merge) -> Iterator[str]:
    """Yield the lines that a terminal shows."""
    yield ""
    yield from table(curve_table(merge))
    yield ""
    yield from conclusions(merge)
