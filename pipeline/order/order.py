"""The order of an epoch: a pure function of (number of samples, seed, epoch), evaluated at any slice.

A keyed Feistel network permutes the smallest power of two that holds all sample numbers; numbers that fall outside are
permuted again until they fall inside (cycle walking; Black and Rogaway, 2002). It needs no memory for the permutation,
whatever the size of the data set, so a true global shuffle costs nothing and resuming anywhere is immediate.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.order.bits import derive_key, mix

NUM_ROUNDS = 8
SORTED_BELOW = 1024


def permute(num_samples: int, seed: int, epoch: int, start: int, stop: int) -> NDArray[np.int64]:
    """Positions `start` to `stop` of the shuffled order of one epoch.

    Args:
        num_samples: size of the data set.
        seed: any integer.
        epoch: from 0 on; every epoch has another order.
        start: first position.
        stop: position after the last.

    Returns:
        i64 `[stop - start]`, sample numbers.

    Raises:
        ValueError: the slice is not inside the data set.
    """
    return permute_at(num_samples, seed, epoch, np.arange(start, stop, dtype=np.int64))


def permute_at(num_samples: int, seed: int, epoch: int, positions: NDArray[np.int64]) -> NDArray[np.int64]:
    """The same order at any positions, i64 of any length. Many at once cost little more than a few.

    Raises:
        ValueError: a position is not inside the data set.
    """
    if len(positions) and (int(positions.min()) < 0 or int(positions.max()) >= num_samples):
        raise ValueError(f"positions must lie in [0, {num_samples}), got {positions.min()} to {positions.max()}")
    key = derive_key(seed, epoch)
    if num_samples < SORTED_BELOW:  # few enough to sort random keys: exactly uniform, where a Feistel network is not
        keys = mix(np.arange(num_samples, dtype=np.uint64) ^ key)
        return np.argsort(keys, kind="stable")[positions].astype(np.int64)
    values = _feistel(positions.astype(np.uint64), key, num_samples)
    while (outside := values >= num_samples).any():
        values[outside] = _feistel(values[outside], key, num_samples)
    return values.astype(np.int64)


def _feistel(values: NDArray[np.uint64], key: np.uint64, num_samples: int) -> NDArray[np.uint64]:
    """Permute `[0, 2**bits)`, the smallest such range that holds `num_samples`."""
    bits = (num_samples - 1).bit_length()
    left_bits, right_bits = bits // 2, bits - bits // 2
    left = values >> np.uint64(right_bits)
    right = values & np.uint64((1 << right_bits) - 1)
    for round_key in mix(key ^ np.arange(NUM_ROUNDS, dtype=np.uint64)):
        noise = mix(right ^ round_key) & np.uint64((1 << left_bits) - 1)
        left, right = right, left ^ noise
        left_bits, right_bits = right_bits, left_bits
    return (left << np.uint64(right_bits)) | right


def in_order(num_samples: int, seed: int, epoch: int, positions: NDArray[np.int64]) -> NDArray[np.int64]:
    """The same signature without shuffling: sample numbers as they stand in the shards."""
    del num_samples, seed, epoch
    return positions
