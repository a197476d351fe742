"""What to do next after a run, for readers who know no machine learning.

Each step is a sentence and, where there is one, a command that works when it is copied.
"""

import shlex
from collections.abc import Iterator
from typing import Any

import yaml

from mlmtune.printable import counted
from mlmtune.report.estimates import change
from mlmtune.report.findings import Model, RetrievalFindings, Run, Step, Text, Verdict

EXAMPLE = "Write a sentence with a [MASK] here."
"""What a model fills in if the user has named no sentences."""

WORD_SEARCH = "plain word search (BM25)"

MUCH_FORGETTING = 0.1
"""Nats per token on general text from which forgetting is called so: a tenth more perplexity."""

STILL_FALLING = 0.02
"""Nats by which the loss fell between the last two evaluations if training ended too early."""

LARGEST_VALIDATION_FRACTION = 0.5

GENTLE_RATE = 1e-4
"""The highest learning rate that is proposed after a run that ruined its model."""


def next_steps(
    verdict: Verdict,
    model: Model,
    texts: tuple[Text, ...],
    run: Run,
    found: RetrievalFindings | None,
) -> Iterator[Step]:
    """Yield what to do next, the most useful first.

    Args:
        verdict: The verdict on the run, whose steps these become.
        model: The model of the run.
        texts: The measurements on texts, the domain's text first.
        run: How the run went.
        found: How well models find documents, if that was measured.
    """
    settings = yaml.safe_load(run.config)
    finds_less = found is not None and (
        change(found.change_of(model.name).ndcg_at_10, is_loss=False) == "worse"
    )
    words_find_more = found is not None and _words_find_more(found, model)
    is_at_a_price = finds_less or has_forgotten(model, texts)
    yield _use(verdict, finds_less, words_find_more, model, settings)
    if verdict.label != "worse" and is_at_a_price:
        yield Step(
            "Mix the new model with the one that you started from. Nothing is trained, and this "
            "often keeps most of what was learned and brings back part of what was lost:",
            _command("merge", run.path),
        )
    best = best_step_of_search(run)
    if verdict.label == "mixed" and finds_less and best:
        yield _again(
            run, f"Or train again, and keep the model of step {best:,}, which searched best:",
            "search", "checkpoint.best_by=retrieval", "evaluation.retrieval=true",
        )  # fmt: skip
    if verdict.predictions == "worse":
        rate = min(settings["optimizer"]["learning_rate"] / 5, GENTLE_RATE)
        yield _again(
            run, "Or train again in smaller steps, which change the model more gently (a lower "
            "learning rate):",
            "gentle", f"optimizer.learning_rate={rate:.2g}",
        )  # fmt: skip
    # More of the same training would raise the price, too.
    elif verdict.label == "no clear change" or (is_still_falling(run) and not is_at_a_price):
        yield _longer(verdict, texts[0], run, settings)
    if verdict.label in ("improved", "mixed"):
        yield from _measure_more(model, texts, run)
    if words_find_more and verdict.label != "mixed":
        yield Step(f"To find pages, use {WORD_SEARCH}, which finds more than either model.")


def _words_find_more(found: RetrievalFindings, model: Model) -> bool:
    """Whether BM25 clearly finds more than the model, and more than its base."""
    behind = [found.of(name).against_bm25 for name in (model.name, model.base)]
    return all(of is not None and change(of, is_loss=False) == "worse" for of in behind)


def has_forgotten(model: Model, texts: tuple[Text, ...]) -> bool:
    """Whether a model has clearly become worse on general text, and by how much matters."""
    if model.compared_with != model.base:
        return False  # the base could not predict words, so there was nothing to forget
    losses = [text.loss_change_of(model.name).loss for text in texts if text.kind == "general"]
    return any(change(loss) == "worse" and (loss.value or 0.0) >= MUCH_FORGETTING
               for loss in losses)  # fmt: skip


def is_still_falling(run: Run) -> bool:
    """Whether the validation loss fell so much at the end that training ended too early."""
    losses = [record["eval_loss"] for record in run.evaluations]
    return len(losses) > 2 and losses[-2] - losses[-1] > STILL_FALLING


def search_by_step(run: Run) -> dict[int, float]:
    """Return nDCG at 10 at each step where training measured it."""
    name = "eval_retrieval_ndcg_at_10"
    return {record["step"]: record[name] for record in run.evaluations if name in record}


def best_step_of_search(run: Run) -> int | None:
    """Return the step with the best nDCG at 10, 0 before training; None if it is the result's."""
    by_step, kept = search_by_step(run), run.eval_results["step"]
    if len(by_step) < 2 or kept not in by_step:
        return None
    best = max(by_step, key=lambda step: by_step[step])
    return best if by_step[best] > by_step[kept] else None


def _use(
    verdict: Verdict,
    finds_less: bool,
    words_find_more: bool,
    model: Model,
    settings: dict[str, Any],
) -> Step:
    """Say which model to use, and for what."""
    if verdict.label == "worse":
        return Step(
            "Keep using the model that you started from, because this training did not help."
        )
    best_at_search = "the new model"
    if words_find_more:
        best_at_search = f"{WORD_SEARCH} (which finds more than either model)"
    elif finds_less:
        best_at_search = "the one that you started from"
    if verdict.label == "mixed" and not finds_less:
        return Step(
            f"Use {best_at_search} to search, and the model that you started from to predict words."
        )
    sentences = settings["evaluation"]["examples"]
    try_it = _command("fill", "--model", model.location, *(sentences or [EXAMPLE])[:1])
    if verdict.label == "mixed":
        return Step(
            f"Use the new model to predict words, and {best_at_search} to search. Try the new "
            "model: it fills in the [MASK] of any sentence.", try_it,
        )  # fmt: skip
    return Step("Try the new model: it fills in the [MASK] of any sentence.", try_it)


def _longer(verdict: Verdict, domain: Text, run: Run, settings: dict[str, Any]) -> Step:
    """Say how to train for longer, or how to measure on more text if that is what is missing."""
    corpus, training = settings["corpus"], settings["training"]
    is_unclear = verdict.label == "no clear change"
    if is_unclear and domain.interval_unit == "chunks" and not corpus["validation_sources"]:
        fraction = min(3 * corpus["validation_fraction"], LARGEST_VALIDATION_FRACTION)
        documents = counted(domain.num_documents, "document")
        return _again(
            run, f"Train again, and set more text apart for measuring: {documents} may be too few "
            "to show a difference.",
            "measured", f"corpus.validation_fraction={fraction:.2g}",
        )  # fmt: skip
    reason = (
        "the model was still improving when training ended"
        if is_still_falling(run)
        else "this run may have been too short to make a difference"
    )
    changes = [f"training.max_steps={2 * run.train_results['global_step']}"]
    if training["max_tokens"] is not None:
        changes.append("training.max_tokens=null")
    return _again(run, f"Train again for twice as long: {reason}.", "longer", *changes)


def _measure_more(model: Model, texts: tuple[Text, ...], run: Run) -> Iterator[Step]:
    """Yield what has not been measured yet of a model that has gained something."""
    if model.compared_with != model.base:
        yield Step(
            "If you have texts with labels, such as messages sorted by topic, measure whether the "
            "new model sorts them better. This writes task.yaml, which explains how:",
            _command("init", "task"),
        )
    elif len(texts) == 1:
        yield Step(
            "Measure what it has forgotten, on everyday text such as news or letters. Put the name "
            "of a folder with such text in the place of FOLDER:",
            _command("report", run.path, "evaluation.general=[{format: text, path: FOLDER}]"),
        )


def _again(run: Run, text: str, ending: str, *changes: str) -> Step:
    """Return the step that trains a run again with some changes, into another folder."""
    command = ("train", "--config", f"{run.path}/config.resolved.yaml")
    return Step(text, _command(*command, f"run.output_dir={run.path}-{ending}", *changes))


def _command(*arguments: str) -> str:
    return shlex.join(["mlmtune", *arguments])
