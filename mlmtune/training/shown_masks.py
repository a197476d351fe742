"""Chunks as a model will see them: document borders, masked words, and how often each happens."""

import sys

import numpy as np
import torch

from mlmtune.console import Console
from mlmtune.masking.collator import IGNORE_INDEX, MaskedBatch
from mlmtune.training.setup import Parts

NUM_MEASURED_CHUNKS = 256
"""Chunks that the realised rates are counted on."""

_GREEN, _RED, _DIM, _PLAIN = "\033[32m", "\033[31m", "\033[2m", "\033[0m"


def show_masks(parts: Parts, console: Console, *, num_chunks: int, num_masks: int) -> None:
    """Print the first chunks of the first epoch, each with the masks of some epochs.

    On a terminal a predicted token is green, and what stands in its place red.

    Args:
        parts: the run's.
        console: where to.
        num_chunks: how many chunks.
        num_masks: epochs whose masks are shown of each.
    """
    console.result("\nthe first training chunks, [[original -> what the model sees]]")
    for number in range(min(num_chunks, parts.plan.num_chunks)):
        for epoch in range(num_masks):
            chunk, batch = parts.stream.shown(number, epoch)
            label = f"chunk {chunk:,}" + (f", masks of epoch {epoch + 1}" if num_masks > 1 else "")
            console.result(f"{label}\n{_decode(parts, batch, chunk)}")
    console.result(_rates(parts))


def _decode(parts: Parts, batch: MaskedBatch, chunk: int) -> str:
    """A chunk as text, each document after a line that names it."""
    tokenizer, store = parts.loaded.tokenizer, parts.store
    documents = parts.splits.train.documents_in(chunk)
    ids = store.document_ids([document for _, document in documents])
    names = [
        f"{store.sources[store.document_sources[document]].name}: {id_}"
        for (_, document), id_ in zip(documents, ids, strict=True)
    ]
    borders = dict(zip((column for column, _ in documents), names, strict=True))
    lines: list[str] = []
    pieces: list[str] = []
    plain: list[int] = []

    def flush() -> None:
        if plain:
            pieces.append(str(tokenizer.decode(plain)))
            plain.clear()

    def end_line() -> None:
        flush()
        if pieces:
            lines.append("  " + " ".join(pieces))
            pieces.clear()

    columns = zip(batch.input_ids[0].tolist(), batch.labels[0].tolist(), strict=True)
    for column, (seen, label) in enumerate(columns):
        if column in borders:
            end_line()
            lines.append(_coloured(f"  -- {borders[column]}", _DIM))
        if label == IGNORE_INDEX:
            plain.append(seen)
            continue
        flush()
        original = str(tokenizer.convert_ids_to_tokens(label))
        shown = "itself" if seen == label else str(tokenizer.convert_ids_to_tokens(seen))
        pieces.append(f"[[{_coloured(original, _GREEN)} -> {_coloured(shown, _RED)}]]")
    end_line()
    return "\n".join(lines)


def _coloured(text: str, colour: str) -> str:
    return f"{colour}{text}{_PLAIN}" if sys.stdout.isatty() else text


def _rates(parts: Parts) -> str:
    """How often tokens are selected, and what becomes of those, counted on some chunks."""
    counts: torch.Tensor = torch.zeros(4, dtype=torch.int64)
    view, mask_token_id = parts.splits.train, parts.loaded.tokenizer.mask_token_id
    num_chunks = min(NUM_MEASURED_CHUNKS, parts.plan.num_chunks)
    num_maskable = 0
    for number in range(num_chunks):
        chunk, batch = parts.stream.shown(number, 0)
        seen, labels = batch.input_ids[batch.labels != IGNORE_INDEX], batch.masked_labels()
        labels = labels[labels != IGNORE_INDEX]
        is_mask, is_same = seen == mask_token_id, seen == labels
        counts += torch.stack(
            [torch.tensor(len(seen)), is_mask.sum(), (~is_mask & ~is_same).sum(), is_same.sum()]
        )
        special = view.batch(np.asarray([chunk])).special_tokens_mask
        num_maskable += int((~special).sum())
    selected, masked, replaced, same = counts.tolist()
    return (
        f"in {num_chunks} chunks {selected / max(num_maskable, 1):.1%} of {num_maskable:,} tokens "
        f"are predicted; of these {masked / max(selected, 1):.1%} are masked, "
        f"{replaced / max(selected, 1):.1%} another token, {same / max(selected, 1):.1%} themselves"
    )
