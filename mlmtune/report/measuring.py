"""The models of a report, which are loaded one by one and scored on the same masked tokens.

No process group is joined, because the first process of a run may write a report by itself.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import product

import numpy as np
import torch
from accelerate.utils import parse_flag_from_env

from mlmtune.config import Config, MaskingConfig, ModelConfig
from mlmtune.console import Console
from mlmtune.errors import DataError, DivergedError
from mlmtune.evaluation.scoring import NOTHING_MASKED, FittingBatches, FixedMasks, TokenScores
from mlmtune.modeling.device import resolve_precision
from mlmtune.training.setup import ModelAndText, load_model_and_text


@dataclass(frozen=True)
class MeasuredModel:
    """A model in evaluation mode on its device, with the text in its tokens.

    Attributes:
        setup: The model and the text.
        device: The device of the model.
        precision: `fp32`, `bf16` or `fp16`, in which the model computes.
    """

    setup: ModelAndText
    device: torch.device
    precision: str

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Compute without gradients, in the precision of the model."""
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.precision)
        with torch.inference_mode(), torch.autocast(self.device.type, dtype, dtype is not None):
            yield

    def score(self, masks: FixedMasks, batch_size: int, console: Console) -> TokenScores:
        """Return the model's loss on every masked token, and whether its predictions are right.

        Raises:
            DataError: No token was masked.
            DivergedError: A loss is not a finite number.
            ResourceError: The memory is too small for one chunk.
        """
        setup = self.setup
        batches, parts = FittingBatches(batch_size, "chunking.chunk_length"), []
        starts = range(0, len(masks.chunks), batch_size)
        work = list(product(range(masks.num_draws), starts))
        with self.computing():
            for draw, start in console.under_bar(
                work, total=len(work), unit="batch", what="measuring"
            ):
                score = partial(masks.score, setup.loaded.model, setup.head, self.device, draw)
                batch = masks.chunks[start : start + batch_size]
                parts += batches.map(score, batch)
        scores = TokenScores.join(parts)
        if len(scores) == 0:
            raise DataError(NOTHING_MASKED)
        if not np.isfinite(scores.losses).all():
            raise DivergedError(
                f"{setup.loaded.model.name_or_path}: its loss is not a finite number; its weights "
                "are broken: take another checkpoint, or train again"
            )
        return scores


def load_measured_model(config: Config, model: ModelConfig, console: Console) -> MeasuredModel:
    """Load a model instead of that of a run, and the text of the run in the model's tokens.

    Raises:
        MlmtuneError: The model or the text cannot be loaded, or they do not fit.
    """
    device = _own_device()
    wanted = config.training.precision
    if wanted == "fp16" and device.type == "cpu":
        wanted = "auto"  # the run had a GPU, and the report may be made elsewhere
    precision = resolve_precision(wanted, device)
    # Measuring needs no pairs and none of the masks of training.
    changes = {"model": model, "objective": "mlm", "masking": MaskingConfig()}
    setup = load_model_and_text(config.model_copy(update=changes), device, precision, console)
    setup.loaded.model.to(device).eval()
    return MeasuredModel(setup, device, precision)


def _own_device() -> torch.device:
    """Return the device that this process uses outside of a process group."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if accelerator is None or parse_flag_from_env("ACCELERATE_USE_CPU"):
        return torch.device("cpu")
    return torch.device(accelerator.type, int(os.environ.get("LOCAL_RANK", "0")))
