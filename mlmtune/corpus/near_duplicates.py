"""Near-duplicates: documents that share most of their shingles.

A document's signature holds `num_perm` minima of hash permutations over its shingles (words in a
row); the share of equal minima of two signatures estimates the Jaccard similarity of their shingle
sets (Broder 1997, "On the resemblance and containment of documents"). Signatures come from rensa.
Pairs worth comparing are found by bands of r minima: two documents of similarity s share one of b
bands with probability 1 - (1 - s^r)^b (Leskovec, Rajaraman and Ullman, Mining of Massive Datasets,
3.4.2). r is the largest for which that is at least 95 % at the threshold.

Legend: D documents, P permutations.
"""

from collections import defaultdict
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlmtune.config import NearDuplicatesConfig
from mlmtune.corpus.ngrams import ngram_hashes, word_hashes
from mlmtune.errors import ConfigError
from mlmtune.randomness import mix

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
            'corpus.near_duplicates needs rensa; pip install "mlmtune[dedup]"'
        ) from error


def signatures(texts: list[str], config: NearDuplicatesConfig) -> NDArray[np.uint32]:
    """(D, P) signatures of some texts.

    A text of fewer words than a shingle is one shingle. Texts without words are like no other.
    """
    from rensa import RMinHash

    shingles = [_shingles(text, config.shingle) for text in texts]
    offsets = np.cumsum([0, *map(len, shingles)], dtype=np.uint64)
    flat = np.concatenate([np.empty(0, np.uint64), *shingles])
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(flat, offsets, config.num_perm, _SEED)
    return np.asarray(matrix.to_rows(), dtype=np.uint32).reshape(len(texts), config.num_perm)


def _shingles(text: str, size: int) -> NDArray[np.uint64]:
    hashes = word_hashes(text)
    if len(hashes) == 0:
        return hashes
    *_, shingles = ngram_hashes(hashes, min(size, len(hashes)))
    return np.unique(mix(shingles))


def rows_per_band(threshold: float, num_perm: int) -> int:
    """The longest bands that still find pairs at the threshold with probability `RECALL`."""
    lengths = np.arange(1, num_perm + 1)
    found = 1.0 - (1.0 - threshold**lengths) ** (num_perm // lengths)
    return int(lengths[found >= RECALL].max(initial=1))


def find_near_duplicates(
    rows: NDArray[np.uint32], order: NDArray[np.int64], threshold: float
) -> list[NearDuplicate]:
    """The documents that nearly equal an earlier one that stays.

    Takes 24 bytes of memory a document, and 16 more for each band that it shares with another;
    signatures may be mapped from disk.

    Args:
        rows: (D, P) signatures.
        order: which documents, the ones that stay rather than others first.
        threshold: estimated similarity from which on two are nearly the same.

    Returns:
        In the order of `order`; each with the most similar one that stays.
    """
    places, bands = _shared_bands(rows, order, rows_per_band(threshold, rows.shape[1]))
    found: list[NearDuplicate] = []
    stays: defaultdict[int, list[int]] = defaultdict(list)  # in each shared band
    begins = np.flatnonzero(np.diff(places, prepend=-1))
    for begin, end in pairwise([*begins.tolist(), len(places)]):
        place, mine = int(places[begin]), bands[begin:end].tolist()
        others = sorted({other for band in mine for other in stays[band]})
        if others:
            same = (rows[order[others]] == rows[order[place]]).mean(axis=1)
            best = int(same.argmax())
            if same[best] >= threshold:
                kept = int(order[others[best]])
                found.append(NearDuplicate(int(order[place]), kept, float(same[best])))
                continue
        for band in mine:
            stays[band].append(place)
    return found


def _shared_bands(
    rows: NDArray[np.uint32], order: NDArray[np.int64], num_rows: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Which bands are shared by which documents.

    Returns:
        (n,) places in `order`, ascending, and (n,) a number for each band's value that several
        documents have.
    """
    places, bands = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    num_bands = 0
    for first in range(0, rows.shape[1] - num_rows + 1, num_rows):
        keys = np.empty(len(order), dtype=np.uint64)
        is_empty = np.zeros(len(order), dtype=bool)
        for begin in range(0, len(order), _BLOCK_DOCUMENTS):
            block = rows[order[begin : begin + _BLOCK_DOCUMENTS], first : first + num_rows]
            key = np.zeros(len(block), dtype=np.uint64)
            for column in block.T:
                key = mix(key + column)
            keys[begin : begin + len(block)] = key
            is_empty[begin : begin + len(block)] = (block == _NO_WORDS).all(axis=1)
        ranked = np.argsort(keys, kind="stable")
        ranked = ranked[~is_empty[ranked]]
        is_new = np.diff(keys[ranked], prepend=~keys[ranked[:1]]) != 0
        is_shared = ~(is_new & np.append(is_new[1:], True))
        places.append(ranked[is_shared])
        bands.append(num_bands + np.cumsum(is_new)[is_shared])
        num_bands += len(ranked) + 1
    joined, numbers = np.concatenate(places), np.concatenate(bands)
    by_place = np.argsort(joined, kind="stable")
    return joined[by_place], numbers[by_place]
