"""The text of a benchmark: cleaned documents, written to files that both sides read."""

import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

import numpy as np
import pyromark

from mlmtune.config import CorpusConfig, SourceConfig
from mlmtune.config_loading import load_config, shipped_configs
from mlmtune.console import Console
from mlmtune.corpus.document import Document
from mlmtune.corpus.funnel import Funnel
from mlmtune.corpus.scanning import scan
from mlmtune.corpus.sources import CorpusSource, all_sources
from mlmtune.corpus.splitting import validation_mask
from mlmtune.corpus.text import CorpusText
from mlmtune.errors import DataError

SECTION = re.compile(r"^(?=## )", re.MULTILINE)
"""Pages are cut at headings to shuffle their sections, so that no code block is cut."""
STRIDE = 7919
"""The distance in a copy of neighbouring sections; a prime, so that copies differ."""

FORMATS = {".md": "markdown", ".txt": "text"}


@dataclass(frozen=True)
class PageFormat:
    """How pages of Markdown are written to be read in a format.

    Attributes:
        ending: The ending of the files.
        source: Settings of the source that reads them.
        written: Returns what is written of a page.
    """

    ending: str
    source: dict[str, Any]
    written: Callable[[str], str]


PAGES = {
    "markdown": PageFormat(".md", {"format": "markdown"}, str),
    "html": PageFormat(
        ".html", {"format": "text", "include": ["**/*.html"], "markup": "html"}, pyromark.html
    ),
    "text": PageFormat(".txt", {"format": "text"}, str),
    "json": PageFormat(
        ".jsonl", {"format": "json"}, lambda page: json.dumps({"text": page}) + "\n"
    ),
}
"""By the name that the command line has for it."""


@dataclass(frozen=True)
class Texts:
    """Two files of JSON Lines, a document per line under `text`.

    Attributes:
        train: The training documents.
        validation: The held-out documents.
    """

    train: Path
    validation: Path


@dataclass(frozen=True)
class CorpusInMemory:
    """A corpus that is read and cleaned already; it replaces `mlmtune.corpus.corpus.Corpus`.

    Attributes:
        sources: The sources of the documents.
        kept: The documents.
        funnel: The counts of documents that were found, kept and left out.
    """

    sources: tuple[CorpusSource, ...]
    kept: list[Document]
    funnel: Funnel

    @classmethod
    def of(cls, config: CorpusConfig) -> Self:
        """Read and clean a corpus; nothing is left on disk."""
        with TemporaryDirectory() as folder:
            corpus = CorpusText(config, Console(is_main=False), folder).listed().read()
            return cls(corpus.sources, list(corpus.documents()), corpus.funnel)

    @property
    def texts(self) -> list[str]:
        return [document.text for document in self.kept]

    def documents(self, start: int = 0) -> Iterator[Document]:
        """Return the documents from the one numbered `start` on."""
        return iter(self.kept[start:])


def prepare(
    text: Path | None,
    workspace: Path,
    num_train_characters: int | None,
    num_validation_characters: int | None,
) -> Texts:
    """Read and clean text, split it by document, and write both sides.

    Args:
        text: A file or folder of .md or .txt; None is the text of the quickstart config.
        workspace: The folder to write to.
        num_train_characters: How much to write, by cutting or repeating; None writes all once.
        num_validation_characters: The same for validation.
    """
    corpus = corpus_config(text)
    kept = CorpusInMemory.of(corpus).kept
    is_validation = validation_mask(
        np.asarray([document.content_hash for document in kept], dtype=np.uint64),
        np.zeros(len(kept), dtype=np.int64),
        corpus,
    )
    sides = {
        name: [
            document.text for document, on_side in zip(kept, mask.tolist(), strict=True) if on_side
        ]
        for name, mask in (("train", ~is_validation), ("validation", is_validation))
    }
    texts = Texts(workspace / "train.jsonl", workspace / "validation.jsonl")
    _write(texts.train, sides["train"], num_train_characters)
    _write(texts.validation, sides["validation"], num_validation_characters)
    return texts


def corpus_config(text: Path | None) -> CorpusConfig:
    """Return the corpus of a path on the command line, or that of the quickstart config."""
    if text is None:
        return load_config(shipped_configs()["quickstart"]).corpus
    suffixes = {text.suffix} if text.is_file() else {path.suffix for path in text.rglob("*.*")}
    formats = [name for suffix, name in FORMATS.items() if suffix in suffixes]
    if not formats:
        raise DataError(f"{text}: has neither {' nor '.join(FORMATS)} files; give another --text")
    sources = [
        SourceConfig.model_validate({"format": name, "path": str(text), "name": f"text ({name})"})
        for name in formats
    ]
    return CorpusConfig(sources=sources)


def just_reaching(documents: list[str], num_characters: int | None) -> Iterator[str]:
    """Return documents, and then copies of them, until `num_characters` are reached."""
    if num_characters is None:
        return iter(documents)
    copies = (perturbed(text, copy) if copy else text for copy in count() for text in documents)
    return _first(copies, num_characters)


def perturbed(document: str, copy: int) -> str:
    """Return a document with its lines in another order, so that no copy is a duplicate."""
    lines = document.splitlines()
    turn = copy % len(lines)
    return "\n".join([f"Copy {copy}.", *lines[turn:], *lines[:turn]])


def write_folder(text: Path | None, folder: Path, num_characters: int) -> int:
    """Write so many characters as .txt files in folders of 1,000, and return their bytes."""
    documents = CorpusInMemory.of(corpus_config(text)).texts
    return _write_files(just_reaching(documents, num_characters), folder, ".txt")


def write_pages(
    text: Path | None, folder: Path, num_characters: float, format_: str = "markdown"
) -> int:
    """Write pages of Markdown of so many characters, which are not cleaned, as they are read.

    Args:
        text: A file or folder of .md; None is the text of the quickstart config.
        folder: The folder to write to: a file for each page, or one of JSON Lines.
        num_characters: How much to write, by repeating the pages.
        format_: A key of `PAGES`.

    Returns:
        The number of bytes.

    Raises:
        DataError: The text has no Markdown.
    """
    listing = scan(all_sources(corpus_config(text)), folder, lambda line: None)
    pages = [
        Path(file.path).read_text(encoding="utf-8", errors="replace")
        for source in listing.sources
        if source.source.config.format == "markdown"
        for file in source.files
    ]
    if not pages:
        raise DataError(f"{text or 'the quickstart corpus'}: has no .md files; give another --text")
    written = map(PAGES[format_].written, _first(dealt(pages), num_characters))
    if format_ == "json":
        folder.mkdir(parents=True)
        return (folder / "pages.jsonl").write_bytes("".join(written).encode())
    return _write_files(written, folder, PAGES[format_].ending)


def dealt(pages: list[str]) -> Iterator[str]:
    """Yield pages without end: first as they are, then each with the sections of other pages.

    So copies are not duplicates, and hardly near-duplicates.
    """
    sections = [SECTION.split(page) for page in pages]
    later = [section for _, *rest in sections for section in rest]
    for copy in count():
        start = 0
        for opening, *rest in sections:
            drawn = [
                later[(start + number + copy * STRIDE * (2 * number + 1)) % len(later)]
                for number in range(len(rest))
            ]
            start += len(rest)
            yield "".join([opening, *drawn, f"\nCopy {copy}.\n" if copy else ""])


def read(path: Path) -> list[str]:
    """Read the documents of a file that `prepare` wrote."""
    with path.open(encoding="utf-8") as file:
        return [json.loads(line)["text"] for line in file]


def _first(texts: Iterable[str], num_characters: float) -> Iterator[str]:
    num_yielded = 0
    for text in texts:
        yield text
        num_yielded += len(text)
        if num_yielded >= num_characters:
            return


def _write_files(texts: Iterable[str], folder: Path, ending: str) -> int:
    num_bytes = 0
    for number, text in enumerate(texts):
        path = folder / f"{number // 1000}" / f"{number}{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        num_bytes += path.write_bytes(text.encode())
    return num_bytes


def _write(path: Path, documents: list[str], num_characters: int | None) -> None:
    with path.open("w", encoding="utf-8") as file:
        for text in just_reaching(documents, num_characters):
            file.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")


def split_lines(documents: Path) -> None:
    """Make each line of a file's documents a document; lines that are blank are left out."""
    with documents.open(encoding="utf-8") as file:
        texts = [json.loads(document)["text"] for document in file]
    lines = [line.strip() for text in texts for line in text.splitlines()]
    with documents.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps({"text": line}) + "\n" for line in lines if line)
