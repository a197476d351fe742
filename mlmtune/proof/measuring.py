"""Loading models one after the other and asking each for the same masked tokens.

No process group is joined: a report may be written by the first process of a run that had several.
"""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from accelerate.utils import parse_flag_from_env

from mlmtune.config import Config, ModelConfig
from mlmtune.console import Console
from mlmtune.errors import DataError
from mlmtune.evaluation.scoring import FittingBatches, FixedMasks, TokenScores
from mlmtune.modeling.device import resolve_precision
from mlmtune.modeling.loading import LoadedModel, load_pretrained, start_from_frequencies
from mlmtune.modeling.masked_head import MaskedHead
from mlmtune.tokens.chunking import ChunkView
from mlmtune.tokens.splits import Splits
from mlmtune.training.setup import fixed_masks, open_text


@dataclass(frozen=True)
class Subject:
    """A model in evaluation mode on its device, beside the text as its tokenizer cuts it.

    Attributes:
        loaded: tokenizer and model.
        head: runs the model on masked positions.
        splits: the corpus in its tokens.
        masks: the domain's validation text, masked.
        general_masks: general text, masked; None where there is none.
        device: where the model is.
        precision: what it computes in.
    """

    loaded: LoadedModel
    head: MaskedHead
    splits: Splits
    masks: FixedMasks
    general_masks: FixedMasks | None
    device: torch.device
    precision: str

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Without gradients, in the precision of the run."""
        with torch.inference_mode(), _autocast(self.device, self.precision):
            yield

    def score(self, masks: FixedMasks, batch_size: int, console: Console) -> TokenScores:
        """What the model says of every masked token.

        Raises:
            DataError: not one token was masked.
            ResourceError: memory does not suffice for one chunk.
        """
        batches, parts = FittingBatches(batch_size, self.device), []
        starts = range(0, len(masks.chunks), batch_size)
        with self.computing():
            for start in console.counted(starts, total=len(starts), unit="batch", what="measuring"):
                parts += batches.map(
                    lambda chunks: masks.score(self.loaded.model, self.head, self.device, chunks),
                    masks.chunks[start : start + batch_size],
                )
        scores = TokenScores.join(parts)
        if len(scores) == 0:
            raise DataError(
                "no token of the text was masked; it is too short: add text, or raise "
                "evaluation.mlm_probability"
            )
        return scores


def load_subject(config: Config, model: ModelConfig, console: Console) -> Subject:
    """Load a model, and the text of a run in its tokens.

    Args:
        config: the run's; which text, and how it is cut and masked.
        model: the model.
        console: shows what takes time.

    Raises:
        MlmtuneError: model, tokenizer and text do not fit, or are not there.
    """
    device = this_device()
    wanted = config.training.precision
    if wanted == "fp16" and device.type == "cpu":
        wanted = "auto"  # the run had a GPU, and the report may be made elsewhere
    precision = resolve_precision(wanted, device)
    loaded = load_pretrained(
        model,
        objective="mlm",
        chunk_length=config.chunking.chunk_length,
        device=device,
        precision=precision,
        seed=config.run.seed,
    )
    splits = open_text(config, loaded.tokenizer, console)
    if loaded.head_is_new:
        vocabulary_size = loaded.model.get_input_embeddings().num_embeddings
        start_from_frequencies(loaded, splits.train.token_counts(vocabulary_size))
    loaded.model.to(device).eval()
    head = MaskedHead(loaded.model, len(loaded.tokenizer))
    masks, general_masks = fixed_masks(splits, loaded, config)
    return Subject(loaded, head, splits, masks, general_masks, device, precision)


def words_and_bytes(view: ChunkView) -> tuple[float, float]:
    """Words and bytes of a text for each of its tokens; words are the same for any tokenizer."""
    return view.per_token(view.store.num_text_words), view.per_token(view.store.num_bytes)


def this_device() -> torch.device:
    """The device that a process computes on by itself."""
    found = torch.accelerator.current_accelerator(check_available=True)
    if found is None or parse_flag_from_env("ACCELERATE_USE_CPU"):
        return torch.device("cpu")
    return torch.device(found.type, int(os.environ.get("LOCAL_RANK", "0")))


def _autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    if precision == "fp32":
        return nullcontext()
    dtype = torch.bfloat16 if precision == "bf16" else torch.float16
    return torch.autocast(device.type, dtype)
