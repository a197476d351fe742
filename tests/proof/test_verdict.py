import pytest

from mlmtune.proof.findings import Change, Estimate, Measurement, Model, Run, Text
from mlmtune.proof.verdict import judge

ADAPTED = Model("new", "old", "runs/new", head_is_new=False, tokenizer="one")


def measured(model, loss, change=None):
    share = Estimate(0.4, (0.3, 0.5))
    changes = None if change is None else Change(change, share, share)
    perplexity = Estimate(loss * 10)
    return Measurement(
        model, 1000, 1000, Estimate(loss), perplexity, None, None, share, share, changes
    )  # fmt: skip


def text(kind, change):
    measurements = (measured("old", 3.0), measured("new", 3.0 + (change.value or 0.0), change))
    return Text(kind, kind, 50, 100, 1, "documents", measurements)


def run(losses=(3.0, 2.9, 2.8), **results):
    evaluations = tuple({"step": n, "eval_loss": loss} for n, loss in enumerate(losses))
    results = {"model_head_was_new": False, **results}
    return Run("new", "runs/new", (), evaluations, {}, results, {}, "", {})


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
    assert (label == "improved") != any("learning_rate" in s for s in verdict.suggestions)


@pytest.mark.parametrize(
    ("change", "is_said", "is_advised"),
    [(WORSE, True, True), (Estimate(0.02, (0.01, 0.03)), True, False), (UNCLEAR, False, False)],
)
def test_forgetting_is_said_and_much_of_it_is_advised_on(change, is_said, is_advised):
    verdict = judge(ADAPTED, (text("domain", BETTER), text("general", change)), run())
    assert verdict.label == "improved"
    assert any("general text has lost" in reason for reason in verdict.reasons) == is_said
    assert any("replay" in suggestion for suggestion in verdict.suggestions) == is_advised
    assert ("forgotten" in verdict.sentence) == is_advised


def test_a_curve_that_still_falls_wants_more_training():
    falling = judge(ADAPTED, (text("domain", BETTER),), run())
    assert any("still falling" in suggestion for suggestion in falling.suggestions)
    flat = judge(ADAPTED, (text("domain", BETTER),), run((3.0, 2.5, 2.49)))
    assert flat.suggestions == ()


@pytest.mark.parametrize(
    ("losses", "change", "label"),
    [((7.0, 5.0, 4.0), BETTER, "improved"), ((7.0, 5.0, 5.1), BETTER, "no clear change"),
     ((7.0, 8.0), WORSE, "worse")],
)  # fmt: skip
def test_a_new_head_is_judged_by_what_remains(losses, change, label):
    verdict = judge(ADAPTED, (text("domain", change),), run(losses, model_head_was_new=True))
    assert verdict.label == label
    assert "says nothing of what the base model knew" in verdict.reasons[0]
    assert "before" not in verdict.sentence
