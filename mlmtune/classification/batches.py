"""Examples as tokens, and the batches of an epoch. B examples, T tokens."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from mlmtune.classification.task_data import TextSide
from mlmtune.masking.collator import moved_to
from mlmtune.modeling.loading import LoadedModel
from mlmtune.randomness import bits, key, permute
from mlmtune.tokens.encoding import plain_backend
from mlmtune.training.stream import Batch

ORDER_STREAM, BATCH_STREAM = 0xC1A5, 0xC1A6
"""Separate the uses of `run.seed`: the order of examples, and that of batches."""

BATCHES_SORTED_TOGETHER = 16
"""With 1, half of an epoch is padding (sentences of papers, batches of 32); with 16, 5 to 7 % are,
and with 64, 2 % are, but then the batches of an epoch are similar."""


@dataclass(frozen=True)
class ExampleBatch:
    """A batch of examples.

    Attributes:
        inputs: The keyword arguments of the model's forward pass, (B, T) int64 each.
        labels: (B,) int64.
        weights: (B,) The weight of each example's loss.
    """

    inputs: dict[str, torch.Tensor]
    labels: torch.Tensor
    weights: torch.Tensor
    places: ClassVar[None] = None  # each example has a row of its own

    @property
    def num_targets(self) -> int:
        return len(self.labels)

    def of_predictions(self, outputs: torch.Tensor) -> torch.Tensor:
        return outputs

    def to(self, device: torch.device) -> Self:
        return type(self)(
            {name: moved_to(device, tensor) for name, tensor in self.inputs.items()},
            moved_to(device, self.labels),
            moved_to(device, self.weights),
        )


class LabelledBatch(Batch, Protocol):
    """Sequences with labels."""

    @property
    def inputs(self) -> dict[str, torch.Tensor]:
        """The keyword arguments of the model's forward pass."""
        ...

    def of_predictions(self, outputs: torch.Tensor) -> torch.Tensor:
        """Return those outputs of the model, (r, C), that are predictions of the batch."""
        ...


LabelledBatchT = TypeVar("LabelledBatchT", bound=LabelledBatch)


@dataclass(frozen=True)
class Encoded(ABC, Generic[LabelledBatchT]):
    """The n sequences of one side, for which the model makes R predictions.

    Attributes:
        ids: The ids of each sequence, special tokens included.
        tokenizer: The model's tokenizer, which says how to pad.
        has_token_types: Whether the model takes `token_type_ids`.
    """

    ids: Sequence[NDArray[np.int32]]
    tokenizer: PreTrainedTokenizerFast
    has_token_types: bool

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """The number of tokens of each sequence (n,)."""
        return np.asarray([len(ids) for ids in self.ids], dtype=np.int64)

    @property
    @abstractmethod
    def num_predictions(self) -> int:
        """R."""

    @abstractmethod
    def rows(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the number, of 0 to R, of each prediction for a batch."""

    @abstractmethod
    def batch(self, numbers: NDArray[np.int64]) -> LabelledBatchT:
        """Return the sequences with some numbers, padded to the longest of them."""


@dataclass(frozen=True)
class EncodedExamples(Encoded[ExampleBatch]):
    """The examples of one side.

    Attributes:
        type_ids: The token type of each token; 1 in the second text of a pair.
        labels: (n,) int64.
        weights: (n,) float32, the weight of each example's loss.
        num_truncated: How many examples were too long and are cut.
    """

    type_ids: Sequence[NDArray[np.int32]]
    labels: NDArray[np.int64]
    weights: NDArray[np.float32]
    num_truncated: int

    @classmethod
    def of(
        cls, side: TextSide, loaded: LoadedModel, max_length: int, weights: Sequence[float]
    ) -> Self:
        """Encode a side.

        Args:
            side: The examples.
            loaded: The model and its tokenizer.
            max_length: The most tokens of an example, special tokens included. The longer text of
                a pair is cut first.
            weights: The weight of each label.
        """
        backend = plain_backend(loaded.tokenizer)
        backend.enable_truncation(max_length, strategy="longest_first")
        texts = [text[0] if len(text) == 1 else tuple(text) for text in side.texts]
        encodings = backend.encode_batch(texts)
        return cls(
            ids=[np.asarray(encoding.ids, dtype=np.int32) for encoding in encodings],
            type_ids=[np.asarray(encoding.type_ids, dtype=np.int32) for encoding in encodings],
            labels=side.labels,
            weights=np.asarray(weights, dtype=np.float32)[side.labels],
            num_truncated=sum(bool(encoding.overflowing) for encoding in encodings),
            tokenizer=loaded.tokenizer,
            has_token_types=loaded.has_token_types,
        )

    @property
    def num_predictions(self) -> int:
        return len(self)

    def rows(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        return numbers

    def batch(self, numbers: NDArray[np.int64]) -> ExampleBatch:
        inputs = padded_inputs([self.ids[number] for number in numbers], self.tokenizer)
        if self.has_token_types:
            type_ids = [self.type_ids[number] for number in numbers]
            inputs["token_type_ids"] = padded(type_ids, 0, self.tokenizer)
        return ExampleBatch(
            inputs, torch.from_numpy(self.labels[numbers]), torch.from_numpy(self.weights[numbers])
        )


def padded(
    rows: Sequence[NDArray[Any]], value: int, tokenizer: PreTrainedTokenizerFast
) -> torch.Tensor:
    """Return rows of different lengths as (B, T) int64, padded with a value to the longest."""
    length = max(map(len, rows))
    filled = np.full((len(rows), length), value, dtype=np.int64)
    for row, values in zip(filled, rows, strict=True):
        row[length - len(values) if tokenizer.padding_side == "left" else 0 :][: len(values)] = (
            values
        )
    return torch.from_numpy(filled)


def padded_inputs(
    ids: Sequence[NDArray[np.int32]], tokenizer: PreTrainedTokenizerFast
) -> dict[str, torch.Tensor]:
    """Return `input_ids` and `attention_mask` of sequences, padded to the longest."""
    return {
        "input_ids": padded(ids, tokenizer.pad_token_id, tokenizer),
        "attention_mask": padded([np.ones_like(row) for row in ids], 0, tokenizer),
    }


class ExampleSequences(Generic[LabelledBatchT]):
    """The examples, or windows of sentences, to train on, in the order of each epoch.

    Similar lengths are in one batch.

    An epoch is a permutation. A window of some batches at a time is sorted by length, and then its
    batches are shuffled, so that a batch needs little padding and lengths vary from step to step.
    """

    def __init__(
        self, examples: Encoded[LabelledBatchT], global_batch_size: int, seed: int
    ) -> None:
        self._examples = examples
        self._lengths = examples.lengths
        self._global_batch_size = global_batch_size
        self._seed = seed
        self._order = lru_cache(maxsize=2)(self._draw_order)  # a step may see two epochs

    def __len__(self) -> int:
        return len(self._examples)

    def batch(
        self, step: int, epochs: NDArray[np.int64], places: NDArray[np.int64]
    ) -> LabelledBatchT:
        return self._examples.batch(self._numbers(epochs, places))

    def num_tokens(self, epochs: NDArray[np.int64], places: NDArray[np.int64]) -> int:
        """Count the tokens at some places, without padding."""
        return int(self._lengths[self._numbers(epochs, places)].sum())

    def _numbers(self, epochs: NDArray[np.int64], places: NDArray[np.int64]) -> NDArray[np.int64]:
        numbers = np.empty_like(places)
        for epoch in np.unique(epochs):
            numbers[epochs == epoch] = self._order(int(epoch))[places[epochs == epoch]]
        return numbers

    def _draw_order(self, epoch: int) -> NDArray[np.int64]:
        """Return the number of the example at each place of an epoch (n,)."""
        num_examples = len(self)
        drawn = permute(np.arange(num_examples), num_examples, key(self._seed, ORDER_STREAM, epoch))
        # An epoch may begin in the middle of a step, so its first batch may be smaller.
        first = epoch * num_examples
        steps = (first + np.arange(num_examples)) // self._global_batch_size
        borders = np.flatnonzero(np.diff(steps, prepend=steps[0] - 1))
        batches = list(zip(borders, [*borders[1:], num_examples], strict=True))
        ranks = bits(key(self._seed, BATCH_STREAM, epoch), np.arange(len(batches), dtype=np.uint64))
        order = np.empty(num_examples, dtype=np.int64)
        for number in range(0, len(batches), BATCHES_SORTED_TOGETHER):
            together = batches[number : number + BATCHES_SORTED_TOGETHER]
            window = drawn[together[0][0] : together[-1][1]]
            window = window[np.argsort(self._lengths[window], kind="stable")]
            for index in np.argsort(ranks[number : number + len(together)]):
                begin, end = together[index]
                order[begin:end], window = window[: end - begin], window[end - begin :]
        return order
