"""A task that a tiny model learns: which of two words a sentence holds."""

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from runs import Run
from vocabulary import WORDS

from mlmtune.classification.building import build_task
from mlmtune.config import ClassificationConfig
from mlmtune.config_loading import load_config
from mlmtune.training import loop
from mlmtune.training.run_options import RunOptions

TELLING = {"bad": "failed", "good": "succeeded"}


def examples(size: int, seed: int) -> list[dict[str, str]]:
    """Sentences of 4 to 12 words of which one tells the label."""
    draw = random.Random(seed)
    others = [word for word in WORDS if word not in TELLING.values()]
    made = []
    for number in range(size):
        label = list(TELLING)[number % len(TELLING)]
        words = [*draw.choices(others, k=draw.randrange(3, 12)), TELLING[label]]
        draw.shuffle(words)
        made.append({"text": " ".join(words), "label": label})
    return made


NAMES = {"ACTION": ("failed", "running"), "THING": ("cluster", "network")}
"""The first and the second word of the entities of each type."""
DROPPED = "\u200b"
"""A word of which the tokenizer makes no piece."""


def sentences(size: int, seed: int) -> list[list[tuple[str, str]]]:
    """Sentences of other words and an entity of each type, of one, two or three words."""
    draw = random.Random(seed)
    names = {word for words in NAMES.values() for word in words}
    others = [word for word in WORDS if word not in names]
    made = []
    for _ in range(size):
        parts = [[(word, "O")] for word in draw.choices(others, k=draw.randrange(2, 9))]
        for type_, (first, second) in NAMES.items():
            rest = [second] if draw.random() < 0.5 else []
            if rest and draw.random() < 0.2:
                rest = [DROPPED, second]
            parts.append([(first, f"B-{type_}"), *((word, f"I-{type_}") for word in rest)])
        draw.shuffle(parts)
        made.append([word for part in parts for word in part])
    return made


def write_json_lines(path: Path, records: Sequence[Any]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def write_sentences(path: Path, tagged: Sequence[Sequence[tuple[str, str]]]) -> Path:
    """Write words and their tags in CoNLL columns."""
    lines = ("\n".join(f"{word}\tX\t{tag}" for word, tag in sentence) for sentence in tagged)
    path.write_text("\n\n".join(lines), encoding="utf-8")
    return path


class Tasks:
    """Runs of a task in this process, each in a folder of its own."""

    def __init__(self, folder: Path, model_dir: Path) -> None:
        self.folder = folder
        self.files = {
            name: write_json_lines(folder / f"{name}.jsonl", examples(size, seed))
            for seed, (name, size) in enumerate([("train", 80), ("validation", 24), ("test", 30)])
        }
        self.model_dir = model_dir
        self.kind: dict[str, Any] = {"task": "classification", "data": {"format": "json"}}

    def hold_sentences(self) -> None:
        """Replace the examples by sentences with tags, in CoNLL columns."""
        self.kind = {"task": "entities", "data": {"format": "conll"}}
        for seed, (name, size) in enumerate([("train", 80), ("validation", 24), ("test", 30)]):
            path = self.folder / f"{name}.conll"
            self.files[name] = write_sentences(path, sentences(size, seed))

    def config(self, name: str = "run", **sections: Any) -> Path:
        config: dict[str, Any] = {
            "task": self.kind["task"],
            "run": {"output_dir": str(self.folder / name)},
            "model": {"name_or_path": str(self.model_dir)},
            "data": {
                **self.kind["data"], "max_length": 32,
                **{side: str(path) for side, path in self.files.items()},
            },
            "optimizer": {"learning_rate": 0.01},
            "training": {
                "max_steps": 8, "global_batch_size": 16, "precision": "fp32", "log_every": 1,
            },
            "evaluation": {"every": 4},
        }  # fmt: skip
        for section, values in sections.items():
            if isinstance(values, dict):
                config.setdefault(section, {}).update(values)
            else:
                config[section] = values
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(config), encoding="utf-8")
        return path

    def finetune(
        self, name: str = "run", *, resume: str = "never", overwrite: bool = False, **sections: Any
    ) -> Run:
        path = self.config(name, **sections)
        options = RunOptions(
            resume, overwrite, allow_changes=False, config_text=path.read_text(encoding="utf-8")
        )
        config = load_config(path, kind=ClassificationConfig)
        loop.train(config, options, build_task)
        return Run(self.folder / name)
