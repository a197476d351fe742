"""The text of a benchmark: cleaned documents, written once for both sides to read."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mlmtune.config import CorpusConfig, SourceConfig
from mlmtune.config_loading import load_config, shipped_configs
from mlmtune.corpus.funnel import Funnel
from mlmtune.corpus.reading import read_documents
from mlmtune.corpus.scanning import scan
from mlmtune.corpus.splitting import validation_mask
from mlmtune.errors import DataError

FORMATS = {".md": "markdown", ".txt": "text"}


@dataclass(frozen=True)
class Texts:
    """Two files of JSON Lines, a document a line under `text`.

    Attributes:
        train: to train on.
        validation: documents kept apart.
        num_train_bytes: UTF-8 bytes of the training documents.
    """

    train: Path
    validation: Path
    num_train_bytes: int


def prepare(
    text: Path | None,
    workspace: Path,
    num_train_characters: int | None,
    num_validation_characters: int | None,
) -> Texts:
    """Read and clean text, split it by document, and write both sides.

    Args:
        text: a file or folder of .md or .txt; None is what the quickstart config reads.
        workspace: where the files go.
        num_train_characters: how much to write, by cutting or repeating; None is what there is.
        num_validation_characters: likewise.
    """
    corpus = corpus_config(text)
    kept = list(read_documents(corpus, scan(corpus), Funnel()))
    is_validation = validation_mask(
        np.asarray([document.content_hash for document in kept], dtype=np.uint64),
        np.zeros(len(kept), dtype=bool),
        corpus,
    )
    sides = {
        name: [
            document.document.text
            for document, on_side in zip(kept, mask.tolist(), strict=True)
            if on_side
        ]
        for name, mask in (("train", ~is_validation), ("validation", is_validation))
    }
    num_bytes = _write(workspace / "train.jsonl", sides["train"], num_train_characters)
    _write(workspace / "validation.jsonl", sides["validation"], num_validation_characters)
    return Texts(workspace / "train.jsonl", workspace / "validation.jsonl", num_bytes)


def corpus_config(text: Path | None) -> CorpusConfig:
    """How a path on the command line is read; the quickstart config's corpus if there is none."""
    if text is None:
        return load_config(shipped_configs()["quickstart"]).corpus
    suffixes = {text.suffix} if text.is_file() else {path.suffix for path in text.rglob("*.*")}
    formats = [name for suffix, name in FORMATS.items() if suffix in suffixes]
    if not formats:
        raise DataError(f"{text}: neither {' nor '.join(FORMATS)} is there; give another --text")
    sources = [
        SourceConfig.model_validate({"format": name, "path": str(text), "name": f"text ({name})"})
        for name in formats
    ]
    return CorpusConfig(sources=sources)


def just_reaching(documents: list[str], num_characters: int | None) -> Iterator[str]:
    """Documents until `num_characters` are reached; copies, once the documents are used up."""
    if num_characters is None:
        yield from documents
        return
    copy = found = 0
    while found < num_characters:
        for document in documents:
            text = document if copy == 0 else perturbed(document, copy)
            yield text
            found += len(text)
            if found >= num_characters:
                break
        copy += 1


def perturbed(document: str, copy: int) -> str:
    """The same words in another order of lines, so that no copy counts as a duplicate."""
    lines = document.splitlines()
    turn = copy % len(lines)
    return "\n".join([f"Copy {copy}.", *lines[turn:], *lines[:turn]])


def write_folder(text: Path | None, folder: Path, num_characters: int) -> int:
    """Write so many characters as .txt files in folders of 1,000; returns their bytes."""
    corpus = corpus_config(text)
    documents = [kept.document.text for kept in read_documents(corpus, scan(corpus), Funnel())]
    num_bytes = 0
    for number, document in enumerate(just_reaching(documents, num_characters)):
        path = folder / f"{number // 1000}" / f"{number}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        num_bytes += path.write_bytes(document.encode())
    return num_bytes


def read(path: Path) -> list[str]:
    """The documents of a file that `prepare` wrote."""
    with path.open(encoding="utf-8") as file:
        return [json.loads(line)["text"] for line in file]


def _write(path: Path, documents: list[str], num_characters: int | None) -> int:
    num_bytes = 0
    with path.open("w", encoding="utf-8") as file:
        for text in just_reaching(documents, num_characters):
            file.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
            num_bytes += len(text.encode())
    return num_bytes
