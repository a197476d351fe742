"""The verdict on a run: what its measurements mean."""

from collections.abc import Iterator
from dataclasses import replace

from mlmtune.numbers import share as share_of
from mlmtune.printable import counted
from mlmtune.report.estimates import change, nats, perplexity, points, share
from mlmtune.report.findings import (
    Estimate,
    Measurement,
    Model,
    RetrievalFindings,
    Run,
    Text,
    Verdict,
    WordMeasurement,
)
from mlmtune.report.next_steps import (
    best_step_of_search,
    has_forgotten,
    next_steps,
    search_by_step,
)
from mlmtune.report.retrieval import BM25
from mlmtune.training.outcome import (
    Label,
    combined,
    in_points,
    judge_new_head,
    remark_on_retrieval,
)

LABELS: dict[str, Label] = {
    "better": "improved", "unclear": "no clear change", "worse": "worse",
}  # fmt: skip
"""The label by one measure alone."""

_ON_THE_DOMAIN: dict[Label, str] = {
    "improved": "The adapted model is better on the domain's text",
    "no clear change": "There is no clear change on the domain's text",
    "worse": "The adapted model is worse than its base on the domain's text",
}
_ON_GENERAL_TEXT = {
    "better": "general text has gained:",
    "unclear": "general text shows no clear change:",
    "worse": "general text has lost:",
}

_ON_RETRIEVAL = {
    "better": "retrieval improved",
    "unclear": "retrieval shows no clear change",
    "worse": "retrieval got worse",
}


def judge(
    model: Model,
    texts: tuple[Text, ...],
    run: Run,
    found: RetrievalFindings | None = None,
) -> Verdict:
    """Judge an adapted model by its run and its measurements.

    Args:
        model: The model.
        texts: The measurements on texts, the domain's text first, which alone decides the label.
            Forgetting does not: nearly every adaptation forgets, and how much of that matters is
            for the user to say (`evaluation.max_forgetting`).
        run: How the run went.
        found: How well models find documents, if that was measured. It decides the label, too.
    """
    verdict = _judge_predictions(model, texts, run)
    if found is not None:
        verdict = _with_retrieval(verdict, found, model, run)
    return replace(verdict, steps=tuple(next_steps(verdict, model, texts, run, found)))


def _with_retrieval(verdict: Verdict, found: RetrievalFindings, model: Model, run: Run) -> Verdict:
    """Add to a verdict what became of retrieval, and name a conflict with perplexity."""
    measured, base = found.of(model.name), found.of(model.base)
    changed = found.change_of(model.name).ndcg_at_10
    kind = change(changed, is_loss=False)
    label = combined(verdict.label, LABELS[kind])
    difference = in_points(changed.value or 0.0, changed.interval)
    sentence = verdict.sentence.removesuffix(".")
    sentence += remark_on_retrieval(verdict.label, LABELS[kind], difference)
    first = [share(m.measures.recall_at_1, with_interval=False) for m in (base, measured)]
    bm25 = share(found.of(BM25).measures.recall_at_1, with_interval=False)
    reason = (
        f"{_ON_RETRIEVAL[kind]} ({difference} of nDCG at 10): of "
        f"{counted(found.num_documents, 'document')}, {first[0]} came first for their own query "
        f"before, {first[1]} after (BM25: {bm25})"
    )
    return replace(
        verdict,
        label=label,
        sentence=f"{sentence}.",
        reasons=(*verdict.reasons, reason, *_better_checkpoint(run)),
    )


def _better_checkpoint(run: Run) -> Iterator[str]:
    """Say at which step retrieval was best, if the run measured it and kept another one."""
    best, by_step, kept = best_step_of_search(run), search_by_step(run), run.eval_results["step"]
    if best is None:
        return
    where = f"at step {best:,}" if best else "before training"
    remedy = "; set checkpoint.best_by: retrieval to keep that checkpoint" if best else ""
    yield (
        f"retrieval was best {where} (nDCG at 10: {share_of(by_step[best])}, against "
        f"{share_of(by_step[kept])} at step {kept:,}, whose weights are in model/){remedy}"
    )


def _judge_predictions(model: Model, texts: tuple[Text, ...], run: Run) -> Verdict:
    """Judge an adapted model by how well it predicts masked tokens."""
    if run.eval_results["model_head_was_new"]:
        return _judge_new_head(model, texts, run)
    name, domain = model.name, texts[0]
    before, after = domain.of(model.compared_with), domain.of(name)
    if after.change is None:
        return _judge_words(model, texts, run)
    loss = after.change.loss
    label = LABELS[change(loss)]
    sentence = (
        f"{_ON_THE_DOMAIN[label]}: perplexity {_perplexity(before)} before, "
        f"{_perplexity(after)} after"
    )
    reasons = [
        f"the loss changed by {nats(loss)} nats per token on "
        f"{counted(after.num_masked_tokens, 'masked token')} of {_documents(domain)}",
        f"the right token is the likeliest {_right(before)} of the time before, "
        f"{_right(after)} after",
        *_too_little_text(domain, loss),
    ]
    return _with_price(model, texts, run, Verdict(name, label, label, sentence, tuple(reasons)))


def _judge_words(model: Model, texts: tuple[Text, ...], run: Run) -> Verdict:
    """Judge a model whose tokens are not those of its base, by the same words of the text."""
    domain = texts[0]
    words = domain.words
    if words is None:
        sentence = (
            "Its tokenizer is not that of its base, and words could not be compared, so it is not "
            "known whether the model is better"
        )
        verdict = Verdict(model.name, "no clear change", "no clear change", sentence, ())
        return _with_price(model, texts, run, verdict)
    before, after = words.of(model.compared_with), words.of(model.name)
    loss = domain.loss_change_of(model.name).loss
    label = LABELS[change(loss)]
    sentence = (
        f"{_ON_THE_DOMAIN[label]}: {_nats(before)} nats per word before, {_nats(after)} after"
    )
    reasons = [
        f"tokenizers differ, so {counted(words.samples[0].num_words, 'word')} of "
        f"{counted(words.num_documents, 'document')} were predicted as a whole: the loss changed "
        f"by {nats(loss)} nats per word, an interval that holds whether the number of a word's "
        "pieces is counted or not",
        f"pieces per word: {before.pieces_per_word:.2f} before, {after.pieces_per_word:.2f} after",
    ]
    reasons += [
        f"{sample.name} ({sample.num_words}): {nats(m.change.decisive)} nats per word"
        for sample in words.samples[1:]
        for m in sample.measurements
        if m.model == model.name and m.change is not None
    ]
    if loss.interval is None:
        reasons.append(
            "there is too little text for an interval, and without one no change is clear"
        )
    return _with_price(
        model, texts, run, Verdict(model.name, label, label, sentence, tuple(reasons))
    )


def _with_price(model: Model, texts: tuple[Text, ...], run: Run, verdict: Verdict) -> Verdict:
    """Add to a verdict what it does not depend on: which weights, and what was forgotten."""
    reasons, sentence = [*verdict.reasons], verdict.sentence
    if verdict.label == "worse":
        reasons.append(
            f"model/ holds the weights of step {run.eval_results['step']:,}, and those of the base "
            "are better"
        )
    for text in texts[1:]:
        changed = text.loss_change_of(model.name)
        if changed.loss.value is None:
            reasons.append(
                f"forgetting was not measured on {text.name}: its words were not compared"
            )
        else:
            what = _ON_GENERAL_TEXT[change(changed.loss)]
            shown = f"{nats(changed.loss)} nats per {changed.unit}"
            reasons.append(f"{what} {shown} ({text.name})")
    if len(texts) == 1:
        reasons.append("forgetting was not measured: there is no evaluation.general")
    if has_forgotten(model, texts):
        sentence += "; it has forgotten general text"
    return replace(verdict, sentence=f"{sentence}.", reasons=tuple(reasons))


def _judge_new_head(model: Model, texts: tuple[Text, ...], run: Run) -> Verdict:
    """Judge a model whose base had no head: it must predict better than token frequencies alone."""
    name, (domain, *general) = model.name, texts
    frequencies, after = domain.of(model.compared_with), domain.of(name)
    against = domain.change_of(name)
    # A better guess of the frequencies lowers the loss, so more predictions must be right, too.
    beyond = change(against.accuracy, is_loss=False) == "better"
    by_loss = change(against.loss)
    compared = LABELS[by_loss] if by_loss == "worse" or beyond else "no clear change"
    label, sentence = judge_new_head(compared, run.eval_results["loss_fell"])
    sentence += (
        f" ({_right(after)} right, frequency alone {_right(frequencies)}): perplexity "
        f"{_perplexity(after)}, frequency alone {_perplexity(frequencies)}"
    )
    reasons = [
        "the base model has no masked-LM head, so its predictions do not show what it knew; the "
        "baseline is token frequencies alone, which always predict the most frequent token of the "
        "training text",
        f"right predictions against frequency alone: {points(against.accuracy)} points, on "
        f"{counted(after.num_masked_tokens, 'masked token')} of {_documents(domain)}",
        *_too_little_text(domain, against.accuracy),
    ]
    losses = [record["eval_loss"] for record in run.evaluations if record["step"] > 0]
    if len(losses) > 1:
        reasons.append(
            f"the validation loss went from {losses[0]:.3f} at the first evaluation to "
            f"{min(losses):.3f} at the best"
        )
    reasons += [
        f"on general text its loss is {nats(text.change_of(name).loss)} nats per token against "
        f"frequency alone ({text.name})"
        for text in general
    ]
    reasons.append("forgetting cannot be measured, because the base had no masked-LM head")
    return Verdict(name, label, label, f"{sentence}.", tuple(reasons))


def _documents(text: Text) -> str:
    return counted(text.num_documents, "document")


def _too_little_text(text: Text, decisive: Estimate) -> Iterator[str]:
    """Say why the interval of a decisive estimate is missing, or means less than it seems to."""
    if decisive.interval is None:
        yield "there is too little text for an interval, and without one no change is clear"
    elif text.interval_unit == "chunks":
        yield (
            f"the interval comes from the chunks of {_documents(text)}, too few to say anything "
            "about other documents"
        )


def _perplexity(measured: Measurement) -> str:
    return perplexity(measured.perplexity, with_interval=False)


def _nats(measured: WordMeasurement) -> str:
    return f"{measured.losses.loss.value or 0.0:.2f}"


def _right(measured: Measurement) -> str:
    return share(measured.accuracy, with_interval=False)
