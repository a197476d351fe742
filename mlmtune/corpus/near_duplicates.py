"""Near-duplicates: documents that share most of their shingles.

A document's signature holds `num_perm` minima of hash permutations over its shingles (words in a
row); the share of equal minima of two signatures estimates the Jaccard similarity of their shingle
sets (Broder 1997, "On the resemblance and containment of documents"). Signatures come from rensa.
Pairs worth comparing are found by bands of r minima: two documents of similarity s share one of b
bands with probability 1 - (1 - s^r)^b (Leskovec, Rajaraman and Ullman, Mining of Massive Datasets,
3.4.2). r is the largest for which that is at least 95 % at the threshold.

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
"""Least probability that two documents just as similar as the threshold are compared."""

_SEED = 1
_NO_WORDS = np.iinfo(np.uint32).max  # every minimum of a document without shingles
_BLOCK_DOCUMENTS = 1 << 16


class NearDuplicate(NamedTuple):
    """A document that is nearly the same as one that stays.

    Attributes:
        document: which.
        kept: the one that stays.
        similarity: the estimate for the two.
    """

    document: int
    kept: int
    similarity: float


def check_available() -> None:
    """Refuse `corpus.near_duplicates` where its extra is missing.

    Raises:
        ConfigError: rensa is not installed.
    """
    try:
        import rensa  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"corpus.near_duplicates needs rensa; {pip_install('mlmtune[dedup]')}"
        ) from error


def signature(text: str, config: NearDuplicatesConfig) -> NDArray[np.uint32]:
    """(P,) signature of a text.

    A text of fewer words than a shingle is one shingle. Texts without words are like no other.
    """
    from rensa import RMinHash

    minima = np.full(config.num_perm, _NO_WORDS, dtype=np.uint32)
    # The minima of a set are the least of those of its parts, and a long text has many shingles.
    for _, hashes in word_windows(text, config.shingle):
        *_, shingles = ngram_hashes(hashes, min(config.shingle, len(hashes)))
        ends = np.asarray([0, len(shingles)], dtype=np.uint64)
        of_window = RMinHash.digest_matrix_from_flat_token_hashes(
            mix(shingles), ends, config.num_perm, _SEED
        )
        minima = np.minimum(minima, np.asarray(of_window.to_rows()[0], dtype=np.uint32))
    return minima


def rows_per_band(threshold: float, num_perm: int) -> int:
    """The longest bands that still find pairs at the threshold with probability `RECALL`."""
    lengths = np.arange(1, num_perm + 1)
    found = 1.0 - (1.0 - threshold**lengths) ** (num_perm // lengths)
    return int(lengths[found >= RECALL].max(initial=1))


def find_near_duplicates(
    rows: NDArray[np.uint32], order: NDArray[np.int64], threshold: float
) -> list[NearDuplicate]:
    """The documents that nearly equal an earlier one that stays.

    A document is compared with those that stay and share a band with it. So copies of one document
    take linear time; many that are just not similar enough, quadratic time.

    With P = 128 it takes 60 bytes of memory per document, 180 where three in ten are
    near-duplicates, and 600 where all are. Signatures may be mapped from disk.

    Args:
        rows: (D, P) signatures.
        order: which documents, the ones that stay rather than others first.
        threshold: estimated similarity from which on two are nearly the same.

    Returns:
        In the order of `order`; each with the most similar one that stays.
    """
    places, bands = _shared_bands(rows, order, rows_per_band(threshold, rows.shape[1]))
    # Each band has room for all that share it, and notes there the places of those that stay.
    room = np.bincount(bands)
    starts = np.cumsum(room) - room
    num_staying = np.zeros_like(room)
    staying = np.empty(len(places), dtype=np.uint32)

    found: list[NearDuplicate] = []
    begins = np.flatnonzero(np.diff(places, prepend=~places[:1]))
    for begin, end in pairwise(np.append(begins, len(places))):
        place, mine = int(places[begin]), bands[begin:end]
        spans = zip(starts[mine].tolist(), num_staying[mine].tolist(), strict=True)
        others = distinct(np.concatenate([staying[start : start + n] for start, n in spans]))
        if len(others):
            same = (rows[order[others]] == rows[order[place]]).mean(axis=1)
            best = int(same.argmax())
            if same[best] >= threshold:
                kept = int(order[others[best]])
                found.append(NearDuplicate(int(order[place]), kept, float(same[best])))
                continue
        staying[starts[mine] + num_staying[mine]] = place
        num_staying[mine] += 1
    return found


def _shared_bands(
    rows: NDArray[np.uint32], order: NDArray[np.int64], num_rows: int
) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """Which bands are shared by which documents.

    Returns:
        (n,) places in `order`, ascending, and (n,) a number for each band's value that several
        documents have.
    """
    half = np.uint64(32)  # two numbers of 32 bits in one of 64, which sorts by the first
    shared = [np.empty(0, dtype=np.uint64)]
    num_values = 0
    for first in range(0, rows.shape[1] - num_rows + 1, num_rows):
        blocks = [np.empty(0, dtype=np.uint64)]
        for begin in range(0, len(order), _BLOCK_DOCUMENTS):
            block = rows[order[begin : begin + _BLOCK_DOCUMENTS], first : first + num_rows]
            value = np.zeros(len(block), dtype=np.uint64)
            for column in block.T:
                value = mix(value + column)
            places = np.arange(begin, begin + len(block), dtype=np.uint64)
            # Different bands with 32 bits in common are told apart by the signatures.
            keyed = (value >> half << half) | places
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
