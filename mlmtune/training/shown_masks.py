"""Masked sequences as text for `mlmtune check`, and statistics of what is masked."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from mlmtune.config import MaskingConfig
from mlmtune.console import Console, coloured
from mlmtune.masking.collator import IGNORE_INDEX, MaskedBatch, MaskingCollator
from mlmtune.masking.selection import STRATEGIES
from mlmtune.numbers import share
from mlmtune.randomness import key
from mlmtune.tables import histogram
from mlmtune.tokens.chunking import ChunkBatch
from mlmtune.training.masked_lm import MaskedLM, MaskedSequences

NUM_MEASURED = 256  # sequences for the statistics
LONGEST_SHOWN = 6
"""The last row of the histogram counts words of this many tokens or more."""

_GREEN, _RED, _DIM = "\033[32m", "\033[31m", "\033[2m"


@dataclass(frozen=True)
class _Masked:
    """Sequences before and after masking.

    Attributes:
        heads: (B, T) The position of the token that each token is selected together with.
    """

    chunks: ChunkBatch
    heads: NDArray[np.int64]
    batch: MaskedBatch

    @property
    def selected(self) -> NDArray[np.bool_]:
        """(B, T) whether each token is predicted."""
        is_predicted: NDArray[np.bool_] = self.batch.labels.numpy() != IGNORE_INDEX
        return is_predicted


def show_masks(
    task: MaskedLM, console: Console, *, num_chunks: int, num_draws: int, compares: bool
) -> None:
    """Print the first sequences of the first epoch with their masks, and statistics.

    On a terminal, a predicted token is green, and what the model sees instead is red. The first of
    several draws of masks is that of the first epoch. `compares` shows every strategy.
    """
    for phase, settings, sequences in zip(
        task.plan.phases, task.config.by_phase, task.sequences, strict=True
    ):
        masking = settings.masking
        for strategy in STRATEGIES if compares else [masking.strategy]:
            config = masking.model_copy(update={"strategy": strategy})
            preview = _StrategyPreview(task, config, sequences)
            of_phase = f"phase {phase.name}, " if phase.name else ""
            title = f"{of_phase}masking.strategy: {strategy}"
            console.result(f"\n{title} ({STRATEGIES[strategy].description})")
            console.result("the first training sequences, [[original -> what the model sees]]")
            _show(preview, min(num_chunks, len(sequences)), num_draws, console)


def _show(preview: "_StrategyPreview", num_chunks: int, num_draws: int, console: Console) -> None:
    for number in range(num_chunks):
        for draw in range(num_draws):
            label = f"sequence {number + 1}" + (f", draw {draw + 1}" if num_draws > 1 else "")
            console.result(f"{label}\n{preview.sequence(number, draw)}")
    for line in preview.statistics():
        console.result(line)


class _StrategyPreview:
    """The masks of one strategy, as text, on the sequences of a phase.

    `config` is the section `masking` with this strategy.
    """

    def __init__(self, task: MaskedLM, config: MaskingConfig, sequences: MaskedSequences) -> None:
        self._task = task
        self._config = config
        self._sequences = sequences
        self._collator = MaskingCollator(
            task.loaded.tokenizer, config, with_token_type_ids=task.loaded.has_token_types
        )

    def _mask(self, positions: NDArray[np.int64], draw: int) -> _Masked:
        """Mask the sequences at some positions of the first epoch."""
        sequences = self._sequences
        chunks, keys = sequences.unmasked.batch(np.zeros_like(positions), positions)
        if draw:  # the first draw has the keys of the run itself
            keys = key(keys, draw)
        chunks = self._collator.without_unknown(chunks)  # as masking does
        heads = STRATEGIES[self._config.strategy].group(chunks, keys, self._config)
        return _Masked(chunks, heads, self._collator(chunks, keys, sequences.mlm_probability(0)))

    def sequence(self, position: int, draw: int) -> str:
        """Write a sequence as text, with a line that names each document before it."""
        masked = self._mask(np.asarray([position]), draw)
        tokenizer, store = self._task.loaded.tokenizer, self._task.setup.store
        documents = self._sequences.unmasked.documents_at(position)
        ids = store.document_ids([document for _, document in documents])
        borders = {
            column: f"{store.sources[store.documents.sources[document]].name}: {id_}"
            for (column, document), id_ in zip(documents, ids, strict=True)
        }
        batch, selected = masked.batch, masked.selected[0]
        seen, labels = batch.input_ids[0].numpy(), batch.labels[0].numpy()
        # Tokens that were selected together are shown together.
        groups = np.where(selected, masked.heads[0], -1)
        begins = np.union1d(np.flatnonzero(np.diff(groups, prepend=-2)), list(borders)).tolist()
        lines: list[str] = []
        pieces: list[str] = []
        for begin, end in pairwise([*map(int, begins), len(seen)]):
            if begin in borders:
                lines += [*_text_line(pieces), coloured(f"  -- {borders[begin]}", _DIM)]
                pieces = []
            if selected[begin]:
                pieces.append(self._prediction(seen[begin:end], labels[begin:end]))
            else:
                pieces.append(str(tokenizer.decode(seen[begin:end].tolist())))
        lines += _text_line(pieces)
        if batch.pair_labels is not None:
            lines.append(coloured(f"  -- {self._relation(int(batch.pair_labels[0]))}", _DIM))
        return "\n".join(lines)

    def _prediction(self, seen: NDArray[np.int64], labels: NDArray[np.int64]) -> str:
        """Write the original tokens, and those that the model sees instead."""
        to_tokens = self._task.loaded.tokenizer.convert_ids_to_tokens
        original, now = (" ".join(map(str, to_tokens(ids.tolist()))) for ids in (labels, seen))
        shown = "itself" if original == now else now
        return f"[[{coloured(original, _GREEN)} -> {coloured(shown, _RED)}]]"

    def _relation(self, pair_label: int) -> str:
        if self._task.config.objective == "mlm+nsp":
            return "B is from another document" if pair_label else "B follows A"
        return "B comes before A" if pair_label else "A comes before B"

    def statistics(self) -> list[str]:
        """Write how many tokens are predicted, what replaces them, and the lengths of words."""
        masked = self._mask(np.arange(min(NUM_MEASURED, len(self._sequences))), 0)
        lines = [self._rates(masked), *_word_lengths(masked)]
        if self._config.strategy == "span":
            lines += _span_lengths(masked, self._config.span_max_words)
        if masked.chunks.pair_labels is not None:
            apart = share(float(masked.chunks.pair_labels.mean()))
            lines.append(f"{apart} of the pairs do not belong together as they are")
        return lines

    def _rates(self, masked: _Masked) -> str:
        selected = masked.selected
        seen, labels = masked.batch.input_ids.numpy(), masked.batch.labels.numpy()
        is_mask = seen[selected] == self._task.loaded.tokenizer.mask_token_id
        is_same = seen[selected] == labels[selected]
        num_maskable = int((~masked.chunks.special_tokens_mask).sum())
        num_selected = max(int(selected.sum()), 1)
        return (
            f"in {len(selected)} sequences {share(selected.sum() / max(num_maskable, 1))} of "
            f"{num_maskable:,} tokens are predicted; of these "
            f"{share(is_mask.sum() / num_selected)} are masked, "
            f"{share((~is_mask & ~is_same).sum() / num_selected)} another token, "
            f"{share(is_same.sum() / num_selected)} themselves"
        )


def _text_line(pieces: list[str]) -> list[str]:
    return ["  " + " ".join(pieces)] if pieces else []


def _word_lengths(masked: _Masked) -> list[str]:
    """Count words with a predicted token by their length, and how many are predicted whole."""
    body = ~masked.chunks.special_tokens_mask
    word = np.cumsum((masked.chunks.word_starts & body)[body])  # of each body token, from 1
    sizes = np.bincount(word)
    num_predicted = np.bincount(word, weights=masked.selected[body])
    is_masked = num_predicted > 0
    lengths = np.minimum(sizes[is_masked], LONGEST_SHOWN)
    is_whole = num_predicted[is_masked] == sizes[is_masked]
    counts = np.bincount(lengths, minlength=LONGEST_SHOWN + 1)[1:]
    whole = np.bincount(lengths, weights=is_whole, minlength=LONGEST_SHOWN + 1)[1:]
    rows = [
        (f"{length}{'+' if length == LONGEST_SHOWN else ''}", int(count),
         f"{num_whole / count:.0%} of them whole")
        for length, (count, num_whole) in enumerate(zip(counts, whole, strict=True), start=1)
        if count
    ]  # fmt: skip
    return ["masked words by their tokens", *_bars(rows)]


def _span_lengths(masked: _Masked, longest: int) -> list[str]:
    rows, columns = np.nonzero(masked.selected & masked.chunks.word_starts)
    spans = rows * masked.heads.shape[1] + masked.heads[rows, columns]
    _, num_words = np.unique(spans, return_counts=True)
    counts = np.bincount(num_words, minlength=longest + 1)[1:]
    bars = [(str(n), int(count), "") for n, count in enumerate(counts, start=1) if count]
    return [f"spans by their words ({num_words.mean():.1f} on average)", *_bars(bars)]


def _bars(rows: list[tuple[str, int, str]]) -> list[str]:
    """Draw a histogram of (label, count, note) rows, with the share of each count."""
    total = max(sum(count for _, count, _ in rows), 1)
    shares = [
        (label, count, share(count / total) + (f", {note}" if note else ""))
        for label, count, note in rows
    ]
    return list(histogram(shares, colour=_GREEN))
