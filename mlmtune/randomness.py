"""Random draws as pure functions of their keys: no state to save, and no dependence on order.

A draw is a hash of a key and a counter (counter-based generation: Salmon et al. 2011, "Parallel
random numbers: as easy as 1, 2, 3"); the hash is SplitMix64's output function (Steele et al.
2014), which passes BigCrush on plain counters. All functions are vectorised over numpy arrays.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

UInt64Array = NDArray[np.uint64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2**64 / golden ratio: far apart for close counters
_MULTIPLIER_1 = np.uint64(0xBF58476D1CE4E5B9)
_MULTIPLIER_2 = np.uint64(0x94D049BB133111EB)


def mix(values: UInt64Array) -> UInt64Array:
    """Apply SplitMix64's finalizer, a bijection on 64 bits, to each element."""
    values = (values ^ (values >> np.uint64(30))) * _MULTIPLIER_1
    values = (values ^ (values >> np.uint64(27))) * _MULTIPLIER_2
    return values ^ (values >> np.uint64(31))


def key(*parts: Any) -> UInt64Array:
    """Mix integers, or integer arrays that broadcast against each other, into 64-bit keys.

    The order of the parts matters: `key(1, 2)` and `key(2, 1)` are unrelated.
    """
    state: UInt64Array = np.zeros(1, dtype=np.uint64)
    for part in parts:
        state = mix((state ^ np.asarray(part).astype(np.uint64)) + _GOLDEN)
    return state


def bits(keys: UInt64Array, counters: UInt64Array) -> UInt64Array:
    """Draw 64 random bits for each key and counter, which broadcast against each other."""
    return mix(keys + (counters + np.uint64(1)) * _GOLDEN)


def uniform(keys: UInt64Array, counters: UInt64Array) -> NDArray[np.float64]:
    """Draw uniformly from [0, 1) for each key and counter.

    The upper 53 bits are used, because a double holds no more.
    """
    return (bits(keys, counters) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def permute(places: NDArray[np.int64], size: int, keys: UInt64Array) -> NDArray[np.int64]:
    """Apply keyed permutations of range(size) to (n,) places, without storing the permutations.

    There is a key for each place, or one for all: equal keys give the same permutation. It is a
    balanced Feistel network of eight rounds on the smallest even number of bits that holds `size`,
    applied again until the result is below `size` (Black and Rogaway 2002, "Ciphers with arbitrary
    finite domains", cycle walking).
    """
    half_bits = max(1, ((size - 1).bit_length() + 1) // 2)
    half, low = np.uint64(half_bits), np.uint64((1 << half_bits) - 1)
    keys = np.broadcast_to(keys, places.shape)

    result = places.astype(np.uint64)
    outside = np.ones(result.shape, dtype=bool)
    while outside.any():
        left, right = result[outside] >> half, result[outside] & low
        for round_number in range(8):
            scrambled = bits(keys[outside], right + np.uint64(round_number << half_bits)) & low
            left, right = right, left ^ scrambled
        result[outside] = (left << half) | right
        outside = result >= np.uint64(size)
    return result.astype(np.int64)
