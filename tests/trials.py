"""A tiny model and a little text for each config that comes with mlmtune."""

import copy
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import torch
from vocabulary import SPECIAL_TOKENS, WORDS

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


def notes_and_papers() -> list[str]:
    return json_lines("data/notes/0.jsonl", range(60)) + json_lines(
        "data/papers/0.jsonl", range(60, 120)
    )


def files_from_a_folder() -> list[str]:
    files()
    return ["model.revision="]


TRIALS = {
    "azure": Trial("bert", pages),
    "azure-nsp": Trial("bert", pages),
    "bioclinical": Trial("modernbert", notes_and_papers),
    "dapt": Trial("roberta", lambda: json_lines("data/domain/0.jsonl", range(150))),
    "decay": Trial("modernbert", files_from_a_folder),
    "imdb": Trial("distilbert", reviews),
    "imdb-wwm": Trial("distilbert", reviews),
    "modernbert": Trial("modernbert", files),
    "quickstart": Trial("bert", lambda: ["corpus.sources.0.max_documents=20"]),
    "tapt": Trial("roberta", task),
    "wiki-zh": Trial("bert-zh", lambda: saved_dataset("completion", chinese)),
    "wikitext": Trial("bert", lambda: lines("wikitext-2", english)),
    "wikitext-zh": Trial("bert-zh", lambda: lines("wikitext-zh", chinese)),
}


# -------------------------------------------------------------------------------------- models


class TinyModels:
    """A tiny model of each family in a folder of its own, made when it is first asked for."""

    def __init__(self, folder: Path, tokenizer: Any, byte_tokenizer: Any) -> None:
        self._folder = folder
        self._tokenizer = tokenizer
        self._byte_tokenizer = byte_tokenizer

    def __call__(self, family: str) -> Path:
        path = self._folder / family
        if not path.is_dir():
            of_bytes = family in ("roberta", "modernbert")
            its_tokenizer = copy.deepcopy(self._byte_tokenizer if of_bytes else self._tokenizer)
            if family == "bert-zh":
                its_tokenizer = chinese_tokenizer(self._tokenizer)
            its_tokenizer.model_max_length = 1024 if family == "modernbert" else 512
            torch.manual_seed(0)
            model_of(family, len(its_tokenizer), its_tokenizer.pad_token_id).save_pretrained(path)
            its_tokenizer.save_pretrained(path)
        return path


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
