from dataclasses import replace

import pytest
from judged import ADAPTED, BASE, BETTER, SLIGHTLY, UNCLEAR, WORSE, pages, report

from mlmtune.report.findings import Estimate, Standing
from mlmtune.report.first_screen import leaderboard, ranking, summaries
from mlmtune.report.verdict import judge


@pytest.mark.parametrize(
    ("changes", "answer", "tags"),
    [
        ((BETTER, UNCLEAR), "Yes. The model now predicts", ("better", "no clear change")),
        ((BETTER, SLIGHTLY), "Yes. The model now predicts", ("better", "slightly worse")),
        ((BETTER, WORSE), "Yes, but at a price. ", ("better", "worse")),
        ((BETTER,), "Yes, as far as it was measured. ", ("better", "not measured")),
        (
            (UNCLEAR, UNCLEAR),
            "Not clearly. The model shows no clear change in ",
            ("no clear change", "no clear change"),
        ),
        ((WORSE, WORSE), "No. The model predicts", ("worse", "worse")),
    ],
)
def test_the_first_sentence_answers_whether_it_helped_and_at_what_price(changes, answer, tags):
    [summary] = summaries(report(*changes))
    words, _, general = summary.figures
    assert summary.sentence.startswith(answer)
    assert ("has forgotten" in summary.sentence) == (tags[1] == "worse")
    assert (words.tag, general.tag) == tags
    assert (words.after, words.before) == ("65.0%", "before: 40.0%")
    # A number that does not show what the verdict goes by is not given as the reason for it.
    by_guesses, by_loss = "better by 25.0 points (20.0 to 30.0)", "times as probable as before"
    assert words.difference.endswith(by_guesses if tags[0] == "better" else by_loss)


@pytest.mark.parametrize(
    ("loss", "change", "tag", "answer", "end"),
    [
        (BETTER, Estimate(-0.3, (-0.4, -0.2)), "worse", "Partly. The model now predicts",
         "better than before, but finds the right page less often."),
        (BETTER, Estimate(0.3, (0.2, 0.4)), "better", "Yes. The model now predicts",
         "better than before and finds the right page more often."),
        (BETTER, Estimate(-0.3, (-0.7, 0.1)), "no clear change", "Yes. The model now predicts",
         "better than before."),
        (WORSE, Estimate(0.3, (0.2, 0.4)), "better", "Partly. The model finds the right page more",
         "often, but predicts the words of your text worse than before."),
        (UNCLEAR, Estimate(-0.3, (-0.4, -0.2)), "worse", "No. The model shows no clear change in",
         "your text, but finds the right page less often."),
    ],
)  # fmt: skip
def test_finding_pages_is_a_number_and_part_of_the_answer(loss, change, tag, answer, end):
    [summary] = summaries(report(loss, UNCLEAR, found=pages(change)))
    page = summary.figures[1]
    assert (page.tag, page.after, page.before) == (tag, "40.0%", "before: 77.0%")
    assert "plain word search: 80.0%" in page.meaning
    assert ("nDCG" in page.difference) == (tag != "worse")
    assert summary.sentence.startswith(answer)
    assert summary.sentence.endswith(end)


def test_a_new_head_has_not_learned_if_only_its_guess_of_frequencies_is_better():
    one = report(BETTER, is_new=True)
    stayed = replace(one.runs[0], eval_results={**one.runs[0].eval_results, "loss_fell": False})
    verdict = judge(one.models[-1], one.texts, stayed)
    [summary] = summaries(replace(one, verdicts=(verdict,)))
    assert summary.figures[0].tag == "no clear change"
    assert summary.sentence.startswith("Not clearly. The model has not clearly learned")


def several(*behind):
    """Make a report on a first run and others behind it."""
    one = report(BETTER, UNCLEAR)
    names = ["new", *(f"run{number}" for number in range(len(behind)))]
    text = one.texts[0]
    rows = (text.measurements[0], *(replace(text.measurements[1], model=name) for name in names))
    return replace(
        one,
        models=(BASE, *(replace(ADAPTED, name=name) for name in names)),
        texts=(replace(text, measurements=rows),),
        general_is_missing=True,
        verdicts=tuple(replace(one.verdicts[0], run=name) for name in names),
        runs=tuple(replace(one.runs[0], name=name) for name in names),
        standings=tuple(
            Standing(name, "loss", estimate)
            for name, estimate in zip(names, (None, *behind), strict=True)
        ),
    )


@pytest.mark.parametrize(
    ("behind", "said", "last"),
    [((WORSE, WORSE), "clearly better than the others", "clearly worse: +0.300 [+0.200, +0.400]"),
     ((WORSE, UNCLEAR), "its lead over run1 may be chance", "may be as good: "),
     ((WORSE, None), "its lead over run1 may be chance", "other tokens")],
)  # fmt: skip
def test_several_runs_are_ranked_and_an_unclear_lead_is_called_so(behind, said, last):
    compared = several(*behind)
    assert said in ranking(compared)
    header, first, *_, third = leaderboard(compared)
    assert len(header) == len(first) == len(third)
    assert (first[0], first[-1]) == ("1. new", "the best")
    assert third[-1].startswith(last)


def test_runs_may_be_ranked_by_the_pages_that_they_find():
    behind = Estimate(-0.3, (-0.4, -0.2))
    standings = Standing("new", "ndcg_at_10", None), Standing("run0", "ndcg_at_10", behind)
    compared = replace(several(WORSE), standings=standings)
    assert "finds the right page best, clearly better" in ranking(compared)
    assert leaderboard(compared)[2][-1] == "clearly worse: -30.0 [-40.0, -20.0]"


def test_runs_that_do_not_compare_are_not_ranked():
    compared = replace(several(WORSE), standings=())
    assert "cannot be ranked" in ranking(compared)
    assert [row[-1] for row in leaderboard(compared)[1:]] == ["not ranked", "not ranked"]


def test_a_base_without_a_head_is_not_called_a_measurement_before_training():
    [summary] = summaries(report(BETTER, WORSE, is_new=True))
    words, _, general = summary.figures
    assert words.before == "word frequencies alone: 40.0%"
    assert words.difference == "better by 25.0 points (20.0 to 30.0)"
    assert "learned to predict" in summary.sentence
    assert general.tag == "cannot be measured"
