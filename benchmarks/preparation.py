"""The steps of `mlmtune prepare`, which corpus.py times in processes of their own."""

import json
import shutil
import time
import tracemalloc
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

from pyromark import Markdown, Options

from interleaved import Block
from machine import num_bytes_in
from mlmtune.config import Config, CorpusConfig
from mlmtune.console import Console
from mlmtune.corpus import corpus, engine
from mlmtune.corpus.parallel import num_processors
from mlmtune.corpus.text import CorpusText
from mlmtune.locations import cache_directory
from mlmtune.training import preparation
from texts import PAGES


class Cleaning:
    """Cleans a folder of pages in a number of processes; None is the package's choice."""

    def __init__(
        self,
        pages: Path,
        workspace: Path,
        num_processes: int | None,
        format_: str = "markdown",
        settings: dict[str, Any] | None = None,
    ) -> None:
        self.folder = workspace / f"cleaned by {num_processes} with {settings}"
        console = Console(is_main=False)
        config = _corpus_config(pages, format_, settings or {})
        self.text = CorpusText(config, console, str(self.folder)).listed()
        self.num_bytes = num_bytes_in(pages)
        self.num_processes = num_processes or num_processors()

    def run(self, num_steps: int) -> Block:
        started = time.perf_counter()
        for _ in range(num_steps):
            shutil.rmtree(self.folder, ignore_errors=True)
            with patch.object(engine, "num_processors", lambda: self.num_processes):
                self.text.read()
        return Block(num_steps, num_steps * self.num_bytes, time.perf_counter() - started)


def _parse_markdown(page: str) -> None:
    parser = Markdown(options=Options.ENABLE_TABLES | Options.ENABLE_FOOTNOTES)
    deque(parser.events(page), maxlen=0)  # the events are made as they are read


PARSERS: dict[str, Callable[[str], object]] = {
    "markdown": _parse_markdown,
    "html": len,
    "text": len,
    "json": lambda lines: [json.loads(line) for line in lines.splitlines()],
}
"""What is done with a decoded file; corpus.py names it."""


class Limit:
    """Reads, decodes and parses the same pages in one process: a limit for reading them."""

    def __init__(self, pages: Path, format_: str) -> None:
        self.paths = sorted(path for path in pages.rglob("*") if path.is_file())
        self.num_bytes = num_bytes_in(pages)
        self.parse = PARSERS[format_]

    def run(self, num_steps: int) -> Block:
        started = time.perf_counter()
        for _ in range(num_steps):
            for path in self.paths:
                self.parse(path.read_text(encoding="utf-8"))
        return Block(num_steps, num_steps * self.num_bytes, time.perf_counter() - started)


class Preparation:
    """The steps of a preparation; each continues from what earlier ones left in the workspace.

    Args:
        pages: A folder of Markdown.
        model: The model whose tokenizer is used.
        workspace: The folder of the cache.
        compared: `near_duplicates` and `exclude_overlap_with` of the section `corpus`.
    """

    def __init__(self, pages: Path, model: Path, workspace: Path, compared: dict[str, Any]) -> None:
        section = _corpus_config(pages, "markdown", compared).model_dump(exclude_unset=True)
        self.config = Config.model_validate(
            {
                "run": {"output_dir": str(workspace / "run")},
                "model": {"name_or_path": str(model)},
                "corpus": section,
                "tokenization": {"cache_dir": str(workspace / "cache")},
            }
        )
        self.cleaned = cache_directory(self.config.tokenization.cache_dir, "cleaned")

    def clean(self) -> dict[str, Any]:
        """Read and clean files that are not cleaned yet, and decide which documents are kept."""
        started = time.perf_counter()
        documents = self._read().funnel.total().to_json()["documents"]
        return {
            "seconds": time.perf_counter() - started,
            "documents": documents,
            "num_bytes": num_bytes_in(self.cleaned),
        }

    def trace(self) -> int:
        """Return the peak bytes that the main process allocates in `clean`, arrays included."""
        tracemalloc.start()
        self._read()
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return peak

    def prepare(self) -> dict[str, Any]:
        """Do what `mlmtune prepare` does."""
        started = time.perf_counter()
        store = preparation.prepare(
            self.config, Console(is_main=False), rebuilds=True, refresh=False
        ).store
        return {
            "seconds": time.perf_counter() - started,
            "num_tokens": store.num_tokens,
            "num_bytes": num_bytes_in(store.directory),
        }

    def _read(self) -> corpus.Corpus:
        console = Console(is_main=False)
        text = CorpusText.of(self.config.corpus, self.config.tokenization, console)
        return text.listed().read()


def _corpus_config(pages: Path, format_: str, settings: dict[str, Any]) -> CorpusConfig:
    source = {**PAGES[format_].source, "path": str(pages)}
    return CorpusConfig.model_validate({"sources": [source], **settings})
