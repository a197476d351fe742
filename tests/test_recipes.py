"""Each config that comes with mlmtune, run for two steps on a tiny model and a little text."""

import copy
import json
import math
import random
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from runs import Run
from vocabulary import SPECIAL_TOKENS, WORDS

from mlmtune.classification.task import build_classification
from mlmtune.config import ClassificationConfig, Config
from mlmtune.config_loading import SHIPPED_TASK, load_config, shipped_configs
from mlmtune.training.job import Options
from mlmtune.training.loop import train
from mlmtune.training.masked_lm import build_masked_lm
from mlmtune.training.preview import preview

ROOT = Path(__file__).parent.parent
CHINESE_WORDS = (  # noqa: SIM905
    "今天 天气 心情 很好 我们 他们 学习 机器 语言 模型 中国 历史 文化 城市 大学 研究 问题 时间 "
    "世界 发展 经济 社会 音乐 电影 北京 上海 学生 老师 工作 生活"
).split()
LONGER_WORDS = [f"{word}ing" for word in WORDS[20:40]]  # not in the vocabulary: two tokens or more


@dataclass(frozen=True)
class Trial:
    """What stands in the place of a recipe's model and text.

    Attributes:
        model: the family of its model.
        text: writes the text where the recipe looks for it, or gives overrides that say where.
    """

    model: str
    text: Callable[[], list[str]]


# ---------------------------------------------------------------------------------------- text


def english(seed: int, num_sentences: int) -> str:
    draw = random.Random(seed)
    sentences = (
        " ".join(draw.choices(WORDS + LONGER_WORDS, k=draw.randint(5, 14))).capitalize()
        for _ in range(num_sentences)
    )
    return ". ".join(sentences) + "."


def chinese(seed: int, num_sentences: int) -> str:
    draw = random.Random(seed)
    return "".join(
        "".join(draw.choices(CHINESE_WORDS, k=draw.randint(4, 12))) + "。"
        for _ in range(num_sentences)
    )


def saved_dataset(field: str, write: Callable[[int, int], str], num_rows: int = 60) -> list[str]:
    datasets.disable_progress_bars()
    rows = {field: [write(seed, 12) for seed in range(num_rows)], "label": [0] * num_rows}
    datasets.DatasetDict(train=datasets.Dataset.from_dict(rows)).save_to_disk("saved")
    return ["corpus.sources.0.dataset=saved"]


def reviews() -> list[str]:
    # More than the 1,000 chunks that are kept for validation.
    return saved_dataset("text", english, num_rows=1600)


def lines(name: str, write: Callable[[int, int], str]) -> list[str]:
    Path("data", name).mkdir(parents=True)
    for side, seeds in (("train", range(120)), ("validation", range(120, 160))):
        text = "\n".join(write(seed, 2) for seed in seeds)
        Path("data", name, f"{side}.txt").write_text(text + "\n", encoding="utf-8")
    return []


def pages() -> list[str]:
    Path("repository/articles/deep").mkdir(parents=True)
    for seed in range(120):
        page = (
            f"---\ntitle: x\n---\n# Page {seed}\n\n{english(seed, 6)}\n\n{english(seed + 500, 6)}\n"
        )
        Path(f"repository/articles/deep/{seed}.md").write_text(page, encoding="utf-8")
    Path("repository/README.md").write_text(english(999, 12), encoding="utf-8")
    return ["corpus.sources.0.git=", "corpus.sources.0.path=repository"]


def json_lines(path: str, seeds: range) -> list[str]:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    rows = [json.dumps({"text": english(seed, 12), "label": 1}) for seed in seeds]
    Path(path).write_text("\n".join(rows) + "\n", encoding="utf-8")
    return []


def task() -> list[str]:
    # One text is in the test set, too.
    return json_lines("data/task/train.jsonl", range(60)) + json_lines(
        "data/task/test.jsonl", range(59, 80)
    )


def files() -> list[str]:
    Path("data/documents").mkdir(parents=True)
    for seed in range(40):
        text = english(seed, 60)
        Path(f"data/documents/{seed}.txt").write_text(text, encoding="utf-8")
    return []


TRIALS = {
    "azure": Trial("bert", pages),
    "azure-nsp": Trial("bert", pages),
    "dapt": Trial("roberta", lambda: json_lines("data/domain/0.jsonl", range(150))),
    "imdb": Trial("distilbert", reviews),
    "imdb-wwm": Trial("distilbert", reviews),
    "modernbert": Trial("modernbert", files),
    "quickstart": Trial("bert", lambda: ["corpus.sources.0.max_documents=20"]),
    "tapt": Trial("roberta", task),
    "wiki-zh": Trial("bert-zh", lambda: saved_dataset("completion", chinese)),
    "wikitext": Trial("bert", lambda: lines("wikitext-2", english)),
    "wikitext-zh": Trial("bert-zh", lambda: lines("wikitext-zh", chinese)),
}
NAMES = list(TRIALS)


# -------------------------------------------------------------------------------------- models


@pytest.fixture(scope="module")
def tiny_models(
    tokenizer: Any, byte_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """A folder with a tiny model of each family, made when it is first asked for."""
    folder = tmp_path_factory.mktemp("families")

    def tiny(family: str) -> Path:
        path = folder / family
        if not path.is_dir():
            its_tokenizer = copy.deepcopy(
                byte_tokenizer if family in ("roberta", "modernbert") else tokenizer
            )
            if family == "bert-zh":
                its_tokenizer = chinese_tokenizer(tokenizer)
            its_tokenizer.model_max_length = 1024 if family == "modernbert" else 512
            torch.manual_seed(0)
            model_of(family, len(its_tokenizer), its_tokenizer.pad_token_id).save_pretrained(path)
            its_tokenizer.save_pretrained(path)
        return path

    return tiny


def chinese_tokenizer(tokenizer: Any) -> Any:
    """BERT's tokenizer with single Chinese characters as its vocabulary."""
    characters = dict.fromkeys("".join(CHINESE_WORDS) + "情很好，。，也我的")
    vocabulary = {t: id_ for id_, t in enumerate([*SPECIAL_TOKENS, "[unused0]", *characters])}
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    content["model"]["vocab"] = vocabulary
    content["added_tokens"] = [
        t | {"id": vocabulary[t["content"]]} for t in content["added_tokens"]
    ]
    for token in content["post_processor"]["special_tokens"].values():
        token["ids"] = [vocabulary[token["id"]]]
    backend = type(tokenizer.backend_tokenizer).from_str(json.dumps(content))
    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    return type(tokenizer)(
        tokenizer_object=backend,
        model_input_names=tokenizer.model_input_names,
        **{name: getattr(tokenizer, name) for name in names},
    )


def model_of(family: str, vocab_size: int, pad_token_id: int) -> Any:
    """A model of two layers; with every head that its family was pretrained with."""
    import transformers

    sizes = {
        "vocab_size": vocab_size, "hidden_size": 16, "num_hidden_layers": 2,
        "num_attention_heads": 2, "intermediate_size": 24, "max_position_embeddings": 512,
        "pad_token_id": pad_token_id,
    }  # fmt: skip
    if family == "distilbert":
        config = transformers.DistilBertConfig(
            vocab_size=vocab_size, dim=16, n_layers=2, n_heads=2, hidden_dim=24,
            pad_token_id=pad_token_id,
        )  # fmt: skip
        return transformers.DistilBertForMaskedLM(config)
    if family == "roberta":
        # Two rows of positions are kept for padding.
        return transformers.RobertaForMaskedLM(
            transformers.RobertaConfig(**sizes | {"max_position_embeddings": 514})
        )
    if family == "modernbert":
        special = dict.fromkeys(("bos_token_id", "cls_token_id"), 0)
        special |= dict.fromkeys(("eos_token_id", "sep_token_id"), 2)
        return transformers.ModernBertForMaskedLM(
            transformers.ModernBertConfig(**sizes | special | {"max_position_embeddings": 1024})
        )
    return transformers.BertForPreTraining(transformers.BertConfig(**sizes))


# ------------------------------------------------------------------------------------- recipes


@pytest.fixture
def trial_config(
    tiny_models: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], Config]:
    """A shipped config with another model, other text, and two small steps. All else is its own."""
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
        train(trial_config(name), Options(is_quiet=True), build_masked_lm)
        return Run(Path("run"))

    return run


def test_each_shipped_config_has_its_trial() -> None:
    assert sorted(shipped_configs()) == sorted([*NAMES, SHIPPED_TASK])


def header(name: str) -> list[str]:
    """The paragraphs of the comment that a config begins with."""
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
        assert paragraphs[0].startswith("When: ")
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
    # What was run is the recipe: nothing but model, place and size of a step is another.
    ran = load_config(run.path / "config.resolved.yaml")
    same = ("objective", "tokenization", "chunking", "masking", "optimizer", "evaluation")
    assert {key: getattr(ran, key) for key in same} == {key: getattr(recipe, key) for key in same}
    assert ran.corpus.model_copy(update={"sources": recipe.corpus.sources}) == recipe.corpus
    assert recipe.evaluation.mlm_probability == 0.15
    tokens = run.json("corpus.json")["validation"]["tokens"]
    assert results["num_masked_tokens"] == pytest.approx(0.15 * tokens, rel=0.35)


def test_the_recipe_of_a_task_trains_a_classifier(
    tiny_models: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("data/task").mkdir(parents=True)
    for name, seeds in (("train", range(60)), ("dev", range(60, 70)), ("test", range(70, 80))):
        rows = [json.dumps({"text": english(seed, 2), "label": "ab"[seed % 2]}) for seed in seeds]
        Path(f"data/task/{name}.jsonl").write_text("\n".join(rows), encoding="utf-8")
    recipe = shipped_configs()[SHIPPED_TASK]
    model = tiny_models("roberta")
    changes = [
        f"model.name_or_path={model}", "training.max_steps=2", "training.precision=fp32",
    ]  # fmt: skip
    config = load_config(recipe, changes, kind=ClassificationConfig)
    train(config, Options(is_quiet=True), build_classification)
    run = Run(Path("runs/task"))
    assert run.json("test_results.json")["num_examples"] == 10
    assert run.json("data.json")["labels"] == ["a", "b"]


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


def test_each_command_of_the_page_loads() -> None:
    page = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    block = page[page.index("```bash") :].replace("\\\n", "")
    commands = re.findall(
        r"^(?:\w+=\S+ )?bash scripts/run\.sh configs/([\w-]+)\.yaml(.*)$", block, re.MULTILINE
    )
    assert len(commands) == block.count("bash scripts/run.sh")
    for name, overrides in commands:
        load_config(shipped_configs()[name], shlex.split(overrides))
