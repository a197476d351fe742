"""The peer's side of each benchmark: it does what run_mlm_no_trainer.py of transformers does.

`datasets.map` tokenizes and then groups texts into sequences of one length; a DataLoader with
transformers' collator masks them; the model computes its loss over the whole vocabulary at every
position; AdamW has two parameter groups by name, beside a scheduler and Accelerate. The model is
loaded with its defaults. Arguments, logging, trackers and the progress bar are left out, because
they take next to no time.
"""

import math
import time
import warnings
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import datasets
import torch
import transformers
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch.utils.data import DataLoader
from transformers import (
    AutoConfig,
    AutoModelForMaskedLM,
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    get_scheduler,
)

from interleaved import Block
from machine import finish, release, settle
from mlmtune.training.environment import peak_memory_bytes
from options import Setting

NO_DECAY = ("bias", "LayerNorm.weight")
DROPOUT_FIELDS = (
    "hidden_dropout_prob", "attention_probs_dropout_prob", "dropout", "attention_dropout",
)  # fmt: skip

datasets.disable_progress_bars()
transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
transformers.logging.disable_progress_bar()  # type: ignore[no-untyped-call]


# ----------------------------------------------------------------------------- text to batches


def load_documents(path: Path, cache: Path) -> datasets.Dataset:
    """Load the documents of a JSON Lines file as a data set on disk."""
    return datasets.load_dataset("json", data_files=str(path), split="train", cache_dir=str(cache))


def group_texts(examples: dict[str, list[list[Any]]], length: int) -> dict[str, list[list[Any]]]:
    """Join the texts of a batch, cut it into sequences of one length, and drop the rest."""
    joined = {name: list(chain.from_iterable(lists)) for name, lists in examples.items()}
    num_tokens = len(next(iter(joined.values())))
    whole = num_tokens - num_tokens % length
    return {
        name: [values[first : first + length] for first in range(0, whole, length)]
        for name, values in joined.items()
    }


def to_chunks(
    documents: datasets.Dataset, tokenizer: Any, length: int, *, with_offsets: bool = False
) -> datasets.Dataset:
    """Tokenize and group documents, each by a `map` in batches of 1,000 without its cache."""
    tokenized = documents.map(
        lambda examples: tokenizer(
            examples["text"],
            return_special_tokens_mask=True,
            return_offsets_mapping=with_offsets,
        ),
        batched=True,
        remove_columns=documents.column_names,
        load_from_cache_file=False,
    )
    return tokenized.map(
        group_texts, batched=True, fn_kwargs={"length": length}, load_from_cache_file=False
    )


def endless(loader: Iterable[Any]) -> Iterator[dict[str, torch.Tensor]]:
    """Yield batches without end; each pass through a shuffling loader has another order."""
    while True:
        yield from loader


# ------------------------------------------------------------------------------ model and steps


def load_model(setting: Setting) -> Any:
    """Load the model by `from_pretrained`, with the setting's dropout if it has one."""
    config = AutoConfig.from_pretrained(setting.model)
    if setting.dropout is not None:
        for field in DROPOUT_FIELDS:
            if hasattr(config, field):
                setattr(config, field, setting.dropout)
    return AutoModelForMaskedLM.from_pretrained(setting.model, config=config)


def parameter_groups(model: Any, weight_decay: float) -> list[dict[str, Any]]:
    """Return two groups by their names: parameters that decay, and biases and norms."""

    def stays(name: str) -> bool:
        return any(part in name for part in NO_DECAY)

    named = list(model.named_parameters())
    return [
        {"params": [p for name, p in named if not stays(name)], "weight_decay": weight_decay},
        {"params": [p for name, p in named if stays(name)], "weight_decay": 0.0},
    ]


class Training:
    """Takes optimizer steps.

    Args:
        setting: The setting of both sides.
        learning_rate: The peak; the schedule is linear without warmup.
        weight_decay: The decay of matrices; the script's default is 0.
        chunks: The sequences to train on; None makes them from the setting's text.
    """

    def __init__(
        self,
        setting: Setting,
        learning_rate: float = 5e-5,
        weight_decay: float = 0.0,
        chunks: datasets.Dataset | None = None,
    ) -> None:
        set_seed(setting.seed)
        self.accelerator = Accelerator(
            gradient_accumulation_steps=1,
            mixed_precision="no" if setting.precision == "fp32" else setting.precision,
            # What `accelerate config` asks for, and the script leaves to it.
            dynamo_backend="inductor" if setting.compiled else "no",
        )
        tokenizer = AutoTokenizer.from_pretrained(setting.model)
        model = load_model(setting)
        if chunks is None:
            documents = load_documents(setting.train, setting.workspace / "peer")
            chunks = to_chunks(documents, tokenizer, setting.length)
        loader = DataLoader(
            chunks,
            shuffle=True,
            collate_fn=DataCollatorForLanguageModeling(tokenizer),
            batch_size=setting.batch_size,
        )
        optimizer = torch.optim.AdamW(parameter_groups(model, weight_decay), lr=learning_rate)
        scheduler = get_scheduler(
            "linear", optimizer, num_warmup_steps=0, num_training_steps=setting.max_steps
        )
        self.model, self.optimizer, self.loader, self.scheduler = self.accelerator.prepare(
            model, optimizer, loader, scheduler
        )
        self.tokenizer = tokenizer
        self.model.train()
        self.batches = endless(self.loader)
        self.last_loss: torch.Tensor | None = None
        self.num_tokens = self.num_positions = 0

    @property
    def module(self) -> Any:
        """The model without Accelerate's wrapper."""
        return self.accelerator.unwrap_model(self.model)

    def step(self) -> int:
        """Take one optimizer step, and return its tokens without padding."""
        batch = next(self.batches)
        with self.accelerator.accumulate(self.model):
            loss = self.model(**batch).loss
            self.accelerator.backward(loss)
            self.optimizer.step()
            self.scheduler.step()
            self.optimizer.zero_grad()
        self.last_loss = loss.detach()
        self.num_positions += batch["input_ids"].numel()
        num_tokens = int(batch["attention_mask"].sum())
        self.num_tokens += num_tokens
        return num_tokens

    def run(self, num_steps: int) -> Block:
        device = self.accelerator.device
        settle(self.step, device)
        started = time.perf_counter()
        num_tokens = sum(self.step() for _ in range(num_steps))
        finish(device)
        seconds = time.perf_counter() - started
        release(device)
        return Block(num_steps, num_tokens, seconds)

    def facts(self) -> dict[str, Any]:
        return {
            "peak_memory_bytes": peak_memory_bytes(self.accelerator.device),
            "attention": self.accelerator.unwrap_model(self.model).config._attn_implementation,
            "loss": None if self.last_loss is None else float(self.last_loss),
            "fill": self.num_tokens / max(self.num_positions, 1),
        }


class LineTraining(Training):
    """Takes optimizer steps on lines, which are cut or padded to one length (`line_by_line`)."""

    def __init__(self, setting: Setting) -> None:
        tokenizer = AutoTokenizer.from_pretrained(setting.model)
        lines = load_documents(setting.train, setting.workspace / "peer")
        padded = lines.map(
            lambda examples: tokenizer(
                examples["text"],
                padding="max_length",
                truncation=True,
                max_length=setting.length,
                return_special_tokens_mask=True,
            ),
            batched=True,
            remove_columns=lines.column_names,
            load_from_cache_file=False,
        )
        super().__init__(setting, chunks=padded)


class Evaluation:
    """Evaluates the model: perplexity is exp of the mean of the batches' losses."""

    def __init__(self, setting: Setting) -> None:
        set_seed(setting.seed)
        self.accelerator = Accelerator(
            mixed_precision="no" if setting.precision == "fp32" else setting.precision
        )
        tokenizer = AutoTokenizer.from_pretrained(setting.model)
        documents = load_documents(setting.validation, setting.workspace / "peer")
        chunks = to_chunks(documents, tokenizer, setting.length)
        if setting.max_chunks is not None:
            chunks = chunks.select(range(min(setting.max_chunks, len(chunks))))
        loader = DataLoader(
            chunks,
            collate_fn=DataCollatorForLanguageModeling(tokenizer),
            batch_size=setting.batch_size,
        )
        self.model, self.loader = self.accelerator.prepare(load_model(setting), loader)
        self.batch_size = setting.batch_size
        self.num_tokens = len(chunks) * setting.length
        self.num_chunks = len(chunks)
        self.perplexity: float | None = None

    def evaluate(self) -> float:
        self.model.eval()
        losses = []
        for batch in self.loader:
            with torch.no_grad():
                loss = self.model(**batch).loss
            # As the script does, so that each batch counts by its sequences.
            losses.append(self.accelerator.gather_for_metrics(loss.repeat(self.batch_size)))
        return math.exp(torch.mean(torch.cat(losses)))

    def run(self, num_steps: int) -> Block:
        started = time.perf_counter()
        for _ in range(num_steps):
            self.perplexity = self.evaluate()
        seconds = time.perf_counter() - started
        return Block(num_steps, num_steps * self.num_tokens, seconds)

    def facts(self) -> dict[str, Any]:
        return {
            "peak_memory_bytes": peak_memory_bytes(self.accelerator.device),
            "perplexity": self.perplexity,
            "num_chunks": self.num_chunks,
        }


# -------------------------------------------------------------------------------- data alone


class Chunking:
    """Cuts documents on disk, as `datasets` keeps them, into sequences of one length."""

    def __init__(self, setting: Setting) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(setting.model)
        self.documents = load_documents(setting.train, setting.workspace / "peer")
        self.num_bytes = sum(len(text.encode()) for text in self.documents["text"])
        self.length = setting.length
        self.chunks: datasets.Dataset | None = None

    def run(self, num_steps: int) -> Block:
        started = time.perf_counter()
        for _ in range(num_steps):
            self.chunks = to_chunks(self.documents, self.tokenizer, self.length)
        return Block(num_steps, num_steps * self.num_bytes, time.perf_counter() - started)

    def facts(self) -> dict[str, Any]:
        assert self.chunks is not None
        num_tokens = len(self.chunks) * self.length
        num_bytes = sum(Path(file["filename"]).stat().st_size for file in self.chunks.cache_files)
        return {"num_tokens": num_tokens, "bytes_per_token": num_bytes / num_tokens}


WHOLE_WORDS = {"token": False, "whole_word": True, "span": True}
"""Whether the peer masks whole words beside our strategy; it has nothing nearer to spans."""


def strategies() -> list[str]:
    """Return our masking strategies that can be compared."""
    return list(WHOLE_WORDS)


class Masking:
    """Masks batches of rows in memory, or of rows from the data set if `assembled`."""

    def __init__(self, setting: Setting, strategy: str, assembled: bool) -> None:
        warnings.simplefilter("ignore")  # it warns that whole words are never replaced at random
        tokenizer = AutoTokenizer.from_pretrained(setting.model)
        documents = load_documents(setting.train, setting.workspace / "peer")
        whole_words = WHOLE_WORDS[strategy]
        chunks = to_chunks(documents, tokenizer, setting.length, with_offsets=whole_words)
        collator = DataCollatorForLanguageModeling(tokenizer, whole_word_mask=whole_words)
        self.collate, self.batch_size, self.assembled = collator, setting.batch_size, assembled
        self.rows = [chunks[number] for number in range(setting.batch_size)]
        loader = DataLoader(
            chunks, shuffle=True, collate_fn=collator, batch_size=setting.batch_size, drop_last=True
        )
        self.batches = endless(loader)

    def run(self, num_steps: int) -> Block:
        started = time.perf_counter()
        for _ in range(num_steps):
            if self.assembled:
                next(self.batches)
            else:
                self.collate(self.rows)
        return Block(num_steps, num_steps * self.batch_size, time.perf_counter() - started)
