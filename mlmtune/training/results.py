"""The end of a run: model/, the JSON files beside it, and what is shown of them."""

import os
import shutil
from contextlib import nullcontext
from dataclasses import asdict
from typing import Any

import torch

from mlmtune.evaluation.fill_mask import fill_mask
from mlmtune.training.checkpoint import (
    TrainState,
    checkpoint_path,
    load_weights,
    save_model,
)
from mlmtune.training.environment import peak_memory_bytes
from mlmtune.training.job import Job
from mlmtune.training.run_dir import CHECKPOINTS_STAY, TEMPORARY_PREFIX, removing, writing_to

GENERAL = ("general_loss", "general_perplexity", "general_accuracy", "general_accuracy_top5")
"""What eval_results.json has of general text both before and after."""


def export(job: Job) -> dict[str, Any]:
    """Write model/ and the results; eval_results.json speaks of the weights in model/."""
    state, run = job.state, job.run
    step = state.step
    if job.config.checkpoint.export == "best" and state.best_step is not None:
        step = state.best_step
    if step != state.step and job.accelerator.is_main_process:
        load_weights(checkpoint_path(run.checkpoints, step), job.module)

    assert state.evaluation_before is not None
    evaluation = state.evaluations[str(step)]
    eval_results = {
        "perplexity_before": state.evaluation_before["perplexity"],
        "perplexity_before_interval": state.evaluation_before["perplexity_interval"],
        **evaluation,
        "loss_before": state.evaluation_before["loss"],
        "accuracy_before": state.evaluation_before["accuracy"],
        "accuracy_top5_before": state.evaluation_before["accuracy_top5"],
        **{
            f"{name}_before": state.evaluation_before[name]
            for name in ("pair_loss", "pair_accuracy", *GENERAL)
            if name in evaluation
        },
        **({"forgetting": forgetting(state, step)} if "general_loss" in evaluation else {}),
        "step": step,
        "model_head_was_new": job.parts.loaded.head_is_new,
    }
    train_results = _train_results(job)
    results = {**train_results, **{f"eval_{k}": v for k, v in eval_results.items()}}
    if job.accelerator.is_main_process:
        _write_model(job)
        run.write_json("train_results.json", train_results)
        run.write_json("eval_results.json", eval_results)
        run.write_json("all_results.json", results)
        run.write_status("finished", exit_code=0, step=state.step, max_steps=state.step)
    job.accelerator.wait_for_everyone()
    return results


def forgetting(state: TrainState, step: int) -> float:
    """Nats a token that general text has lost by a step at which it was measured."""
    assert state.evaluation_before is not None
    before: float = state.evaluation_before["general_loss"]
    return float(state.evaluations[str(step)]["general_loss"] - before)


def _train_results(job: Job) -> dict[str, Any]:
    """Under the names that transformers' Trainer writes, and a few more."""
    state, plan = job.state, job.parts.plan
    seconds = max(state.elapsed_seconds, 1e-9)
    embeddings = job.module.get_input_embeddings().weight.numel()
    return {
        "epoch": plan.epoch_at(state.step),
        "global_step": state.step,
        # 2 FLOPs a weight forward, 4 backward (Kaplan et al. 2020, 2.1).
        "total_flos": 6.0 * (job.parts.loaded.num_parameters - embeddings) * state.num_tokens,
        "train_loss": state.loss_sum / max(state.num_masked_tokens, 1),
        "train_runtime": state.elapsed_seconds,
        "train_samples_per_second": state.step * plan.global_batch_size / seconds,
        "train_steps_per_second": state.step / seconds,
        "train_tokens_per_second": state.num_tokens / seconds,
        "num_tokens": state.num_tokens,
        "num_masked_tokens": state.num_masked_tokens,
        "num_skipped_steps": state.num_skipped_steps,
        "peak_memory_bytes": peak_memory_bytes(job.accelerator.device),
    }


def _write_model(job: Job) -> None:
    """Write model/ under a temporary name, then put it in place."""
    temporary = job.run.path / f"{TEMPORARY_PREFIX}model"
    shutil.rmtree(temporary, ignore_errors=True)
    with writing_to(job.run.model, CHECKPOINTS_STAY), removing(temporary):
        loaded = job.parts.loaded
        save_model(temporary, job.module, loaded.tokenizer, loaded.kept_weights)
        shutil.rmtree(job.run.model, ignore_errors=True)
        os.replace(temporary, job.run.model)


def summarize(job: Job, results: dict[str, Any]) -> None:
    show = job.progress.result
    before, after = results["eval_perplexity_before"], results["eval_perplexity"]
    interval = results["eval_perplexity_interval"]
    show("")
    show(
        f"perplexity {_number(before)} before, {_number(after)} after"
        + (f" (95 % interval {interval[0]:.2f} to {interval[1]:.2f})" if interval else "")
        + f", on {results['eval_num_masked_tokens']:,} masked tokens of validation text"
    )
    if "eval_pair_accuracy" in results:
        show(
            f"pairs told right: {results['eval_pair_accuracy_before']:.1%} before, "
            f"{results['eval_pair_accuracy']:.1%} after, of {results['eval_num_pairs']:,}"
        )
    if "eval_forgetting" in results:
        before, after = (
            results["eval_general_perplexity_before"],
            results["eval_general_perplexity"],
        )
        show(
            f"general text: perplexity {_number(before)} before, {_number(after)} after "
            f"({results['eval_forgetting']:+.3f} nats a token)"
        )
    show(
        f"{results['train_tokens_per_second']:,.0f} tokens/s, {results['train_runtime']:.0f} s, "
        f"peak memory {results['peak_memory_bytes'] / 1e9:.2f} GB"
    )
    _show_examples(job)
    show(f"the model is in {job.run.model}")
    job.progress.say(f'try it: mlmtune fill --model {job.run.model} "your text with a [MASK]"')


def _number(perplexity: float | None) -> str:
    return "over 1e308" if perplexity is None else f"{perplexity:,.2f}"


def _show_examples(job: Job) -> None:
    show, after = job.progress.result, fill_examples(job)
    for text, old, new in zip(
        job.config.evaluation.examples, job.state.examples_before, after, strict=False
    ):
        show(text)
        for label, masks in (("before", old), ("after", new)):
            words = " / ".join(", ".join(p["token_str"] for p in mask) for mask in masks)
            show(f"  {label + ':':8}{words}")


def fill_examples(job: Job) -> list[Any]:
    if not job.accelerator.is_main_process:
        return []
    # Sentences are of any length: a compiled model would be compiled anew for each.
    plainly = job.config.training.compile
    with torch.compiler.set_stance("force_eager") if plainly else nullcontext():
        return [
            [[asdict(prediction) for prediction in mask] for mask in
             fill_mask(job.module, job.parts.loaded.tokenizer, text)]
            for text in job.config.evaluation.examples
        ]  # fmt: skip
