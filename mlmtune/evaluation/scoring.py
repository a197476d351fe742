"""Scores of a model's predictions on fixed masks, token by token.

Which tokens are masked, and by what, is a function of (`evaluation.seed`, draw, chunk, position),
so the same tokens are predicted by every model, at every batch size and number of processes.

A small text is masked several times, in *draws*, because one draw masks only a few of its tokens,
chosen by chance. Draws are slices of the same random numbers, one after the other, so that they
mask different tokens until nearly all of the text has been predicted.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import count, groupby
from typing import Any, Self, TypeVar

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch.nn import functional
from transformers import PreTrainedTokenizerFast

from mlmtune.config import EvaluationConfig, MaskingConfig
from mlmtune.errors import ResourceError, is_out_of_memory
from mlmtune.masking.collator import MaskedBatch, MaskingCollator
from mlmtune.masking.selection import num_slices
from mlmtune.modeling.device import free_cached_memory
from mlmtune.modeling.masked_head import MaskedHead
from mlmtune.randomness import key, permute
from mlmtune.tokens.chunking import ChunkView

SUBSET_STREAM, MASK_STREAM, DRAW_STREAM = 0xE7A1, 0xE7A2, 0xE7A3
"""Separate the uses of `evaluation.seed`: choosing chunks, masking, and masking once more."""

NOTHING_MASKED = (
    "no token of the validation text was masked: it is too short, or the tokenizer does not know "
    "its characters; add text, raise evaluation.mlm_probability, or choose a model for this script"
)

ENOUGH_PREDICTIONS = 10_000
"""With `evaluation.mask_draws: auto`, a text is masked until this many tokens are predicted."""

MOST_DRAWS = 8
"""The most draws that `auto` makes. Further draws would mostly mask the same tokens again."""

COUNTED_TOGETHER = 256
"""How many chunks have their tokens counted at once."""

BATCHES_BETWEEN_EXCHANGES = 8
"""How many batches processes compute before they ask each other whether to stop."""

T = TypeVar("T")
Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class TokenScores:
    """How well a model predicts n masked tokens.

    Attributes:
        draws: (n,) The draw of the masks that each token is from.
        chunks: (n,) The number of its chunk in the view.
        columns: (n,) Its position in the chunk, special tokens counted.
        positions: (n,) Its position in the view's store.
        labels: (n,) The id of the token that was masked.
        losses: (n,) float64 cross entropy, in nats.
        is_first: (n,) Whether the likeliest id is the right one.
        is_in_five: (n,) Whether at most four ids are likelier than the right one.
    """

    draws: Numbers
    chunks: Numbers
    columns: Numbers
    positions: Numbers
    labels: Numbers
    losses: NDArray[np.float64]
    is_first: NDArray[np.bool_]
    is_in_five: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.losses)

    @property
    def num_tokens(self) -> int:
        """The number of tokens of the text; one that was masked in two draws counts once."""
        return len(np.unique(self.positions))

    @classmethod
    def join(cls, parts: list[Self]) -> Self:
        """Concatenate scores, of which there is at least one."""
        return cls(
            **{
                field.name: np.concatenate([getattr(part, field.name) for part in parts])
                for field in fields(cls)
            }
        )


class FixedMasks:
    """The chunks that are measured, each masked the same way every time.

    Attributes:
        view: The chunks to choose from.
        collator: Masks the chunks.
        chunks: The numbers of those that are measured, in order.
        num_draws: How many times each is masked.
    """

    def __init__(
        self,
        view: ChunkView,
        tokenizer: PreTrainedTokenizerFast,
        config: EvaluationConfig,
        *,
        with_token_type_ids: bool,
        is_for_compiled_model: bool = False,
    ) -> None:
        self.view = view
        self.collator = MaskingCollator(
            tokenizer,
            MaskingConfig(strategy=config.strategy, mlm_probability=config.mlm_probability),
            with_token_type_ids=with_token_type_ids,
            is_for_compiled_model=is_for_compiled_model,
        )
        self._config = config
        self.chunks = np.arange(len(view))
        if config.max_chunks is not None and config.max_chunks < len(view):
            order = permute(self.chunks, len(view), key(config.seed, SUBSET_STREAM))
            self.chunks = np.sort(order[: config.max_chunks])
        self.num_draws = self._enough_draws() if config.mask_draws == "auto" else config.mask_draws

    def _enough_draws(self) -> int:
        """Return how many draws are expected to mask ENOUGH_PREDICTIONS tokens, or MOST_DRAWS."""
        enough = ENOUGH_PREDICTIONS / self._config.mlm_probability
        num_tokens = 0
        for start in range(0, len(self.chunks), COUNTED_TOGETHER):
            chunks = self.view.batch(self.chunks[start : start + COUNTED_TOGETHER])
            num_tokens += int((~self.collator.without_unknown(chunks).special_tokens_mask).sum())
            if num_tokens >= enough:
                return 1
        return min(math.ceil(enough / max(num_tokens, 1)), MOST_DRAWS)

    def batch(self, chunks: Numbers, draw: int = 0) -> MaskedBatch:
        """Return some chunks, masked as in one of the draws."""
        cycle, slice_number = divmod(draw, num_slices(self._config.mlm_probability))
        keys = key(self._config.seed, MASK_STREAM, chunks)
        if cycle:
            keys = key(keys, DRAW_STREAM, cycle)
        return self.collator(
            self.view.batch(chunks), keys, self._config.mlm_probability, slice_number
        )

    def score(
        self, model: Any, head: MaskedHead, device: torch.device, draw: int, chunks: Numbers
    ) -> TokenScores:
        """Score the predictions for the masked tokens of some chunks (B,), in one draw.

        The model is in evaluation mode and on the device. All chunks are computed at once.
        """
        batch = self.batch(chunks, draw)
        on_device = head.packed(batch).to(device)  # with the masked tokens in the same order
        logits = head.outputs(model, on_device).logits()
        scores = _scores(logits, on_device.masked_labels()).cpu().numpy()
        rows, columns = np.divmod(
            batch.masked_positions.numpy()[: batch.num_masked_tokens], batch.input_ids.shape[1]
        )
        return TokenScores(
            draws=np.full(len(rows), draw),
            chunks=chunks[rows],
            columns=columns,
            positions=self.view.positions(chunks)[rows, columns],
            labels=batch.labels.numpy()[rows, columns],
            losses=scores[0].astype(np.float64),
            is_first=scores[1] > 0,
            is_in_five=scores[2] > 0,
        )


def _scores(chunks: Iterator[torch.Tensor], labels: torch.Tensor) -> torch.Tensor:
    """Return (3, M) the loss of each label, and whether it is first and among the first five.

    Args:
        chunks: The logits (m, V) of the labels, in fp32: a sum over V ids in bf16 would lose its
            small terms.
        labels: (M,) The right ids.
    """
    # Stacked, so that there is one transfer from the device instead of three.
    scores, first = torch.empty(3, len(labels), device=labels.device), 0
    for logits in chunks:
        these = labels[first : first + len(logits)]
        of_label = logits.gather(1, these[:, None])
        scores[:, first : first + len(logits)] = torch.stack(
            [
                functional.cross_entropy(logits, these, reduction="none"),
                (logits.argmax(dim=-1) == these).float(),
                ((logits > of_label).sum(dim=-1) < 5).float(),
            ]
        )
        first += len(logits)
    return scores


class Stopped(Exception):
    """A process was asked to stop while it measured sequences."""


class FittingBatches:
    """Calls functions on batches, which become smaller when memory runs out.

    Args:
        size: How many sequences a batch has at first.
        length_key: The setting that limits the length of a sequence.
    """

    def __init__(self, size: int, length_key: str) -> None:
        self._first_size = self._size = size
        self._length_key = length_key

    def over(
        self,
        sequences: Numbers,
        functions: Sequence[Callable[[Numbers], T]],
        accelerator: Accelerator,
        should_stop: Callable[[], bool],
    ) -> Iterator[tuple[Numbers, list[T]]]:
        """Yield each batch of this process's share, with the results of each function; see `map`.

        Raises:
            ResourceError: Memory does not suffice for one sequence.
            Stopped: Some process should stop; raised in all of them.
        """
        mine = sequences[accelerator.process_index :: accelerator.num_processes]
        # Every process goes through equally many batches, of which the last may be empty, because
        # any_should_stop() waits for all of them.
        largest_share = -(-len(sequences) // accelerator.num_processes)
        numbers = count()
        for start in range(0, largest_share, self._first_size):
            batch, results = mine[start : start + self._first_size], []
            for function in functions:
                if any_should_stop(accelerator, next(numbers), should_stop):
                    raise Stopped
                results += self.map(function, batch)
            if results:
                yield batch, results

    def map(self, function: Callable[[Numbers], T], batch: Numbers) -> list[T]:
        """Apply a function to a batch of numbers, in as many parts as memory demands.

        Returns:
            The result for each part; none for an empty batch.

        Raises:
            ResourceError: Memory does not suffice for one sequence.
        """
        if len(batch) == 0:
            return []
        try:
            num_parts = -(-len(batch) // self._size)
            return [function(part) for part in np.array_split(batch, num_parts)]
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        # Outside of the except block: the error keeps alive the tensors that did not fit.
        self._size = min(self._size, len(batch)) // 2
        if self._size == 0:
            raise ResourceError(
                f"out of memory with one validation sequence; lower {self._length_key}, or use a "
                "smaller model"
            )
        free_cached_memory()
        return self.map(function, batch)


def groups_of_equal_length(lengths: Sequence[int], most: int) -> Iterator[Numbers]:
    """Yield the numbers of sequences in groups of one length, which need no padding.

    Args:
        lengths: The length of each sequence.
        most: The sequences of a group, at most.
    """
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    for _, numbers in groupby(order, key=lengths.__getitem__):
        alike = np.fromiter(numbers, np.int64)
        yield from np.split(alike, range(most, len(alike), most))


def any_should_stop(
    accelerator: Accelerator, batch_number: int, should_stop: Callable[[], bool]
) -> bool:
    """Whether any process wants to stop."""
    if accelerator.num_processes == 1:
        return should_stop()
    # An exchange waits for the slowest process, so it does not come with every batch.
    if batch_number % BATCHES_BETWEEN_EXCHANGES:
        return False
    mine = torch.tensor(int(should_stop()), device=accelerator.device)
    return bool(accelerator.reduce(mine, reduction="sum"))
