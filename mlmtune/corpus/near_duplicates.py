"""A search for near-duplicates: documents that share most of their shingles (words in a row).

A document's signature holds `num_perm` minima of hash permutations over its shingles. The share of
equal minima of two signatures estimates the Jaccard similarity of their shingle sets (Broder 1997,
"On the resemblance and containment of documents"). Signatures come from rensa. Only documents that
share a band of r minima are compared: two documents of similarity s share one of b bands with
probability 1 - (1 - s^r)^b (Leskovec, Rajaraman and Ullman, Mining of Massive Datasets, 3.4.2). r
is the largest for which this is at least 95 % at the threshold.

Legend: D documents, P permutations.
"""

from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from mlmtune.config import NearDuplicatesConfig
from mlmtune.corpus.ngrams import distinct, ngram_hashes, word_windows
from mlmtune.errors import ConfigError
from mlmtune.randomness import mix
from mlmtune.shell import pip_install

RECALL = 0.95
"""The lowest probability that two documents with a similarity at the threshold are compared."""

_SEED = 1
_NO_WORDS = np.iinfo(np.uint32).max  # every minimum of a document without shingles
_BLOCK_DOCUMENTS = 1 << 16
_HALF = np.uint64(32)  # packs two numbers of 32 bits into one, which is sorted in place
_LOW = np.uint64((1 << 32) - 1)


class NearDuplicate(NamedTuple):
    """A document, the one that stays and is nearly the same, and their estimated similarity."""

    document: int
    kept: int
    similarity: float


def check_available() -> None:
    """Refuse `corpus.near_duplicates` if its extra is missing.

    Raises:
        ConfigError: Rensa is not installed.
    """
    try:
        import rensa  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"corpus.near_duplicates needs rensa; {pip_install('mlmtune[dedup]')}"
        ) from error


def signature(text: str, config: NearDuplicatesConfig) -> NDArray[np.uint32]:
    """Return the (P,) signature of a text.

    A text of fewer words than a shingle is one shingle. A text without words resembles no other.
    """
    from rensa import RMinHash

    minima = np.full(config.num_perm, _NO_WORDS, dtype=np.uint32)
    # The minimum of a set is the least minimum of its parts, so long texts are read in windows.
    for _, hashes in word_windows(text, config.shingle):
        *_, shingles = ngram_hashes(hashes, min(config.shingle, len(hashes)))
        ends = np.asarray([0, len(shingles)], dtype=np.uint64)
        of_window = RMinHash.digest_matrix_from_flat_token_hashes(
            mix(shingles), ends, config.num_perm, _SEED
        )
        minima = np.minimum(minima, np.asarray(of_window.to_rows()[0], dtype=np.uint32))
    return minima


def rows_per_band(threshold: float, num_perm: int) -> int:
    """Return the length of the longest bands that find pairs with probability `RECALL`."""
    lengths = np.arange(1, num_perm + 1)
    recalls = 1.0 - (1.0 - threshold**lengths) ** (num_perm // lengths)
    return int(lengths[recalls >= RECALL].max(initial=1))


class SharedBands(NamedTuple):
    """The bands with a value that several documents have.

    Attributes:
        positions: (n,) Positions of documents, ascending; each for every band that it shares.
        values: (n,) The number of the value, which differs between bands.
    """

    positions: NDArray[np.uint32]
    values: NDArray[np.uint32]

    @classmethod
    def joined(cls, of_bands: Iterable[tuple[NDArray[np.uint64], NDArray[np.int64]]]) -> Self:
        """Join (n,) positions and (n,) numbers of values of bands; both begin at 0 in each band."""
        packed = [np.empty(0, dtype=np.uint64)]
        num_values = 0
        for positions, values in of_bands:
            packed.append((positions << _HALF) | (values + num_values).astype(np.uint64))
            num_values += int(values.max(initial=-1)) + 1
        ranked = np.concatenate(packed)
        del packed
        ranked.sort()
        return cls((ranked >> _HALF).astype(np.uint32), ranked.astype(np.uint32))


def find_near_duplicates(
    rows: NDArray[np.uint32], order: NDArray[np.int64], threshold: float
) -> list[NearDuplicate]:
    """Find the documents that nearly equal an earlier one that stays, on this machine.

    With P = 128 it takes 60 bytes of memory per document, 180 if three in ten are near-duplicates,
    and 600 if all are. Signatures may be mapped from disk.

    Args:
        rows: (D, P) Signatures.
        order: The documents to compare; of two near-duplicates, the first in this order stays.
        threshold: The estimated similarity from which on two documents are nearly the same.

    Returns:
        The near-duplicates in the order of `order`, each with the most similar one that stays.
    """
    shared = SharedBands.joined(_shared_bands(rows, order, rows_per_band(threshold, rows.shape[1])))
    return compare(rows, order, shared, threshold)


def compare(
    rows: NDArray[np.uint32], order: NDArray[np.int64], shared: SharedBands, threshold: float
) -> list[NearDuplicate]:
    """Compare documents with those that stay and share a band with them.

    So copies of one document take linear time, and many documents that are almost similar enough
    take quadratic time.

    Args:
        rows: (D, P) Signatures.
        order: The documents to compare, as in `find_near_duplicates`.
        shared: The bands that several documents share, by positions in `order`.
        threshold: The estimated similarity from which on two documents are nearly the same.

    Returns:
        The near-duplicates in the order of `order`, each with the most similar one that stays.
    """
    positions, bands = shared
    # `staying` has a section for each band, with room for all documents that share the band. It
    # holds the positions of those that stay.
    sizes = np.bincount(bands)
    starts = np.cumsum(sizes) - sizes
    num_staying = np.zeros_like(sizes)
    staying = np.empty(len(positions), dtype=np.uint32)

    near_duplicates: list[NearDuplicate] = []
    begins = np.flatnonzero(np.diff(positions, prepend=~positions[:1]))
    for begin, end in pairwise(np.append(begins, len(positions))):
        position, own_bands = int(positions[begin]), bands[begin:end]
        spans = zip(starts[own_bands].tolist(), num_staying[own_bands].tolist(), strict=True)
        others = distinct(np.concatenate([staying[start : start + n] for start, n in spans]))
        if len(others):
            similarities = (rows[order[others]] == rows[order[position]]).mean(axis=1)
            best = int(similarities.argmax())
            if similarities[best] >= threshold:
                document, kept = int(order[position]), int(order[others[best]])
                near_duplicates.append(NearDuplicate(document, kept, float(similarities[best])))
                continue
        staying[starts[own_bands] + num_staying[own_bands]] = position
        num_staying[own_bands] += 1
    return near_duplicates


def band_values(rows: NDArray[np.uint32]) -> NDArray[np.uint64]:
    """Return (n,) hashes of the bands of n documents, given as (n, r) minima."""
    values = np.zeros(len(rows), dtype=np.uint64)
    for column in rows.T:
        values = mix(values + column)
    return values


def of_words(rows: NDArray[np.uint32]) -> NDArray[np.bool_]:
    """Return (n,) whether each of n signatures or bands is that of a text with words."""
    is_of_words: NDArray[np.bool_] = (rows != _NO_WORDS).any(axis=1)
    return is_of_words


def _shared_bands(
    rows: NDArray[np.uint32], order: NDArray[np.int64], num_rows: int
) -> Iterator[tuple[NDArray[np.uint64], NDArray[np.int64]]]:
    """Yield for each band the positions of documents that share a value, and its number."""
    for first in range(0, rows.shape[1] - num_rows + 1, num_rows):
        blocks = [np.empty(0, dtype=np.uint64)]
        for begin in range(0, len(order), _BLOCK_DOCUMENTS):
            block = rows[order[begin : begin + _BLOCK_DOCUMENTS], first : first + num_rows]
            positions = np.arange(begin, begin + len(block), dtype=np.uint64)
            # Different values with the same 32 bits only cost a comparison of signatures.
            keyed = (band_values(block) >> _HALF << _HALF) | positions
            blocks.append(keyed[of_words(block)])
        ranked = np.concatenate(blocks)
        del blocks
        ranked.sort()
        is_new = np.diff(ranked >> _HALF, prepend=~ranked[:1]) != 0
        is_shared = ~(is_new & np.append(is_new[1:], True))
        yield ranked[is_shared] & _LOW, np.cumsum(is_new[is_shared]) - 1
