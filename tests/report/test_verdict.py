from dataclasses import replace

import pytest
from judged import finished as run

from mlmtune.report.findings import (
    Change,
    Estimate,
    Measurement,
    Model,
    RetrievalFindings,
    RetrievalMeasurement,
    RetrievalMeasures,
    Text,
)
from mlmtune.report.verdict import judge

ADAPTED = Model("new", "old", "runs/new", False, "one", compared_with="old")
MORE_RIGHT, AS_RIGHT = Estimate(0.3, (0.2, 0.4)), Estimate(-0.004, (-0.02, 0.01))


def measured(model, loss, change=None, accuracy=MORE_RIGHT):
    share = Estimate(0.4, (0.3, 0.5))
    changes = None if change is None else Change(change, accuracy, share)
    perplexity = Estimate(loss * 10)
    return Measurement(
        model, 1000, 1000, Estimate(loss), perplexity, None, None, share, share, changes
    )  # fmt: skip


def text(kind, change, accuracy=MORE_RIGHT, num_documents=50):
    after = measured("new", 3.0 + (change.value or 0.0), change, accuracy)
    unit = "documents" if num_documents >= 20 else "chunks"
    return Text(kind, kind, num_documents, 100, 1, unit, (measured("old", 3.0), after))


BETTER, WORSE = Estimate(-0.5, (-0.6, -0.4)), Estimate(0.3, (0.2, 0.4))
UNCLEAR, ALONE = Estimate(-0.1, (-0.3, 0.1)), Estimate(-0.5)


@pytest.mark.parametrize(
    ("change", "label"),
    [(BETTER, "improved"), (WORSE, "worse"), (UNCLEAR, "no clear change"),
     (ALONE, "no clear change")],
)  # fmt: skip
def test_the_interval_decides(change, label):
    verdict = judge(ADAPTED, (text("domain", change),), run())
    assert verdict.label == label
    assert "perplexity 30.00 before" in verdict.sentence
    assert any("forgetting was not measured" in reason for reason in verdict.reasons)


def test_a_model_that_got_worse_is_said_to_be_worse_than_its_base():
    verdict = judge(ADAPTED, (text("domain", WORSE),), run())
    assert "worse than its base" in verdict.sentence
    assert any("those of the base are better" in reason for reason in verdict.reasons)


@pytest.mark.parametrize(
    ("change", "num_documents", "said"),
    [
        (BETTER, 1, "from the chunks of 1 document, too few"),
        (BETTER, 19, "from the chunks of 19 documents, too few"),
        (BETTER, 20, None),
        (ALONE, 20, "there is too little text for an interval"),
    ],
)
def test_why_an_interval_says_less_than_it_seems_to(change, num_documents, said):
    verdict = judge(ADAPTED, (text("domain", change, num_documents=num_documents),), run())
    caveats = [r for r in verdict.reasons if "too few" in r or "too little" in r]
    assert len(caveats) == (said is not None)
    assert all(said in reason for reason in caveats)


@pytest.mark.parametrize(
    ("change", "said", "is_much"),
    [
        (WORSE, "general text has lost: +0.300", True),
        (Estimate(0.02, (0.01, 0.03)), "general text has lost: +0.020", False),
        (UNCLEAR, "general text shows no clear change: -0.100", False),
        (BETTER, "general text has gained: -0.500", False),
    ],
)
def test_forgetting_is_said_as_in_the_table_and_much_of_it_in_the_sentence(change, said, is_much):
    verdict = judge(ADAPTED, (text("domain", BETTER), text("general", change)), run())
    assert verdict.label == "improved"
    assert [reason for reason in verdict.reasons if reason.startswith(said)]
    assert ("forgotten" in verdict.sentence) == is_much


@pytest.mark.parametrize(
    ("loss_fell", "change", "accuracy", "label", "sentence"),
    [
        (True, BETTER, MORE_RIGHT, "improved", "has learned to predict"),
        (True, BETTER, AS_RIGHT, "no clear change", "little beyond token frequencies"),
        (True, UNCLEAR, MORE_RIGHT, "no clear change", "little beyond token freq"),
        (False, BETTER, MORE_RIGHT, "no clear change", "got no better over the run"),
        (True, WORSE, AS_RIGHT, "worse", "worse than token frequencies do"),
    ],
)
def test_a_new_head_is_judged_by_what_it_predicts_beyond_token_frequencies(
    loss_fell, change, accuracy, label, sentence
):
    texts = (text("domain", change, accuracy), text("general", BETTER))
    verdict = judge(ADAPTED, texts, run(model_head_was_new=True, loss_fell=loss_fell))
    assert verdict.label == label
    assert sentence in verdict.sentence
    assert "(40.0% right, frequency alone 40.0%): perplexity" in verdict.sentence
    assert "before" not in verdict.sentence
    assert "do not show what it knew" in verdict.reasons[0]
    assert any("against frequency alone (general)" in reason for reason in verdict.reasons)
    assert verdict.reasons[-1].startswith("forgetting cannot be measured")


def found(change):
    measures, changes = (RetrievalMeasures(e, e, e, e) for e in (Estimate(0.5), change))
    measurements = [("old", None), ("new", changes), ("BM25", None)]
    return RetrievalFindings(
        50,
        50,
        tuple(RetrievalMeasurement(name, measures, c, UNCLEAR, None) for name, c in measurements),
    )


MORE_FOUND, FEWER_FOUND = Estimate(0.1, (0.05, 0.2)), Estimate(-0.031, (-0.05, -0.012))


@pytest.mark.parametrize(
    ("loss", "retrieval", "label", "said"),
    [
        (
            BETTER, FEWER_FOUND, "mixed",
            "; perplexity improved, retrieval got worse (-3.1 points [-5.0, -1.2]).",
        ),
        (WORSE, MORE_FOUND, "mixed", "; perplexity got worse, retrieval improved (+10.0 points ["),
        (BETTER, MORE_FOUND, "improved", None),
        (BETTER, UNCLEAR, "improved", None),
        (WORSE, FEWER_FOUND, "worse", None),
        (WORSE, UNCLEAR, "worse", None),
        (UNCLEAR, MORE_FOUND, "improved", "; retrieval improved (+10.0 points ["),
        (UNCLEAR, FEWER_FOUND, "worse", "; retrieval got worse (-3.1 points ["),
        (UNCLEAR, UNCLEAR, "no clear change", None),
    ],
)  # fmt: skip
@pytest.mark.parametrize("head_was_new", [False, True])
def test_perplexity_and_retrieval_decide_together_and_a_conflict_is_mixed(
    loss, retrieval, label, said, head_was_new
):
    texts = (text("domain", loss),)
    results = {"model_head_was_new": head_was_new, "loss_fell": True}
    alone = judge(ADAPTED, texts, run(**results))
    verdict = judge(ADAPTED, texts, run(**results), found(retrieval))
    assert (verdict.label, verdict.predictions) == (label, alone.label)
    assert ("retrieval" in verdict.sentence) == (said is not None)
    assert said is None or said in verdict.sentence


@pytest.mark.parametrize(
    ("by_step", "said"),
    [
        ((0.2, 0.9, 0.3), "best at step 1 (nDCG at 10: 90.0%, against 30.0% at step 2"),
        ((0.9, 0.2, 0.3), "best before training"),
        ((0.2, 0.3, 0.9), None),
        ((0.2,), None),
    ],
)
def test_a_better_checkpoint_by_retrieval_is_named(by_step, said):
    record = run()
    name = "eval_retrieval_ndcg_at_10"
    evaluations = tuple({"step": s, "eval_loss": 1.0, name: v} for s, v in enumerate(by_step))
    record = replace(record, evaluations=evaluations)
    verdict = judge(ADAPTED, (text("domain", BETTER),), record, found(UNCLEAR))
    reasons = [reason for reason in verdict.reasons if "retrieval was best" in reason]
    assert len(reasons) == (said is not None)
    assert all(said in reason for reason in reasons)
    if said is not None:
        assert ("checkpoint.best_by: retrieval" in reasons[0]) == ("at step" in said[:13])
