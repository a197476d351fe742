"""What a model says of masked tokens, one by one; the masks are fixed.

Which tokens are masked, and by what, is a function of (`evaluation.seed`, draw, chunk, position),
so every model, run, batch size and number of processes is asked for the same tokens.

A small text is masked several times, in *draws*, since one draw asks for a few of its tokens only
and which ones is chance. Draws are cut from the same random numbers, one slice after the other, so
that they ask for different tokens until nearly all of the text was asked for.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Self, TypeVar

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch.nn import functional
from transformers import PreTrainedTokenizerFast

from mlmtune.config import EvaluationConfig, MaskingConfig
from mlmtune.errors import ResourceError, is_out_of_memory
from mlmtune.masking.collator import IGNORE_INDEX, MaskedBatch, MaskingCollator
from mlmtune.masking.selection import num_slices
from mlmtune.modeling.device import free_cached_memory
from mlmtune.modeling.masked_head import MaskedHead
from mlmtune.randomness import key, permute
from mlmtune.tokens.chunking import ChunkView

SUBSET_STREAM, MASK_STREAM, DRAW_STREAM = 0xE7A1, 0xE7A2, 0xE7A3
"""Keep the draws of `evaluation.seed` apart: which chunks, which tokens, and which tokens again."""

NOTHING_MASKED = (
    "no token of the validation text was masked: it is too short, or the tokenizer does not know "
    "its characters; add text, raise evaluation.mlm_probability, or choose a model for this script"
)

ENOUGH_PREDICTIONS = 10_000
"""With `evaluation.mask_draws: auto` a text is masked until so many tokens were asked for."""

MOST_DRAWS = 8
"""With `auto`, at most. Further draws mostly repeat what was asked."""

COUNTED_TOGETHER = 256
"""Chunks whose tokens are counted at once."""

BATCHES_BETWEEN_EXCHANGES = 8
"""How often several processes ask each other whether to go on."""

T = TypeVar("T")
Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class TokenScores:
    """What a model says of n masked tokens.

    Attributes:
        draws: (n,) in which draw of the masks.
        chunks: (n,) which chunk of the view each is in.
        columns: (n,) where in the chunk, special tokens counted.
        positions: (n,) where in the view's store.
        labels: (n,) the id that stood there.
        losses: (n,) float64 cross entropy, in nats.
        is_first: (n,) whether the likeliest id is the right one.
        is_in_five: (n,) whether at most four ids are likelier than the right one.
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
        """How many tokens of the text these are; one that two draws asked for counts once."""
        return len(np.unique(self.positions))

    @classmethod
    def join(cls, parts: list[Self]) -> Self:
        """Several one after the other; there is at least one."""
        return cls(
            **{
                field.name: np.concatenate([getattr(part, field.name) for part in parts])
                for field in fields(cls)
            }
        )


class FixedMasks:
    """The chunks that are measured, each masked in the same ways for good.

    Args:
        view: what they are taken from.
        tokenizer: names the mask token.
        config: seed, strategy, rate, how many chunks and how many draws.
        with_token_type_ids: whether the model has token types.
        is_for_compiled_model: for a compiled model; see MaskingCollator.

    Attributes:
        view: what the chunks are taken from.
        chunks: which of them are measured, in order.
        num_draws: how many times each is masked.
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
        """As few as are expected to ask for ENOUGH_PREDICTIONS tokens, but at most MOST_DRAWS."""
        enough = ENOUGH_PREDICTIONS / self._config.mlm_probability
        num_tokens = 0
        for start in range(0, len(self.chunks), COUNTED_TOGETHER):
            chunks = self.view.batch(self.chunks[start : start + COUNTED_TOGETHER])
            num_tokens += int((~self.collator.without_unknown(chunks).special_tokens_mask).sum())
            if num_tokens >= enough:
                return 1
        return min(math.ceil(enough / max(num_tokens, 1)), MOST_DRAWS)

    def batch(self, chunks: Numbers, draw: int = 0) -> MaskedBatch:
        """Some chunks, masked as in one of the draws."""
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
        """What a model says of the masked tokens of some chunks, in one draw.

        Args:
            model: in evaluation mode, on the device.
            head: runs it on masked positions.
            device: where it is.
            draw: below `num_draws`.
            chunks: (B,) few enough to be computed at once.
        """
        batch = self.batch(chunks, draw)
        on_device = batch.to(device)
        labels = on_device.masked_labels()
        logits = head.outputs(model, on_device).logits.float()
        losses = functional.cross_entropy(
            logits, labels, reduction="none", ignore_index=IGNORE_INDEX
        )
        of_label = logits.gather(1, labels.clamp(min=0)[:, None])
        found = torch.stack(
            [
                losses,
                (logits.argmax(dim=-1) == labels).float(),
                ((logits > of_label).sum(dim=-1) < 5).float(),
            ]
        ).cpu().numpy()[:, : batch.num_masked_tokens]  # fmt: skip
        rows, columns = np.divmod(
            batch.masked_positions.numpy()[: batch.num_masked_tokens], batch.input_ids.shape[1]
        )
        return TokenScores(
            draws=np.full(len(rows), draw),
            chunks=chunks[rows],
            columns=columns,
            positions=self.view.positions(chunks)[rows, columns],
            labels=batch.labels.numpy()[rows, columns],
            losses=found[0].astype(np.float64),
            is_first=found[1] > 0,
            is_in_five=found[2] > 0,
        )


class FittingBatches:
    """Calls a function on batches, and on smaller ones from where memory has run out.

    Args:
        size: how many sequences to begin with.
        length_key: the setting that says how long a sequence may be.
    """

    def __init__(self, size: int, length_key: str) -> None:
        self._size = size
        self._length_key = length_key

    def map(
        self, function: Callable[[Numbers], T], batch: Numbers, device: torch.device
    ) -> list[T]:
        """What the function gives for a batch, in as many parts as it takes.

        Args:
            function: computes on the device.
            batch: sequences; there may be none.
            device: whose memory may run out.

        Raises:
            ResourceError: memory does not suffice for one sequence.
        """
        if len(batch) == 0:
            return []
        try:
            num_parts = -(-len(batch) // self._size)
            return [function(part) for part in np.array_split(batch, num_parts)]
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        # Here, not above: the error holds on to the tensors that did not fit.
        self._size = min(self._size, len(batch)) // 2
        if self._size == 0:
            raise ResourceError(
                f"out of memory with one validation sequence; lower {self._length_key}, or use a "
                "smaller model"
            )
        free_cached_memory(device)
        return self.map(function, batch, device)


def any_should_stop(
    accelerator: Accelerator, batch_number: int, should_stop: Callable[[], bool]
) -> bool:
    """Whether any process says so; asked of all together only every few batches."""
    if accelerator.num_processes == 1:
        return should_stop()
    if batch_number % BATCHES_BETWEEN_EXCHANGES:
        return False
    mine = torch.tensor(int(should_stop()), device=accelerator.device)
    return bool(accelerator.reduce(mine, reduction="sum"))
