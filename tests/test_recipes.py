"""Each config that comes with mlmtune, run for two steps on a tiny model and a little text."""

import json
import math
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from runs import Run
from trials import TRIALS, english

from mlmtune.classification.building import build_task
from mlmtune.commands.check import preview
from mlmtune.config import ClassificationConfig, Config
from mlmtune.config_loading import SHIPPED_TASKS, load_config, shipped_configs
from mlmtune.training.loop import train
from mlmtune.training.masked_lm import build_masked_lm
from mlmtune.training.run_options import RunOptions

ROOT = Path(__file__).parent.parent
NAMES = list(TRIALS)


# ------------------------------------------------------------------------------------- recipes


@pytest.fixture
def trial_config(
    tiny_models: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], Config]:
    """Return a shipped config with another model, other text, and two small steps."""
    monkeypatch.chdir(tmp_path)

    def load(name: str) -> Config:
        overrides = [
            *TRIALS[name].text(),
            f"model.name_or_path={tiny_models(TRIALS[name].model)}",
            "run.output_dir=run",
            "training.max_steps=2",
            "training.global_batch_size=8",
            "training.precision=fp32",
        ]
        recipe = load_config(shipped_configs()[name])
        if isinstance(recipe.training.micro_batch_size, int):
            overrides.append("training.micro_batch_size=4")
        return load_config(shipped_configs()[name], overrides)

    return load


@pytest.fixture
def run_of(trial_config: Callable[[str], Config]) -> Callable[[str], Run]:
    def run(name: str) -> Run:
        train(trial_config(name), RunOptions(is_quiet=True), build_masked_lm)
        return Run(Path("run"))

    return run


def test_each_shipped_config_has_its_trial() -> None:
    assert sorted(shipped_configs()) == sorted([*NAMES, *SHIPPED_TASKS])


def header(name: str) -> list[str]:
    """Return the paragraphs of the comment that a config begins with."""
    text = shipped_configs()[name].read_text(encoding="utf-8")
    comment = text[: text.index("\n\n")]
    assert all(line.startswith("#") for line in comment.splitlines())
    return re.sub("^# ?", "", comment, flags=re.MULTILINE).split("\n\n")


@pytest.mark.parametrize("name", NAMES)
def test_each_recipe_says_what_it_is_when_to_use_it_and_how(name: str) -> None:
    what, *paragraphs = header(name)
    assert f"    bash scripts/run.sh configs/{name}.yaml" in paragraphs
    if name != "quickstart":
        assert what.endswith(".")
        assert "\n" not in what  # `mlmtune init` shows one line
        assert paragraphs[0].startswith("When to use it: ")
    assert any("(*)" in paragraph for paragraph in paragraphs)


@pytest.mark.parametrize("name", NAMES)
def test_each_recipe_is_a_page(name: str) -> None:
    lines_of_it = shipped_configs()[name].read_text(encoding="utf-8").splitlines()
    assert len(lines_of_it) <= 64
    assert max(map(len, lines_of_it)) <= 100


@pytest.mark.parametrize("name", NAMES)
def test_each_recipe_trains(
    name: str, run_of: Callable[[str], Run], capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_of(name)
    results = run.json("eval_results.json")
    assert run.json("status.json")["step"] == 2
    assert 1 < results["perplexity_before"] < math.inf
    assert 1 < results["perplexity"] < math.inf
    assert (run.path / "model" / "model.safetensors").is_file()

    shown = capsys.readouterr().out
    recipe = load_config(shipped_configs()[name])
    assert all(example in shown for example in recipe.evaluation.examples)
    # What was run is the recipe: only the model, the paths and the size of a step differ.
    ran = load_config(run.path / "config.resolved.yaml")
    same = ("objective", "tokenization", "chunking", "masking", "optimizer", "evaluation")
    assert {key: getattr(ran, key) for key in same} == {key: getattr(recipe, key) for key in same}
    assert ran.corpus.model_copy(update={"sources": recipe.corpus.sources}) == recipe.corpus
    assert recipe.evaluation.mlm_probability == 0.15
    tokens = run.json("corpus.json")["validation"]["tokens"]
    num_masked_per_draw = results["num_predictions"] / results["num_mask_draws"]
    assert num_masked_per_draw == pytest.approx(0.15 * tokens, rel=0.35)


def test_the_recipe_of_a_task_trains_a_classifier(
    tiny_models: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("data/task").mkdir(parents=True)
    for name, seeds in (("train", range(60)), ("dev", range(60, 70)), ("test", range(70, 80))):
        rows = [json.dumps({"text": english(seed, 2), "label": "ab"[seed % 2]}) for seed in seeds]
        Path(f"data/task/{name}.jsonl").write_text("\n".join(rows), encoding="utf-8")
    recipe = shipped_configs()["task"]
    model = tiny_models("roberta")
    changes = [
        f"model.name_or_path={model}", "training.max_steps=2", "training.precision=fp32",
    ]  # fmt: skip
    config = load_config(recipe, changes, kind=ClassificationConfig)
    train(config, RunOptions(is_quiet=True), build_task)
    run = Run(Path("runs/task"))
    assert run.json("test_results.json")["num_examples"] == 10
    assert run.json("data.json")["labels"] == ["a", "b"]


def test_the_recipe_of_entities_trains_a_tagger(
    tiny_models: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("data/entities").mkdir(parents=True)
    for name, seeds in (("train", range(60)), ("dev", range(60, 70)), ("test", range(70, 80))):
        lines = [
            "\n".join(f"{word} {'OB'[n % 2]}{'-A' * (n % 2)}" for n, word in enumerate(words))
            for words in (english(seed, 2).split() for seed in seeds)
        ]
        Path(f"data/entities/{name}.txt").write_text("\n\n".join(lines), encoding="utf-8")
    changes = [
        f"model.name_or_path={tiny_models('roberta')}", "training.max_steps=2",
        "training.precision=fp32",
    ]  # fmt: skip
    config = load_config(shipped_configs()["entities"], changes, kind=ClassificationConfig)
    train(config, RunOptions(is_quiet=True), build_task)
    run = Run(Path("runs/entities"))
    assert run.json("test_results.json")["num_sentences"] == 10
    assert run.json("data.json")["labels"] == ["O", "B-A", "I-A"]


@pytest.mark.parametrize("name", ["imdb", "imdb-wwm"])
def test_the_course_takes_as_many_chunks_as_there_are(
    name: str, run_of: Callable[[str], Run]
) -> None:
    recipe = load_config(shipped_configs()[name]).corpus
    assert (recipe.max_train_chunks, recipe.max_validation_chunks) == (10_000, 1_000)
    corpus = run_of(name).json("corpus.json")
    assert corpus["validation"]["chunks"] == 1_000
    assert 100 < corpus["train"]["chunks"] < 10_000


def test_whole_words_of_the_course_are_all_masked(
    trial_config: Callable[[str], Config], capsys: pytest.CaptureFixture[str]
) -> None:
    preview(trial_config("imdb-wwm"), measure=False, num_chunks=1, num_draws=1, compares=False)
    shown = capsys.readouterr().out
    rate = re.search(r"([\d.]+)% of [\d,]+ tokens are predicted; of these 100\.0% are", shown)
    assert rate is not None, shown
    assert float(rate[1]) == pytest.approx(20, abs=4)


def test_sentence_pairs_are_measured_beside_the_masks(run_of: Callable[[str], Run]) -> None:
    results = run_of("azure-nsp").json("eval_results.json")
    assert 0 <= results["pair_accuracy"] <= 1
    assert results["num_pairs"] > 0


def test_what_a_task_is_tested_on_is_left_out(run_of: Callable[[str], Run]) -> None:
    documents = run_of("tapt").json("corpus.json")["documents"]
    assert documents["left_out"] == {"overlap": 1}


def test_modernbert_trains_at_30_percent_and_is_measured_at_15(
    run_of: Callable[[str], Run],
) -> None:
    trained = run_of("modernbert").json("train_results.json")
    assert trained["num_masked_tokens"] / trained["num_tokens"] == pytest.approx(0.3, abs=0.03)


def test_the_page_of_recipes_has_a_row_for_each() -> None:
    page = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \[([\w-]+)\]\(\.\./configs/([\w-]+)\.yaml\) \|", page, re.MULTILINE)
    assert sorted(rows) == [(name, name) for name in sorted(shipped_configs())]
