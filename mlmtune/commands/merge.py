"""`mlmtune merge`: a model between a base and what runs made of it, chosen by its curve."""

import shutil
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from transformers import AutoTokenizer

from mlmtune import __version__
from mlmtune.commands.merge_grid import MergePlan
from mlmtune.commands.report import with_overrides
from mlmtune.config import Config
from mlmtune.console import Console
from mlmtune.errors import explaining_failures
from mlmtune.files import whole_folder, write_text
from mlmtune.locations import MERGE_PAGE, MERGE_RECORD
from mlmtune.merging.card import merged_card
from mlmtune.merging.choosing import RULES, choose
from mlmtune.merging.findings import Choice, Merge
from mlmtune.merging.interpolation import Interpolation
from mlmtune.merging.loading import load_interpolation
from mlmtune.merging.measuring import measure_curve
from mlmtune.merging.rendering import conclusions, in_terminal, to_html
from mlmtune.modeling.names import derived_name
from mlmtune.report.runs import FinishedRun
from mlmtune.sharing.card import Card, write_card
from mlmtune.sharing.masked_lm_card import example_text, fill_mask_snippet
from mlmtune.shell import own_command
from mlmtune.training.run_dir import reading_finished_run, write_model_record

NOT_COPIED = shutil.ignore_patterns("*.safetensors", "README.md")
"""The files of a run's model that are written anew: its weights and its card."""


def merge_runs(
    runs: Sequence[FinishedRun],
    others: Sequence[FinishedRun],
    overrides: list[str],
    plan: MergePlan,
    console: Console,
) -> None:
    """Measure models between the base and the runs, and write the one that is chosen.

    Args:
        runs: The finished runs, all of one base; the text is that of the first.
        others: Finished runs of that base that are measured beside the merged models.
        overrides: Settings that override those of the first run; only `evaluation.*`.
        plan: The alphas that are measured, and the folder that is written.
        console: Shows the progress; prints the curve.

    Raises:
        MlmtuneError: See `load_interpolation` and `measure_curve`.
        ResourceError: The disk is full, or the folder cannot be written.
    """
    config = with_overrides(runs[0], overrides)
    with ExitStack() as stack:
        for run in (*runs, *others):
            stack.enter_context(reading_finished_run(run.path))
        stack.enter_context(explaining_failures(plan.target, "--out"))
        plan.target.parent.mkdir(parents=True, exist_ok=True)
        with whole_folder(plan.target) as folder:
            shutil.copytree(runs[0].model, folder, ignore=NOT_COPIED, dirs_exist_ok=True)
            with TemporaryDirectory(dir=folder) as kept:
                weights = load_interpolation(runs, others, Path(kept), console)
                merge = _measured(weights, runs, others, config, plan, folder, console)
                weights.write(folder, merge.choice.alpha)
            write_text(folder / MERGE_PAGE, to_html(merge))

            def card() -> Card:
                mask = AutoTokenizer.from_pretrained(folder).mask_token
                snippet = fill_mask_snippet(folder, example_text(config.evaluation.examples, mask))
                return merged_card(derived_name(plan.target), merge, runs, config, snippet)

            write_model_record(folder, MERGE_RECORD, merge.to_json())
            write_card(folder, card, console.say)  # not in the manifest, because people edit it
    for line in ("", *in_terminal(merge), "", *conclusions(merge)):
        console.result(line)
    console.result(f"the model is in {plan.target}; {MERGE_PAGE} there shows the curve")
    console.say(f"try it: {own_command('fill', '--model', plan.target)}")
    console.say(
        f"share it: {own_command('push', plan.target, '--repo', derived_name(plan.target))}"
    )


def _measured(
    weights: Interpolation,
    runs: Sequence[FinishedRun],
    others: Sequence[FinishedRun],
    config: Config,
    plan: MergePlan,
    folder: Path,
    console: Console,
) -> Merge:
    """Measure each alpha in a folder with the other files of the model, and choose one."""
    curve = measure_curve(weights, runs, others, config, plan.alphas, folder, console)
    has_new_head = runs[0].record.eval_results["model_head_was_new"]
    if plan.given is None:
        choice = choose(curve.points, has_new_head=has_new_head)
    else:
        choice = Choice(plan.given, RULES["given"])
    return Merge(
        created_at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        mlmtune_version=__version__,
        base=config.model.name_or_path,
        runs=tuple(str(run.path.resolve()) for run in runs),
        new_weights=weights.new_weights,
        has_new_head=has_new_head,
        choice=choice,
        texts=curve.texts,
        points=curve.points,
        others=curve.beside(choice.alpha),
        bm25=curve.bm25,
        notes=curve.notes,
    )
