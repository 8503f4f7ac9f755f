"""Which samples `verify: sample` reads whole and compares with their checksums."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.order.bits import derive_key, mix

SAMPLES_PER_CHECK = 128
STREAM = int.from_bytes(b"checks", "little")  # apart from the order and the masks of the same seed


def draw_checked(seed: int, epoch: int, counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Samples that are checked in an epoch: a pure function of (seed, epoch) and the sizes of the shards.

    Every shard is cut into blocks of about 128 samples, at least one. In each epoch one sample of each block is drawn,
    another one every epoch until all had their turn. So a shard that is damaged throughout is found within an epoch,
    and a single damaged sample within as many epochs as its block has samples.

    Args:
        seed: of the loader.
        epoch: from 0 on.
        counts: i64 `[num_shards]`, samples in each shard.

    Returns:
        i64 `[num_blocks]`, sample numbers in ascending order.
    """
    num_blocks = np.where(counts > 0, np.maximum((counts + SAMPLES_PER_CHECK // 2) // SAMPLES_PER_CHECK, 1), 0)
    shards = np.repeat(np.arange(len(counts)), num_blocks)
    block = np.arange(len(shards)) - (np.cumsum(num_blocks) - num_blocks)[shards]  # its number in its shard
    first = block * counts[shards] // num_blocks[shards]
    size = (block + 1) * counts[shards] // num_blocks[shards] - first
    first += (np.cumsum(counts) - counts)[shards]
    start = mix(first.astype(np.uint64) ^ derive_key(seed, STREAM)) % size.astype(np.uint64)
    drawn: NDArray[np.int64] = first + (start.astype(np.int64) + epoch % size) % size
    return drawn
