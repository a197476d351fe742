"""Pairs of segments in an endless stream, for next-sentence prediction and sentence order.

Legend: B pairs, T tokens.
"""

import numpy as np
from numpy.typing import NDArray

from mlmtune.config import Objective
from mlmtune.numbers import share
from mlmtune.randomness import UInt64Array, key, uniform
from mlmtune.tokens.chunking import ChunkBatch
from mlmtune.tokens.mixing import Mixture
from mlmtune.tokens.pair_windows import ELSEWHERE_STREAM, PairView

PAIR_STREAM, LABEL_STREAM = 0x7A06, 0x7A07
"""Keep the draws of pairs and of their labels apart from other draws with the same seed."""


class PairSequences:
    """Pairs as sequences; each is a function of (seed, epoch, place) alone.

    Next-sentence prediction (Devlin et al. 2019, 3.1): a coin decides whether the windows at places
    2k and 2k + 1 of an epoch exchange their segments B. So B follows A half of the time and comes
    from another document otherwise, and an epoch still sees every segment. Where two windows of one
    document would exchange, each takes the B of a window that is drawn from the other documents,
    of which there must be at least one.

    Sentence order (Lan et al. 2020, 3.1): half of the time B comes before A.
    """

    def __init__(self, view: PairView, mixture: Mixture, objective: Objective, seed: int) -> None:
        self._view = view
        self._mixture = mixture
        self._exchanges = objective == "mlm+nsp"
        self._seed = seed

    def __len__(self) -> int:
        return len(self._mixture)

    def batch(
        self, epochs: NDArray[np.int64], places: NDArray[np.int64]
    ) -> tuple[ChunkBatch, UInt64Array]:
        segments, labels, keys = self._draw(epochs, places)
        return self._view.batch(segments, labels), keys

    def num_tokens(self, epochs: NDArray[np.int64], places: NDArray[np.int64]) -> int:
        segments, _, _ = self._draw(epochs, places)
        return int(segments[:, :, 1].sum()) + len(places) * len(self._view.frame)

    def num_tokens_unseen(self) -> int:
        """Count the tokens that the first epoch leaves out, about as many as any other epoch.

        They are in windows of a single sentence, or at the ends of segments that are longer than
        the room beside another window's A.
        """
        places = np.arange(len(self))
        segments, _, _ = self._draw(np.zeros_like(places), places)
        segments = segments.reshape(-1, 2)
        starts, lengths = segments[np.argsort(segments[:, 0], kind="stable")].T
        seen_up_to = np.maximum.accumulate(starts + lengths)
        begins = np.maximum(starts[1:], seen_up_to[:-1])
        num_seen = lengths[:1].sum() + np.maximum(seen_up_to[1:] - begins, 0).sum()
        body = int(self._view.num_body_tokens_by_source.sum())
        return body + self._view.num_tokens_left_out - int(num_seen)

    def describe(self) -> str:
        """Say in one line what an epoch sees and what it leaves out."""
        view, alone = self._view, self._view.num_tokens_left_out
        # Where weights leave out whole windows, that is intended and is not counted here.
        unseen = self.num_tokens_unseen() if len(self) == len(view) else alone
        total = int(view.num_body_tokens_by_source.sum()) + alone
        line = (
            f"{len(self):,} per epoch, of {view.num_tokens / len(view):.0f} tokens on average; it "
            f"leaves out {unseen:,} tokens ({share(unseen / total)}): {alone:,} are in documents, "
            "or at their ends, without a second sentence"
        )
        if unseen > alone:
            line += f", {unseen - alone:,} gave way to a segment from elsewhere, or were too long"
        return line

    def labels(self, epochs: NDArray[np.int64], places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Draw (B,) 1 where the segments of a pair do not belong together in this order."""
        coins = key(self._seed, LABEL_STREAM, epochs)
        # One coin decides for the two pairs of an exchange.
        tossed = places >> 1 if self._exchanges else places
        return (uniform(coins, tossed.astype(np.uint64)) < 0.5).astype(np.int64)

    def documents_at(self, place: int) -> list[tuple[int, int]]:
        """Return the column and the document of each segment of a pair of the first epoch."""
        segments, _, _ = self._draw(np.zeros(1, np.int64), np.asarray([place]))
        return self._view.documents_in(segments[0])

    def _draw(
        self, epochs: NDArray[np.int64], places: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], UInt64Array]:
        """Draw (B, 2, 2) segments, (B,) labels, and (B,) a key of each pair."""
        labels = self.labels(epochs, places)
        is_one = labels == 1
        windows, borders, keys = self._divided(epochs, places)
        if not self._exchanges:
            segments = self._view.segments(windows, borders, borders)
            segments[is_one] = segments[is_one, ::-1]
            return segments, labels, keys

        # An odd number of places leaves the last window alone, which then exchanges with itself.
        partners = np.minimum(places ^ 1, len(self) - 1)
        others, other_borders, _ = self._divided(epochs, partners)
        seconds = np.where(is_one, other_borders, borders)
        is_near = is_one & (self._view.documents(windows) == self._view.documents(others))
        if is_near.any():
            far = self._view.elsewhere(windows[is_near], keys[is_near])
            seconds[is_near] = self._view.borders(far, key(keys[is_near], ELSEWHERE_STREAM))
        return self._view.segments(windows, borders, seconds), labels, keys

    def _divided(
        self, epochs: NDArray[np.int64], places: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], UInt64Array]:
        """Draw (B,) windows, (B,) the sentence that each is divided at, and (B,) a key of each."""
        windows, occurrences = self._mixture.draw(self._seed, epochs, places)
        keys = key(self._seed, PAIR_STREAM, epochs, occurrences, windows)
        return windows, self._view.borders(windows, keys), keys
