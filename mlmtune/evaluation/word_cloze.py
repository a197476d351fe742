"""The word cloze: how well a model predicts whole words, whatever pieces its tokenizer makes.

Per-token losses of models with different tokenizers do not compare, because their tokens differ. A
word is the same for all. Its log probability is a sum over its pieces, each predicted from the text
around the word and the pieces before it: the piece is masked together with the pieces after it in
the word (Kauf and Ivanova 2023, "A better way to do masked language model scoring", 2,
"within-word left-to-right"). To mask a single piece and leave those after it would give it away.

The masks show how many pieces the word has, so the sum is the probability among the words of that
many pieces. This favours a tokenizer with more pieces, whose masks say more. Against that, each
number of pieces may be counted, too, at the share of the words that have it: then all words
together have a probability of 1, and the favour is for the tokenizer with fewer pieces, because a
model may guess the number from the text better than by its share. What holds for both is certain.

Legend: W words, V masked variants of them (one for each piece), T tokens of a variant.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Self

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch.nn import functional
from transformers import PreTrainedTokenizerFast

from mlmtune.errors import DataError, DivergedError
from mlmtune.evaluation.cloze_words import DrawnWord, Window
from mlmtune.evaluation.scoring import FittingBatches, Numbers, groups_of_equal_length
from mlmtune.masking.collator import IGNORE_INDEX, MaskedBatch
from mlmtune.modeling.evaluation_mode import in_evaluation_mode
from mlmtune.modeling.loading import LoadedModel
from mlmtune.modeling.masked_head import MaskedHead
from mlmtune.tokens.encoding import plain_backend
from mlmtune.tokens.special_tokens import SpecialTokens
from mlmtune.tokens.unknown import unknown_token_id

NUM_WORDS = 300
"""The words of a sample. Intervals shrink with the square root of their number."""
FEWEST_WORDS = 20
"""A sample with fewer words that all tokenizers can be asked for is not measured."""
MOST_TOKENS = 128
"""A window is cut to this many tokens, special tokens included, of each tokenizer."""
WINDOW_CHARACTERS = (200, 100, 50, 25, 12, 0)
"""How many characters are on each side of a word: the first number whose window is short enough
for every tokenizer, so that all models see the same text."""

GROUP_SEQUENCES = 32
"""The sequences that are computed at once. A constant, because the last bits of a loss depend on
it, and nothing that is measured may depend on `evaluation.batch_size`."""


@dataclass(frozen=True)
class WordInPieces:
    """A word in its window, as tokens of one tokenizer.

    Attributes:
        ids: (T,) The window, special tokens included.
        begin: The place of the word's first piece.
        end: The place after its last one.
    """

    ids: NDArray[np.int64]
    begin: int
    end: int

    @property
    def num_pieces(self) -> int:
        return self.end - self.begin


class WordCutter:
    """Finds the pieces of a word by one tokenizer, and why it may have none of its own."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._backend = plain_backend(tokenizer)
        self._special = SpecialTokens.of(tokenizer)
        self._unknown_id = unknown_token_id(tokenizer)

    def __call__(self, windows: Sequence[Window]) -> list[WordInPieces]:
        """Return the pieces of each word; there are none if they are not those of the word alone.

        That is if a piece also has other text than white space, or is unknown.
        """
        encodings = self._backend.encode_batch(
            [window.text for window in windows], add_special_tokens=False
        )
        return [self._cut(*pair) for pair in zip(windows, encodings, strict=True)]

    def num_pieces(self, forms: Sequence[str]) -> list[int]:
        """Return how many pieces each word has after a space."""
        texts = [f" {form}" for form in forms]
        return [len(e) for e in self._backend.encode_batch_fast(texts, add_special_tokens=False)]

    def _cut(self, window: Window, encoding: Any) -> WordInPieces:
        prefix, suffix = self._special.prefix, self._special.suffix
        ids = np.asarray([*prefix, *encoding.ids, *suffix], dtype=np.int64)
        starts, ends = np.asarray(encoding.offsets, dtype=np.int64).reshape(-1, 2).T
        pieces = np.flatnonzero((starts < window.end) & (ends > window.begin))
        if len(pieces) == 0 or self._unknown_id in np.asarray(encoding.ids)[pieces].tolist():
            return WordInPieces(ids, 0, 0)
        # Byte-level BPE and SentencePiece put the space before a word into its first piece.
        before = window.text[starts[pieces[0]] : window.begin]
        after = window.text[window.end : ends[pieces[-1]]]
        if (before + after).strip():
            return WordInPieces(ids, 0, 0)
        first, last = int(pieces[0]) + len(prefix), int(pieces[-1]) + len(prefix)
        return WordInPieces(ids, first, last + 1)


@dataclass(frozen=True)
class ClozeText:
    """The words that all models are asked for, each in the same text.

    Attributes:
        words: The W words.
        windows: The W windows.
        samples: (W,) The words of each sample, by its name. The first sample is that of all words;
            others are of words of a kind.
        num_left_out: The drawn words that are no whole pieces of each of the tokenizers.
    """

    words: tuple[DrawnWord, ...]
    windows: tuple[Window, ...]
    samples: Mapping[str, NDArray[np.bool_]]
    num_left_out: int

    @classmethod
    def of(
        cls,
        samples: Mapping[str, Iterable[DrawnWord]],
        tokenizers: Sequence[PreTrainedTokenizerFast],
        max_tokens: int = MOST_TOKENS,
        num_words: int = NUM_WORDS,
    ) -> Self:
        """Take the first words of each sample, without those that some tokenizer does not have.

        Args:
            samples: The words of each sample in their drawn order, those of all words first.
            tokenizers: All tokenizers that are compared.
            max_tokens: The tokens that every model takes, special tokens included.
            num_words: The words of a sample.

        Raises:
            DataError: Too few words are left in the sample of all words.
        """
        chosen = {name: list(islice(words, num_words)) for name, words in samples.items()}
        drawn = list(dict.fromkeys(word for words in chosen.values() for word in words))
        cutters = [WordCutter(tokenizer) for tokenizer in tokenizers]
        windows = _fitting_windows(drawn, cutters, min(max_tokens, MOST_TOKENS))
        words = tuple(windows)
        masks: dict[str, NDArray[np.bool_]] = {}
        for number, (name, of_sample) in enumerate(chosen.items()):
            has = set(of_sample)
            mask = np.asarray([word in has for word in words], dtype=bool)
            if number == 0 and mask.sum() < FEWEST_WORDS:
                raise DataError(
                    f"of {len(of_sample)} words, {int(mask.sum())} are whole pieces of every "
                    f"tokenizer, and it takes {FEWEST_WORDS}"
                )
            if mask.sum() >= FEWEST_WORDS:
                masks[name] = mask
        return cls(words, tuple(windows.values()), masks, len(drawn) - len(words))

    @property
    def documents(self) -> NDArray[np.uint64]:
        """(W,) The content hash of the document of each word."""
        return np.asarray([word.document for word in self.words], dtype=np.uint64)


def _fitting_windows(
    words: Sequence[DrawnWord], cutters: Sequence[WordCutter], max_tokens: int
) -> dict[DrawnWord, Window]:
    """Return the largest window of each word that is short enough, and has its pieces, everywhere.

    A word without one is left out.
    """
    fitting: dict[DrawnWord, Window] = {}
    rest = list(words)
    for num_characters in WINDOW_CHARACTERS:
        windows = [word.window(num_characters) for word in rest]
        by_tokenizer = [cutter(windows) for cutter in cutters]
        too_long = []
        for word, window, *cuts in zip(rest, windows, *by_tokenizer, strict=True):
            if any(len(cut.ids) > max_tokens for cut in cuts):
                too_long.append(word)
            elif all(cut.num_pieces for cut in cuts):
                fitting[word] = window
        rest = too_long
    return {word: fitting[word] for word in words if word in fitting}


@dataclass(frozen=True)
class WordScores:
    """How well a model predicts W words.

    Attributes:
        losses: (W,) float64 -log of the probability of each word, in nats, given the number of its
            pieces: the sum of the losses of its pieces.
        num_pieces: (W,) The number of its pieces.
        pieces: (V,) The ids of the pieces of all words.
    """

    losses: NDArray[np.float64]
    num_pieces: Numbers
    pieces: Numbers

    @classmethod
    def of(cls, losses: NDArray[np.float64], num_pieces: Numbers, pieces: Numbers) -> Self:
        """Add up the losses (V,) of the pieces of each word."""
        by_word = np.zeros(len(num_pieces))
        np.add.at(by_word, np.repeat(np.arange(len(num_pieces)), num_pieces), losses)
        return cls(by_word, num_pieces, pieces)

    def counts(self, which: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Return (W,) -log of the share of the words that have as many pieces, in nats.

        Args:
            which: (W,) The words whose shares they are, which are a sample of the text. Half a word
                more of each number, because one that was not seen there is rare, not impossible.
        """
        seen = np.bincount(self.num_pieces[which], minlength=int(self.num_pieces.max()) + 1)
        shares = (seen[1:] + 0.5) / (seen[1:] + 0.5).sum()
        counts: NDArray[np.float64] = -np.log(shares[self.num_pieces - 1])
        return counts


class WordCloze:
    """Asks a model for the words of a text.

    Args:
        text: The words, which are whole pieces of the model's tokenizer.
        loaded: The model and its tokenizer.
        head: Runs the model on masked positions.
    """

    def __init__(self, text: ClozeText, loaded: LoadedModel, head: MaskedHead) -> None:
        words = WordCutter(loaded.tokenizer)(text.windows)
        self._loaded, self._head = loaded, head
        self._num_pieces = np.asarray([word.num_pieces for word in words], dtype=np.int64)
        self._variants = [(word, place) for word in words for place in range(word.begin, word.end)]
        lengths = [len(word.ids) for word, _ in self._variants]
        self._groups = list(groups_of_equal_length(lengths, GROUP_SEQUENCES))
        self._batches = FittingBatches(GROUP_SEQUENCES, "chunking.chunk_length")

    def run(self, accelerator: Accelerator, model: Any) -> WordScores:
        """Score a model on its device; all processes share the work and get the same result.

        Raises:
            DivergedError: A loss is not finite.
            ResourceError: Memory does not suffice for one sequence.
        """
        # Whole groups are shared out, so that each is computed alike by any number of processes.
        mine = self._groups[accelerator.process_index :: accelerator.num_processes]
        with accelerator.autocast():
            losses = self._losses(model, accelerator.device, mine)
        return self._scores(accelerator.reduce(losses, reduction="sum"))

    def measure(self, model: Any, device: torch.device) -> WordScores:
        """Score a model on its device in this process alone, in the caller's precision.

        Raises:
            DivergedError: A loss is not finite.
            ResourceError: Memory does not suffice for one sequence.
        """
        return self._scores(self._losses(model, device, self._groups))

    def _losses(self, model: Any, device: torch.device, groups: Sequence[Numbers]) -> torch.Tensor:
        """Return (V,) the losses of the variants of some groups, and 0 for the others."""
        losses = torch.zeros(len(self._variants), device=device)

        def score(numbers: Numbers) -> torch.Tensor:
            batch = self._head.packed(self._batch(numbers)).to(device)
            labels = batch.masked_labels()
            logits = torch.cat(list(self._head.outputs(model, batch).logits()))
            return functional.cross_entropy(logits, labels, reduction="none")

        with in_evaluation_mode(model), torch.inference_mode():
            for group in groups:
                rows = torch.from_numpy(group).to(device)
                losses[rows] = torch.cat(self._batches.map(score, group))
        return losses

    def _batch(self, numbers: Numbers) -> MaskedBatch:
        """Return variants of one length; in each, one place is predicted."""
        variants = [self._variants[number] for number in numbers.tolist()]
        ids = np.stack([word.ids for word, _ in variants])
        labels = np.full_like(ids, IGNORE_INDEX)
        for row, (word, place) in enumerate(variants):
            labels[row, place] = word.ids[place]
            ids[row, place : word.end] = self._loaded.tokenizer.mask_token_id
        input_ids = torch.from_numpy(ids)
        return MaskedBatch(
            input_ids=input_ids,
            labels=torch.from_numpy(labels),
            masked_positions=torch.from_numpy(np.flatnonzero(labels != IGNORE_INDEX)),
            num_masked_tokens=len(variants),
            attention_mask=None,
            token_type_ids=torch.zeros_like(input_ids) if self._loaded.has_token_types else None,
        )

    def _scores(self, losses: torch.Tensor) -> WordScores:
        """Add up the losses (V,) of the pieces of each word."""
        if not losses.isfinite().all():
            raise DivergedError(
                "the loss of a word is not finite; the model's weights are broken: take another "
                "checkpoint, or train again"
            )
        pieces = np.asarray([word.ids[place] for word, place in self._variants], dtype=np.int64)
        return WordScores.of(losses.double().cpu().numpy(), self._num_pieces, pieces)
