"""Where sequences of uneven length lie in the rows of a batch."""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

LONGEST_ROW = 1.25
"""The length of a row at most, in lengths of the longest sequence. Longer rows would be filled
better still, but attention costs more in them."""


@dataclass(frozen=True)
class Places:
    """Where each of B sequences lies in a batch of R rows.

    Attributes:
        rows: (B,) The row of each sequence.
        starts: (B,) The column of its first token.
        lengths: (B,) The number of its tokens.
        shape: (R, T) The number of rows, and their length.
    """

    rows: NDArray[np.int64]
    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]
    shape: tuple[int, int]

    @classmethod
    def padded(cls, lengths: NDArray[np.int64], row_length: int) -> Self:
        """Return the places of sequences in rows of their own."""
        num_rows = len(lengths)
        return cls(np.arange(num_rows), np.zeros_like(lengths), lengths, (num_rows, row_length))

    @classmethod
    def smallest(cls, lengths: NDArray[np.int64], max_row_length: int) -> Self | None:
        """Find places for sequences in as few positions as a heuristic finds.

        Longest first, each sequence goes into the row that is shortest so far (Graham 1969,
        "Bounds on multiprocessing timing anomalies", longest processing time), for each number of
        rows that may be the best.

        Args:
            lengths: (B,) The number of tokens of each sequence, at least 1.
            max_row_length: The tokens of a row at most, but for a longer sequence alone.

        Returns:
            The places; None if a row for each sequence needs no more positions.
        """
        longest, total = int(lengths.max()), int(lengths.sum())
        max_row_length = max(longest, min(max_row_length, int(LONGEST_ROW * longest)))
        best: Self | None = None
        fewest_positions, num_rows = len(lengths) * longest, -(-total // max_row_length)
        # A row is as long as the longest sequence, so more rows than these need more positions.
        while num_rows * longest < fewest_positions:
            rows, starts = _spread(lengths, num_rows)
            row_length = int((starts + lengths).max())
            if row_length <= max_row_length and num_rows * row_length < fewest_positions:
                fewest_positions = num_rows * row_length
                best = cls(rows, starts, lengths, (num_rows, row_length))
            num_rows += 1
        return best

    def __iter__(self) -> Iterator[tuple[int, int, int]]:
        """Yield the row, the first column and the column after the last of each sequence."""
        yield from zip(
            self.rows.tolist(),
            self.starts.tolist(),
            (self.starts + self.lengths).tolist(),
            strict=True,
        )

    def tokens(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Return of each token, in order: its sequence, its column there, and its flat place."""
        sequences = np.repeat(np.arange(len(self.lengths)), self.lengths)
        ends = np.cumsum(self.lengths)
        columns = np.arange(len(sequences)) - (ends - self.lengths)[sequences]
        first = self.rows * self.shape[1] + self.starts
        return sequences, columns, first[sequences] + columns


def _spread(
    lengths: NDArray[np.int64], num_rows: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return (B,) the row of each sequence and (B,) its first column, in rows of similar length."""
    rows, starts = np.empty_like(lengths), np.empty_like(lengths)
    shortest_first = [(0, row) for row in range(num_rows)]
    for sequence in np.argsort(-lengths, kind="stable").tolist():
        starts[sequence], rows[sequence] = row_length, row = shortest_first[0]
        heapq.heapreplace(shortest_first, (row_length + int(lengths[sequence]), row))
    return rows, starts
