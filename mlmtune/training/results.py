"""The end of a run: model/, the JSON files beside it, and what is shown of them."""

from pathlib import Path
from typing import Any

from mlmtune.files import whole_folder
from mlmtune.modeling.losses import LOSS
from mlmtune.sharing.card import render
from mlmtune.training.checkpoint import checkpoint_path, load_weights, save_model
from mlmtune.training.environment import peak_memory_bytes
from mlmtune.training.job import Job
from mlmtune.training.run_dir import CHECKPOINTS_STAY, writing_to

RECORDS = ("corpus", "data", "environment")
"""What a run has written of its data and its place."""


def export(job: Job) -> dict[str, Any]:
    """Write model/ and the results; eval_results.json speaks of the weights in model/."""
    state, run = job.state, job.run
    step = state.step
    if job.config.checkpoint.export == "best" and state.best_step is not None:
        step = state.best_step
    if step != state.step:
        load_weights(checkpoint_path(run.checkpoints, step), job.module)

    eval_results = job.task.results(state, step)
    test_results = job.task.test(job.accelerator, job.module, run)
    train_results = _train_results(job)
    results = {
        **train_results,
        **{f"eval_{name}": value for name, value in eval_results.items()},
        **{f"test_{name}": value for name, value in test_results.items()},
    }
    if job.accelerator.is_main_process:
        _write_model(job, test_results or eval_results)
        run.write_json("train_results.json", train_results)
        run.write_json("eval_results.json", eval_results)
        if test_results:
            run.write_json("test_results.json", test_results)
        run.write_json("all_results.json", results)
        run.write_manifest()
        run.write_status("finished", exit_code=0, step=state.step, max_steps=state.step)
    job.accelerator.wait_for_everyone()
    return results


def _train_results(job: Job) -> dict[str, Any]:
    """Under the names that transformers' Trainer writes, and a few more."""
    state, plan = job.state, job.task.plan
    seconds = max(state.elapsed_seconds, 1e-9)
    embeddings = job.module.get_input_embeddings().weight.numel()
    return {
        "epoch": plan.epoch_at(state.step),
        "global_step": state.step,
        # 2 FLOPs a weight forward, 4 backward (Kaplan et al. 2020, 2.1).
        "total_flos": 6.0 * (job.task.loaded.num_parameters - embeddings) * state.num_tokens,
        "train_loss": state.totals.means()[LOSS],
        "train_runtime": state.elapsed_seconds,
        "train_samples_per_second": state.step * plan.global_batch_size / seconds,
        "train_steps_per_second": state.step / seconds,
        "train_tokens_per_second": state.num_tokens / seconds,
        "num_tokens": state.num_tokens,
        job.task.num_targets_name: state.totals.counts[LOSS],
        "num_skipped_steps": state.num_skipped_steps,
        "peak_memory_bytes": peak_memory_bytes(job.accelerator.device),
    }


def _write_model(job: Job, results: dict[str, Any]) -> None:
    """Write model/ with its card."""
    with writing_to(job.run.model, CHECKPOINTS_STAY), whole_folder(job.run.model) as temporary:
        loaded = job.task.loaded
        save_model(temporary, job.module, loaded.tokenizer, loaded.kept_weights)
        write_card(job, temporary, results)


def write_card(job: Job, folder: Path, results: dict[str, Any]) -> None:
    """Write the README.md of a model that is in a folder; that it fails is no end.

    Args:
        job: the run.
        folder: holds the model.
        results: see `Task.card`.
    """
    records = {name: job.run.read_json(f"{name}.json") for name in RECORDS}
    try:
        card = job.task.card(folder, results, records, job.run.path.resolve().name)
        text = render(card)
    except Exception as error:  # whatever a model of some family does in transformers' pipeline
        job.progress.say(f"there is no model card ({type(error).__name__}: {error})")
        return
    (folder / "README.md").write_text(text, encoding="utf-8")


def summarize(job: Job, results: dict[str, Any]) -> None:
    """Say what came of the run."""
    show = job.progress.result
    show("")
    for line in job.task.summary(results):
        show(line)
    show(
        f"{results['train_tokens_per_second']:,.0f} tokens/s, {results['train_runtime']:.0f} s, "
        f"peak memory {results['peak_memory_bytes'] / 1e9:.2f} GB"
    )
    if job.accelerator.is_main_process:
        for line in job.task.examples(job.state.examples_before, job.module):
            show(line)
    show(f"the model is in {job.run.model}")
    job.progress.say(f"try it: {job.task.how_to_try(job.run)}")
