import shlex
from dataclasses import replace
from pathlib import Path

import pytest
from judged import BETTER, CONFIG, UNCLEAR, WORSE, finished, pages, report

from mlmtune.config_loading import load_config
from mlmtune.report.findings import Estimate, Report, Step
from mlmtune.report.first_screen import summaries

FEWER_FOUND, MORE_FOUND = Estimate(-0.3, (-0.4, -0.2)), Estimate(0.3, (0.2, 0.4))
FALLING = finished((3.0, 2.9, 2.8))


def steps_of(one: Report) -> tuple[Step, ...]:
    [summary] = summaries(one)
    return summary.steps


def searched(*by_step: float, loss: Estimate = BETTER) -> Report:
    """Return a report on a run that finds fewer pages, and measured that while it trained."""
    run = finished()
    evaluations = tuple(
        {**record, "eval_retrieval_ndcg_at_10": value}
        for record, value in zip(run.evaluations, by_step, strict=True)
    )
    run = replace(run, evaluations=evaluations)
    return report(loss, UNCLEAR, found=pages(FEWER_FOUND), run=run)


@pytest.mark.parametrize(
    ("one", "commands"),
    [
        (report(BETTER, UNCLEAR), ["fill"]),
        (report(BETTER, UNCLEAR, run=FALLING), ["fill", "train max_steps=4"]),
        (report(BETTER), ["fill", "report evaluation.general"]),
        (report(BETTER, WORSE, run=FALLING), ["fill", "merge"]),
        (report(BETTER, UNCLEAR, found=pages(FEWER_FOUND)), ["fill", "merge"]),
        (report(BETTER, WORSE, found=pages(FEWER_FOUND)), ["fill", "merge"]),
        (searched(0.2, 0.9, 0.3), ["fill", "merge", "train best_by=retrieval"]),
        (searched(0.9, 0.2, 0.3), ["fill", "merge"]),
        (searched(0.2, 0.9, 0.3, loss=WORSE), ["", "train learning_rate=0.0001"]),
        (report(UNCLEAR, UNCLEAR), ["fill", "train max_steps=4"]),
        (report(UNCLEAR, num_documents=19), ["fill", "train validation_fraction=0.15"]),
        (report(UNCLEAR, found=pages(FEWER_FOUND), run=FALLING), [""]),
        (report(WORSE), ["", "train learning_rate=0.0001"]),
        (report(WORSE, WORSE, found=pages(FEWER_FOUND)), ["", "train learning_rate=0.0001"]),
        (report(WORSE, found=pages(MORE_FOUND)),
         ["", "train learning_rate=0.0001", "report evaluation.general"]),
        (report(BETTER, is_new=True), ["fill", "init task"]),
        (report(BETTER, is_new=True, found=pages(FEWER_FOUND)), ["fill", "merge", "init task"]),
    ],
)  # fmt: skip
def test_each_outcome_has_steps_that_do_not_contradict_each_other(
    one: Report, commands: list[str]
) -> None:
    steps = steps_of(one)
    assert len(steps) == len(commands)
    for step, command in zip(steps, commands, strict=True):
        words = shlex.split(step.command)
        assert words[:1] == (["mlmtune"] if command else [])
        assert all(any(part in word for word in words) for part in command.split())
        # Whoever reads no further must not need to know what a setting is.
        assert "_" not in step.text


def test_a_model_that_is_worse_is_not_offered_for_use() -> None:
    first = steps_of(report(WORSE))[0]
    assert first.text.startswith("Keep using the model that you started from")
    mixed = steps_of(report(BETTER, UNCLEAR, found=pages(FEWER_FOUND)))[0]
    assert "the one that you started from to search" in mixed.text


@pytest.mark.parametrize("found", [FEWER_FOUND, MORE_FOUND])
@pytest.mark.parametrize("loss", [BETTER, WORSE])
def test_plain_word_search_is_proposed_once_where_it_finds_more(
    loss: Estimate, found: Estimate
) -> None:
    texts = [step.text for step in steps_of(report(loss, found=pages(found, FEWER_FOUND)))]
    assert sum("plain word search (BM25)" in text for text in texts) == 1
    assert not any("started from to search" in text or "model to search" in text for text in texts)
    texts = [step.text for step in steps_of(report(loss, found=pages(found, MORE_FOUND)))]
    assert not any("plain word search" in text for text in texts)


def test_commands_that_train_again_work_as_they_are_written(tmp_path: Path) -> None:
    folder = tmp_path / "my runs" / "new"
    folder.mkdir(parents=True)
    (folder / "config.resolved.yaml").write_text(CONFIG, encoding="utf-8")
    run = replace(finished(), path=str(folder))
    changed = {
        "max_steps": report(UNCLEAR, run=run), "learning_rate": report(WORSE, run=run),
        "validation_fraction": report(UNCLEAR, run=run, num_documents=5),
    }  # fmt: skip
    for one in changed.values():
        command, _, config, *overrides = shlex.split(steps_of(one)[1].command)[1:]
        assert command == "train"
        loaded = load_config(config, overrides)
        assert loaded.run.output_dir != load_config(config).run.output_dir


def test_the_model_is_tried_on_the_sentences_of_the_user() -> None:
    config = CONFIG.replace("examples: []", "examples: ['Deploy the [MASK] first.']")
    assert config != CONFIG
    run = replace(finished(), config=config)
    command = steps_of(report(BETTER, run=run))[0].command
    assert shlex.split(command)[-1] == "Deploy the [MASK] first."


def test_a_limit_in_tokens_does_not_end_a_longer_run() -> None:
    config = CONFIG.replace("max_tokens: null", "max_tokens: 1000")
    assert config != CONFIG
    run = replace(finished((3.0, 2.9, 2.8)), config=config)
    assert steps_of(report(BETTER, run=run))[1].command.endswith("training.max_tokens=null")


@pytest.mark.parametrize(("rate", "proposed"), [("5.0e-05", "1e-05"), ("0.01", "0.0001")])
def test_a_lower_learning_rate_is_one_that_does_not_ruin_a_model(rate: str, proposed: str) -> None:
    config = CONFIG.replace("learning_rate: 0.0005", f"learning_rate: {rate}")
    assert config != CONFIG
    run = replace(finished(), config=config)
    command = steps_of(report(WORSE, run=run))[1].command
    assert command.endswith(f"optimizer.learning_rate={proposed}")
