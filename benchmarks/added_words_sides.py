"""What `added_words.py` measures, in a process of its own."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from interleaved import Block
from machine import finish
from mlmtune.config_loading import load_config
from mlmtune.corpus.cleaning import find_words
from mlmtune.modeling.evaluation_mode import in_evaluation_mode
from mlmtune.tokens.encoding import Encoder, plain_backend
from ours import Training

SAMPLED_DOCUMENTS = 200
"""The documents of the sample that is tokenized and encoded."""
INFERRED_TEXTS = 20
TEXT_CHARACTERS = 400
"""The number of texts of inference, and their length; each is from the middle of a document."""


class AddedWords:
    """The model of a config with a number of its text's words.

    Args:
        path: The config.
        number: How many words are added; 0 for the model as it is.
    """

    def __init__(self, path: str, number: int) -> None:
        overrides = [f"vocabulary.add={number or 'null'}", "chunking.last_chunk=drop"]
        config = load_config(Path(path), overrides)
        # Training takes no setting of a benchmark where it gets a config.
        self._training = Training(None, config)  # type: ignore[arg-type]
        setup = self._training.task.setup
        self._tokenizer, train = setup.loaded.tokenizer, setup.splits.train
        self._backend = plain_backend(self._tokenizer)
        self._encode = Encoder(self._backend)
        documents = train.layout.documents
        every = max(1, len(documents) // SAMPLED_DOCUMENTS)
        numbers = np.sort(documents)[::every]
        self._texts = [document.text for document in setup.text.read().some_documents(numbers)]
        num_tokens = int(setup.store.documents.lengths[numbers].sum())
        self._words_per_token = sum(map(_num_words, self._texts)) / num_tokens
        self._chunk_length = config.chunking.chunk_length
        self._works: dict[str, Callable[[int], float]] = {
            "tokenizing": self._tokenize,
            "a store": self._tokenize_for_store,
            "training": self._train,
            "inference": self._infer,
        }

    def run(self, part: str, num_steps: int) -> Block:
        """Do some work; its amount is in words."""
        device = self._training.learner.accelerator.device
        finish(device)
        started = time.perf_counter()
        amount = self._works[part](num_steps)
        finish(device)
        return Block(num_steps, amount, time.perf_counter() - started)

    def facts(self) -> dict[str, Any]:
        """Return the size of the vocabulary and of a chunk."""
        embeddings = self._training.module.get_input_embeddings()
        return {
            "num_rows": embeddings.num_embeddings,
            "words_per_chunk": self._words_per_token * self._chunk_length,
        }

    def _tokenize(self, num_steps: int) -> float:
        for _ in range(num_steps):
            self._backend.encode_batch_fast(self._texts, add_special_tokens=False)
        return num_steps * sum(map(_num_words, self._texts))

    def _tokenize_for_store(self, num_steps: int) -> float:
        for _ in range(num_steps):
            self._encode(self._texts)
        return num_steps * sum(map(_num_words, self._texts))

    def _train(self, num_steps: int) -> float:
        return self._training.run(num_steps).amount * self._words_per_token

    def _infer(self, num_steps: int) -> float:
        every = len(self._texts) // INFERRED_TEXTS
        middles = ((text, len(text) // 2) for text in self._texts[::every])
        texts = [text[middle : middle + TEXT_CHARACTERS] for text, middle in middles]
        model, accelerator = self._training.module, self._training.learner.accelerator
        with in_evaluation_mode(model), torch.inference_mode(), accelerator.autocast():
            # One by one: in a batch, the length of the longest text would decide.
            for text in num_steps * texts:
                inputs = self._tokenizer(text, truncation=True, return_tensors="pt")
                model.base_model(**inputs.to(accelerator.device))
        return num_steps * sum(map(_num_words, texts))


def _num_words(text: str) -> int:
    return sum(1 for _ in find_words(text))
