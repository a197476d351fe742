"""The end of a run: model/, the JSON files of its results, and the lines that sum them up."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from mlmtune.files import whole_folder
from mlmtune.modeling.losses import FILL, LOSS
from mlmtune.numbers import share
from mlmtune.sharing.card import write_card
from mlmtune.training.checkpoint import TrainState, load_weights, save_model
from mlmtune.training.checkpoint_folders import checkpoint_path
from mlmtune.training.environment import peak_memory_bytes
from mlmtune.training.evaluating import step_to_export
from mlmtune.training.learner import Learner
from mlmtune.training.progress import Progress
from mlmtune.training.run_dir import CHECKPOINTS_STAY, RunDir, writing_to
from mlmtune.training.task import Task

CARD_RECORDS = ("corpus", "data", "environment", "lineage")
"""The files of a run that its model card is written from, without their ending."""


def export(
    task: Task, learner: Learner, state: TrainState, run: RunDir, say: Callable[[str], None]
) -> dict[str, Any]:
    """Write model/ and the results, and return the content of all_results.json.

    The model becomes that of the step that `checkpoint.export` names, and eval_results.json
    describes it.
    """
    step = step_to_export(task, state)
    if step != state.step:
        load_weights(checkpoint_path(run.checkpoints, step), learner.module)

    eval_results = task.results(state, step)
    test_results = task.test(learner.accelerator, learner.module, run)
    train_results = _train_results(task, state, learner.accelerator.device)
    results = {
        **train_results,
        **{f"eval_{name}": value for name, value in eval_results.items()},
        **{f"test_{name}": value for name, value in test_results.items()},
    }
    if learner.accelerator.is_main_process:
        with writing_to(run.model, CHECKPOINTS_STAY), whole_folder(run.model) as temporary:
            save_model(temporary, task.loaded)
            write_run_card(task, run, temporary, test_results or eval_results, say)
        run.write_json("train_results.json", train_results)
        run.write_json("eval_results.json", eval_results)
        if test_results:
            run.write_json("test_results.json", test_results)
        run.write_json("all_results.json", results)
        # Last, because a finished run is one whose files are all complete.
        run.write_manifest()
        run.write_status("finished", exit_code=0, step=state.step, max_steps=state.step)
    learner.accelerator.wait_for_everyone()
    return results


def _train_results(task: Task, state: TrainState, device: torch.device) -> dict[str, Any]:
    """Return the content of train_results.json; transformers' Trainer uses the same names."""
    seconds = max(state.elapsed_seconds, 1e-9)
    embeddings = task.loaded.model.get_input_embeddings().weight.numel()
    means = state.totals.means()
    num_sequences = task.plan.total(state.step, lambda phase: phase.global_batch_size)
    return {
        "epoch": task.plan.total(state.step, lambda phase: phase.epochs_after(1)),
        "global_step": state.step,
        # 2 FLOPs per weight forward, 4 backward (Kaplan et al. 2020, 2.1).
        "total_flos": 6.0 * (task.loaded.num_parameters - embeddings) * state.num_tokens,
        "train_loss": means[LOSS],
        "train_runtime": state.elapsed_seconds,
        "train_samples_per_second": num_sequences / seconds,
        "train_steps_per_second": state.step / seconds,
        "train_tokens_per_second": state.num_tokens / seconds,
        "num_tokens": state.num_tokens,
        **({FILL: means[FILL]} if FILL in means else {}),
        task.num_targets_name: state.totals.counts[LOSS],
        "num_skipped_steps": state.num_skipped_steps,
        "peak_memory_bytes": peak_memory_bytes(device),
    }


def write_run_card(
    task: Task, run: RunDir, folder: Path, results: dict[str, Any], say: Callable[[str], None]
) -> None:
    """Write the card of a run's model into its folder; see `write_card`."""
    records = {name: run.read_json(f"{name}.json") for name in CARD_RECORDS}
    name = run.path.resolve().name
    write_card(folder, lambda: task.card(folder, results, records, name), say)


def show_summary(
    task: Task, state: TrainState, run: RunDir, results: dict[str, Any], progress: Progress
) -> None:
    """Print the outcome of the run. Called by the main process.

    `results` is the content of all_results.json.
    """
    show = progress.result
    show("")
    for line in task.summary(results):
        show(line)
    fill = f" (fill {share(results[FILL])})" if FILL in results else ""
    show(
        f"{results['train_tokens_per_second']:,.0f} tokens/s{fill}, "
        f"{results['train_runtime']:.0f} s, "
        f"peak memory {results['peak_memory_bytes'] / 1e9:.2f} GB"
    )
    for line in task.examples(state.examples_before, task.loaded.model):
        show(line)
    show(f"the model is in {run.model}")
    progress.say(f"try it: {task.how_to_try(run)}")
