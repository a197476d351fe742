"""Sentences as pieces in windows, and their batches. B windows, T pieces, W words of a side."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray

from mlmtune.classification.alignment import pieces_of, windows, without_rests
from mlmtune.classification.batches import Encoded, padded, padded_inputs
from mlmtune.classification.entity_data import SentenceSide
from mlmtune.masking.collator import IGNORE_INDEX, moved_to
from mlmtune.modeling.loading import LoadedModel
from mlmtune.tokens.encoding import framed, plain_backend


@dataclass(frozen=True)
class SentenceBatch:
    """A batch of windows.

    Attributes:
        inputs: The keyword arguments of the model's forward pass, (B, T) int64 each.
        labels: (B, T) int64, the tag of each word that is predicted, at its first piece; elsewhere
            IGNORE_INDEX.
    """

    inputs: dict[str, torch.Tensor]
    labels: torch.Tensor
    places: ClassVar[None] = None  # each window has a row of its own

    @property
    def is_predicted(self) -> torch.Tensor:
        """(B, T) bool, where a word is predicted."""
        return self.labels != IGNORE_INDEX

    def of_predictions(self, outputs: torch.Tensor) -> torch.Tensor:
        return outputs[self.is_predicted]

    def to(self, device: torch.device) -> Self:
        return type(self)(
            {name: moved_to(device, tensor) for name, tensor in self.inputs.items()},
            moved_to(device, self.labels),
        )


@dataclass(frozen=True)
class EncodedSentences(Encoded[SentenceBatch]):
    """The windows of one side, of which each word with pieces is a prediction.

    Attributes:
        labels: The label of each piece of each window, as in `SentenceBatch`.
        words: The numbers, of 0 to W, of the words that are predicted in each window.
        num_words: W.
        num_split: How many sentences have several windows.
        num_dropped: Of how many words the tokenizer makes no piece.
        num_cut: How many words are so long that only their beginning is read.
    """

    labels: Sequence[NDArray[np.int64]]
    words: Sequence[NDArray[np.int64]]
    num_words: int
    num_split: int
    num_dropped: int
    num_cut: int

    @classmethod
    def of(cls, side: SentenceSide, loaded: LoadedModel, max_length: int) -> Self:
        """Encode a side in windows of `max_length` pieces at most, special tokens included."""
        frame = framed(loaded.tokenizer)
        frame_ids = np.asarray(frame.ids, dtype=np.int32)
        body = np.flatnonzero(np.asarray(frame.special_tokens_mask) == 0)
        prefix, suffix = frame_ids[: body[0]], frame_ids[body[-1] + 1 :]
        capacity = max_length - len(prefix) - len(suffix)
        longest = max(capacity // 2, 1)
        ids, labels, words = [], [], []
        num_before = num_split = num_dropped = num_cut = 0
        for pieces in pieces_of(side.tokens, plain_backend(loaded.tokenizer)):
            num_dropped += int((pieces.counts == 0).sum())
            num_cut += int((pieces.counts > longest).sum())
            pieces = without_rests(pieces, longest)
            firsts = np.cumsum(pieces.counts) - pieces.counts
            ends = firsts + pieces.counts
            of_sentence = list(windows(pieces.counts, capacity))
            num_split += len(of_sentence) > 1
            for window in of_sentence:
                start, end = firsts[window.first], ends[window.last - 1]
                predicted = np.arange(window.begin, window.end)
                predicted = predicted[pieces.counts[predicted] > 0]
                if not len(predicted):
                    continue
                label = np.full(len(prefix) + end - start + len(suffix), IGNORE_INDEX)
                places = len(prefix) + firsts[predicted] - start
                label[places] = side.labels[num_before + predicted]
                ids.append(np.concatenate([prefix, pieces.ids[start:end], suffix]))
                labels.append(label)
                words.append(num_before + predicted)
            num_before += len(pieces.counts)
        return cls(
            ids,
            loaded.tokenizer,
            loaded.has_token_types,
            labels,
            words,
            num_words=num_before,
            num_split=num_split,
            num_dropped=num_dropped,
            num_cut=num_cut,
        )

    @property
    def num_predictions(self) -> int:
        return self.num_words

    def rows(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.concatenate([self.words[number] for number in numbers])

    def batch(self, numbers: NDArray[np.int64]) -> SentenceBatch:
        ids = [self.ids[number] for number in numbers]
        inputs = padded_inputs(ids, self.tokenizer)
        if self.has_token_types:
            inputs["token_type_ids"] = torch.zeros_like(inputs["input_ids"])
        rows = [self.labels[number] for number in numbers]
        return SentenceBatch(inputs, padded(rows, IGNORE_INDEX, self.tokenizer))
