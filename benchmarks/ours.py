"""Our side of each benchmark: the package with its defaults, as a user would run it."""

import shutil
import time
from collections import deque
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from accelerate import Accelerator

from interleaved import Block
from machine import finish, num_bytes_in, release, settle
from mlmtune.config import Config, MaskingConfig
from mlmtune.console import Console
from mlmtune.corpus.text import CorpusText
from mlmtune.locations import cache_directory
from mlmtune.masking.collator import MaskingCollator
from mlmtune.masking.selection import STRATEGIES
from mlmtune.modeling.device import build_accelerator, precision_of
from mlmtune.modeling.locating import locate_model
from mlmtune.modeling.losses import FILL, LOSS
from mlmtune.modeling.tokenizer import load_tokenizer
from mlmtune.randomness import key
from mlmtune.tokens import tokenization
from mlmtune.tokens.chunking import ChunkView
from mlmtune.tokens.encoding import plain_backend
from mlmtune.tokens.opening import find_text, open_store
from mlmtune.tokens.splits import Chunker
from mlmtune.tokens.store import TokenStore
from mlmtune.training.checkpoint import TrainState
from mlmtune.training.environment import peak_memory_bytes
from mlmtune.training.learner import prepare_learner
from mlmtune.training.masked_lm import build_masked_lm
from mlmtune.training.setup import ModelAndText, load_model_and_text
from mlmtune.training.step import agree, take_step
from mlmtune.training.task import Task
from mlmtune.training.window import Window
from options import Setting
from texts import CorpusInMemory

CHUNKS_AT_ONCE = 64


def config_for(setting: Setting, **sections: dict[str, Any]) -> Config:
    """Return the config of a setting; `sections` take precedence over it.

    Everything else keeps its default.
    """
    values: dict[str, dict[str, Any]] = {
        "run": {"output_dir": str(setting.workspace / "run"), "seed": setting.seed},
        "model": {"name_or_path": str(setting.model), "dropout": setting.dropout},
        "corpus": {
            "sources": [{"format": "json", "path": str(setting.train)}],
            "validation_sources": [{"format": "json", "path": str(setting.validation)}],
        },
        "tokenization": {"cache_dir": str(setting.workspace / "ours")},
        # The peer drops what fills no sequence, too. With padding, one batch of an epoch, drawn at
        # random, would be compiled anew while it is measured.
        "chunking": {"chunk_length": setting.length, "last_chunk": "drop"},
        "training": {
            "max_steps": setting.max_steps,
            "global_batch_size": setting.batch_size,
            "precision": setting.precision,
            **({"compile": True} if setting.compiled else {}),
        },
        "evaluation": {
            "batch_size": setting.batch_size,
            "max_chunks": setting.max_chunks,
            "mask_draws": 1,  # because the peer masks the text once
        },
    }
    for section, more in sections.items():
        values[section] = {**values.get(section, {}), **more}
    return Config.model_validate(values)


def load_setup(config: Config, accelerator: Accelerator) -> ModelAndText:
    """Load a model, and the text that it is measured on."""
    precision = precision_of(accelerator)
    return load_model_and_text(config, accelerator.device, precision, Console(is_main=False))


class Training:
    """Takes optimizer steps."""

    def __init__(self, setting: Setting, config: Config | None = None) -> None:
        config = config or config_for(setting)
        accelerator = build_accelerator(config.training.precision)
        task = build_masked_lm(config, accelerator, Console(is_main=False))
        self.task: Task = task
        self.head = task.setup.head
        self.learner = prepare_learner(task, accelerator)
        self.state = TrainState()

    @property
    def module(self) -> Any:
        """The model without a wrapper."""
        return self.learner.module

    def step(self) -> float:
        """Take one optimizer step, and return the mean loss of its masked tokens."""
        state = self.state
        step = agree(self.learner.accelerator, self.task, state.step)
        state.window = Window()
        self.task = take_step(self.learner, self.task, state, step, print).task
        return state.window.means()[LOSS]

    def run(self, num_steps: int) -> Block:
        device = self.learner.accelerator.device
        settle(self.step, device)
        num_tokens = self.state.num_tokens
        started = time.perf_counter()
        for _ in range(num_steps):
            self.step()
        finish(device)
        seconds = time.perf_counter() - started
        release(device)
        return Block(num_steps, self.state.num_tokens - num_tokens, seconds)

    def prepare_batches(self, num_steps: int) -> Block:
        """Make the batches of the next steps, which are chunks and masks, without training."""
        stream = self.task.stream
        steps = range(self.state.step, self.state.step + num_steps)
        started = time.perf_counter()
        for number in steps:
            stream.micro_batches(number)
        seconds = time.perf_counter() - started
        return Block(num_steps, sum(map(stream.num_tokens, steps)), seconds)

    def facts(self) -> dict[str, Any]:
        loaded = self.task.loaded
        return {
            "peak_memory_bytes": peak_memory_bytes(self.learner.accelerator.device),
            "num_parameters": loaded.num_parameters,
            "attention": loaded.attn_implementation,
            "head_on_masked_positions": self.head.is_sparse,
            "loss": self.state.totals.means().get(LOSS),  # None before the first step
            "fill": self.state.totals.means().get(FILL),  # None without padding
        }


class DenseTraining(Training):
    """Takes optimizer steps with the logits of all masked positions at once."""

    def __init__(self, setting: Setting) -> None:
        with patch("mlmtune.modeling.masked_head._layer_of_logits", lambda *_: None):
            super().__init__(setting)
        assert self.head.is_sparse


class LineTraining(Training):
    """Takes optimizer steps on lines, which share rows if `packs`, and else are padded."""

    def __init__(self, setting: Setting, packs: bool) -> None:
        chunking = {
            "chunk_length": setting.length, "mode": "per_document", "long_documents": "truncate",
        }  # fmt: skip
        super().__init__(setting, config_for(setting, chunking=chunking))
        if not packs:
            self.head.packing = None


class Evaluation:
    """Evaluates the model on the validation chunks."""

    def __init__(self, setting: Setting) -> None:
        config = config_for(setting)
        self.accelerator = build_accelerator(config.training.precision)
        self.setup = load_setup(config, self.accelerator)
        self.model = self.accelerator.prepare_model(self.setup.loaded.model, evaluation_mode=True)
        self.perplexity: float | None = None

    def run(self, num_steps: int) -> Block:
        setup, evaluator = self.setup, self.setup.evaluator
        started = time.perf_counter()
        for _ in range(num_steps):
            evaluation = evaluator.run(
                self.accelerator, self.accelerator.unwrap_model(self.model), setup.head
            )
        seconds = time.perf_counter() - started
        assert evaluation is not None  # nothing stops this evaluation
        self.perplexity = evaluation.perplexity
        num_tokens = setup.splits.validation.lengths(evaluator.masks.chunks).sum()
        return Block(num_steps, num_steps * int(num_tokens), seconds)

    def facts(self) -> dict[str, Any]:
        return {
            "peak_memory_bytes": peak_memory_bytes(self.accelerator.device),
            "perplexity": self.perplexity,
            "num_chunks": len(self.setup.evaluator.masks.chunks),
        }


class Chunking:
    """Tokenizes documents in memory into a store on disk, and reads each of its chunks once."""

    def __init__(self, setting: Setting) -> None:
        self.config = config_for(setting, corpus={"validation_sources": []})
        self.tokenizer = load_tokenizer(locate_model(str(setting.model), None))
        self.corpus = CorpusInMemory.of(self.config.corpus)
        self.num_bytes = sum(len(text.encode()) for text in self.corpus.texts)
        self.store: TokenStore | None = None

    def run(self, num_steps: int) -> Block:
        started = time.perf_counter()
        for _ in range(num_steps):
            self.store = self._build()
            _read_chunks(self.store, self.config, self.tokenizer)
        return Block(num_steps, num_steps * self.num_bytes, time.perf_counter() - started)

    def _build(self) -> TokenStore:
        shutil.rmtree(cache_directory(self.config.tokenization.cache_dir, "tokens"))
        # Neither side's time includes reading and cleaning, so the documents come from memory.
        with patch.object(CorpusText, "read", lambda _: self.corpus):
            return _open_store(self.config, self.tokenizer)

    def facts(self) -> dict[str, Any]:
        assert self.store is not None
        return {
            "num_tokens": self.store.num_tokens,
            "bytes_per_token": num_bytes_in(self.store.directory) / self.store.num_tokens,
            "num_documents": self.store.num_documents,
        }


class Tokenizing:
    """Runs the Rust tokenizer alone on the same documents, or only splits them at white space."""

    def __init__(self, setting: Setting, method: str) -> None:
        backend = plain_backend(load_tokenizer(locate_model(str(setting.model), None)))
        encode = partial(backend.encode_batch_fast, add_special_tokens=False)
        methods = {"encode_batch_fast": encode, "split": partial(map, str.split)}
        self.method = methods[method]
        self.documents = CorpusInMemory.of(config_for(setting).corpus).texts
        self.num_bytes = sum(len(document.encode()) for document in self.documents)

    def run(self, num_steps: int) -> Block:
        size = tokenization.BATCH_DOCUMENTS
        started = time.perf_counter()
        for _ in range(num_steps):
            for first in range(0, len(self.documents), size):
                deque(self.method(self.documents[first : first + size]), maxlen=0)
        return Block(num_steps, num_steps * self.num_bytes, time.perf_counter() - started)


def strategies() -> list[str]:
    """Return the names of the masking strategies."""
    return list(STRATEGIES)


class Masking:
    """Masks batches of chunks in memory, or of chunks from the store if `assembled`."""

    def __init__(self, setting: Setting, strategy: str, assembled: bool) -> None:
        config = config_for(setting)
        tokenizer = load_tokenizer(locate_model(str(setting.model), None))
        self.view = _view(_open_store(config, tokenizer), config, tokenizer)
        self.collator = MaskingCollator(
            tokenizer,
            MaskingConfig.model_validate({"strategy": strategy}),
            with_token_type_ids=True,
        )
        self.batch_size, self.assembled = setting.batch_size, assembled
        self.chunks = self.view.batch(np.arange(setting.batch_size))
        self.num_batches = 0

    def run(self, num_steps: int) -> Block:
        started = time.perf_counter()
        for _ in range(num_steps):
            self.num_batches += 1
            numbers = np.arange(self.batch_size)
            keys = key(0, self.num_batches, numbers)
            chunks = self.chunks
            if self.assembled:
                first = self.num_batches * self.batch_size
                chunks = self.view.batch((first + numbers) % len(self.view))
            self.collator(chunks, keys, 0.15)
        return Block(num_steps, num_steps * self.batch_size, time.perf_counter() - started)


def build_store(text: Path, model: Path, workspace: Path) -> dict[str, Any]:
    """Build a store over a folder of .txt, read its chunks, and return the memory this takes."""
    config = Config.model_validate(
        {
            "run": {"output_dir": str(workspace / "run")},
            "model": {"name_or_path": str(model)},
            "corpus": {"sources": [{"format": "text", "path": str(text)}]},
            "tokenization": {"cache_dir": str(workspace / "ours")},
        }
    )
    tokenizer = load_tokenizer(locate_model(str(model), None))
    device = build_accelerator("fp32").device
    before = peak_memory_bytes(device)
    started = time.perf_counter()
    store = _open_store(config, tokenizer)
    seconds = time.perf_counter() - started
    after_store = peak_memory_bytes(device)
    _read_chunks(store, config, tokenizer)
    return {
        "num_documents": store.num_documents,
        "num_tokens": store.num_tokens,
        "seconds": seconds,
        "peak_before_bytes": before,
        "peak_with_store_bytes": after_store,
        "peak_with_chunks_bytes": peak_memory_bytes(device),
    }


def _open_store(config: Config, tokenizer: Any) -> TokenStore:
    text = CorpusText.of(config.corpus, config.tokenization, Console(is_main=False))
    return open_store(find_text(text), tokenizer)


def _view(store: TokenStore, config: Config, tokenizer: Any) -> ChunkView:
    return Chunker.of(config.chunking, tokenizer).view(store, np.arange(store.num_documents))


def _read_chunks(store: TokenStore, config: Config, tokenizer: Any) -> None:
    view = _view(store, config, tokenizer)
    for first in range(0, len(view), CHUNKS_AT_ONCE):
        view.batch(np.arange(first, min(first + CHUNKS_AT_ONCE, len(view))))
