"""What a model says of masked tokens, one by one; the masks are fixed.

Which tokens are masked, and by what, is a function of (`evaluation.seed`, chunk, position), so
every model, run, batch size and number of processes is asked for the same tokens.
"""

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
from mlmtune.modeling.device import free_cached_memory
from mlmtune.modeling.masked_head import MaskedHead
from mlmtune.randomness import key, permute
from mlmtune.tokens.chunking import ChunkView

SUBSET_STREAM, MASK_STREAM = 0xE7A1, 0xE7A2
"""Keep the draws of `evaluation.seed` apart: which chunks, and which tokens."""

NOTHING_MASKED = (
    "no token of the validation text was masked; it is too short: add text, or raise "
    "evaluation.mlm_probability"
)

BATCHES_BETWEEN_EXCHANGES = 8
"""How often several processes ask each other whether to go on."""

T = TypeVar("T")
Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class TokenScores:
    """What a model says of n masked tokens.

    Attributes:
        chunks: (n,) which chunk of the view each is in.
        columns: (n,) where in the chunk, special tokens counted.
        positions: (n,) where in the view's store.
        labels: (n,) the id that stood there.
        losses: (n,) float64 cross entropy, in nats.
        is_first: (n,) whether the likeliest id is the right one.
        is_in_five: (n,) whether at most four ids are likelier than the right one.
    """

    chunks: Numbers
    columns: Numbers
    positions: Numbers
    labels: Numbers
    losses: NDArray[np.float64]
    is_first: NDArray[np.bool_]
    is_in_five: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.losses)

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
    """The chunks that are measured, each masked once and for all.

    Args:
        view: what they are taken from.
        tokenizer: names the mask token.
        config: seed, strategy, rate, and how many chunks.
        with_token_type_ids: whether the model has token types.
        is_for_compiled_model: for a compiled model; see MaskingCollator.

    Attributes:
        view: what the chunks are taken from.
        chunks: which of them are measured, in order.
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

    def batch(self, chunks: Numbers) -> MaskedBatch:
        """Some chunks, masked."""
        keys = key(self._config.seed, MASK_STREAM, chunks)
        return self.collator(self.view.batch(chunks), keys, self._config.mlm_probability)

    def score(
        self, model: Any, head: MaskedHead, device: torch.device, chunks: Numbers
    ) -> TokenScores:
        """What a model says of the masked tokens of some chunks.

        Args:
            model: in evaluation mode, on the device.
            head: runs it on masked positions.
            device: where it is.
            chunks: (B,) few enough to be computed at once.
        """
        batch = self.batch(chunks)
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
            batch: sequences.
            device: whose memory may run out.

        Raises:
            ResourceError: memory does not suffice for one sequence.
        """
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
