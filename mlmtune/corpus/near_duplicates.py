"""A search for near-duplicates: documents that share most of their shingles (words in a row).

A document's signature holds `num_perm` minima of hash permutations over its shingles. The share of
equal minima of two signatures estimates the Jaccard similarity of their shingle sets (Broder 1997,
"On the resemblance and containment of documents"). Signatures come from rensa. Only documents that
share a band of r minima are compared: two documents of similarity s share one of b bands with
probability 1 - (1 - s^r)^b (Leskovec, Rajaraman and Ullman, Mining of Massive Datasets, 3.4.2). r
is the largest for which this is at least 95 % at the threshold.

Legend: D documents, P permutations.
"""

from itertools import pairwise
from typing import NamedTuple

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


def find_near_duplicates(
    rows: NDArray[np.uint32], order: NDArray[np.int64], threshold: float
) -> list[NearDuplicate]:
    """Find the documents that nearly equal an earlier one that stays.

    A document is compared with those that stay and share a band with it. So copies of one document
    take linear time, and many documents that are almost similar enough take quadratic time.

    With P = 128 it takes 60 bytes of memory per document, 180 if three in ten are near-duplicates,
    and 600 if all are. Signatures may be mapped from disk.

    Args:
        rows: (D, P) Signatures.
        order: The documents to compare; of two near-duplicates, the first in this order stays.
        threshold: The estimated similarity from which on two documents are nearly the same.

    Returns:
        The near-duplicates in the order of `order`, each with the most similar one that stays.
    """
    positions, bands = _shared_bands(rows, order, rows_per_band(threshold, rows.shape[1]))
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


def _shared_bands(
    rows: NDArray[np.uint32], order: NDArray[np.int64], num_rows: int
) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """Find the bands with a value that several documents have.

    Returns:
        (n,) positions in `order`, ascending, and for each (n,) the number of a shared value.
    """
    half = np.uint64(32)  # packs two numbers of 32 bits into one, which is sorted in place
    shared = [np.empty(0, dtype=np.uint64)]
    num_values = 0
    for first in range(0, rows.shape[1] - num_rows + 1, num_rows):
        blocks = [np.empty(0, dtype=np.uint64)]
        for begin in range(0, len(order), _BLOCK_DOCUMENTS):
            block = rows[order[begin : begin + _BLOCK_DOCUMENTS], first : first + num_rows]
            value = np.zeros(len(block), dtype=np.uint64)
            for column in block.T:
                value = mix(value + column)
            positions = np.arange(begin, begin + len(block), dtype=np.uint64)
            # Different values with the same 32 bits only cost a comparison of signatures.
            keyed = (value >> half << half) | positions
            blocks.append(keyed[(block != _NO_WORDS).any(axis=1)])
        ranked = np.concatenate(blocks)
        ranked.sort()
        is_new = np.diff(ranked >> half, prepend=~ranked[:1]) != 0
        is_shared = ~(is_new & np.append(is_new[1:], True))
        values = num_values + np.cumsum(is_new[is_shared], dtype=np.uint64)
        shared.append((ranked[is_shared] << half) | values)
        num_values += int(is_new[is_shared].sum())
    joined = np.concatenate(shared)
    del shared
    joined.sort()
    return (joined >> half).astype(np.uint32), joined.astype(np.uint32)
