"""Random bits as a pure function of integers: the same everywhere, whatever the thread, rank or library version."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

U64 = NDArray[np.uint64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_WORD = (1 << 64) - 1


def mix(values: U64) -> U64:
    """The finaliser of splitmix64 (Steele et al., 2014): a bijection of u64 that looks random, for arrays."""
    mixed = values + _GOLDEN
    shifted = mixed >> np.uint64(30)
    mixed ^= shifted
    mixed *= _FIRST
    mixed ^= np.right_shift(mixed, np.uint64(27), out=shifted)
    mixed *= _SECOND
    mixed ^= np.right_shift(mixed, np.uint64(31), out=shifted)
    return mixed


@lru_cache(maxsize=64)  # a loader asks for the same few keys batch after batch
def derive_key(*numbers: int) -> np.uint64:
    """One u64 from several integers, each of which changes all of it."""
    key = np.zeros(1, np.uint64)
    for number in numbers:
        key = mix(key ^ np.uint64(number & _WORD))
    return np.uint64(key[0])
