"""Loading models one after the other and asking each for the same masked tokens.

No process group is joined: a report may be written by the first process of a run that had several.
"""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import torch
from accelerate.utils import parse_flag_from_env

from mlmtune.config import Config, MaskingConfig, ModelConfig
from mlmtune.console import Console
from mlmtune.errors import DataError, DivergedError
from mlmtune.evaluation.scoring import NOTHING_MASKED, FittingBatches, FixedMasks, TokenScores
from mlmtune.modeling.device import resolve_precision
from mlmtune.training.setup import Measurable, build_measurable


@dataclass(frozen=True)
class Subject(Measurable):
    """A model in evaluation mode on its device, beside the text as its tokenizer cuts it.

    Attributes:
        device: where the model is.
        precision: what it computes in.
    """

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
            DivergedError: a loss is not a finite number.
            ResourceError: memory does not suffice for one chunk.
        """
        batches, parts = FittingBatches(batch_size, "chunking.chunk_length"), []
        starts = range(0, len(masks.chunks), batch_size)
        work = list(product(range(masks.num_draws), starts))
        with self.computing():
            for draw, start in console.counted(
                work, total=len(work), unit="batch", what="measuring"
            ):
                score = partial(masks.score, self.loaded.model, self.head, self.device, draw)
                batch = masks.chunks[start : start + batch_size]
                parts += batches.map(score, batch, self.device)
        scores = TokenScores.join(parts)
        if len(scores) == 0:
            raise DataError(NOTHING_MASKED)
        if not np.isfinite(scores.losses).all():
            raise DivergedError(
                f"{self.loaded.model.name_or_path}: its loss is not a finite number; its weights "
                "are broken: take another checkpoint, or train again"
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
    # Nothing is trained: there are no pairs, and no masks but those of evaluation.
    untrained = {"model": model, "objective": "mlm", "masking": MaskingConfig()}
    measurable = build_measurable(config.model_copy(update=untrained), device, precision, console)
    measurable.loaded.model.to(device).eval()
    return Subject(**vars(measurable), device=device, precision=precision)


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
