"""Which rows `verify: sample` reads whole and compares with their checksums."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.bits import derive_key, mix

ROWS_PER_CHECK = 128
STREAM = int.from_bytes(b"checks", "little")  # apart from the order and the masks of the same seed


def is_drawn(
    seed: int, epoch: int, samples: NDArray[np.int64], rows: NDArray[np.int64], counts: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Whether each sample is checked in an epoch: a pure function of (seed, epoch, sample).

    Every shard is cut into blocks of about 128 rows, at least one. In each epoch one row of each block is drawn,
    another one every epoch until all had their turn. So a shard that is damaged throughout is found within an epoch,
    and a single damaged row within as many epochs as its block has rows.

    Args:
        seed: of the loader.
        epoch: from 0 on.
        samples: i64 `[B]`, sample numbers.
        rows: i64 `[B]`, each one's row in its shard.
        counts: i64 `[B]`, samples in that shard.

    Returns:
        bool `[B]`.
    """
    num_blocks = np.maximum((counts + ROWS_PER_CHECK // 2) // ROWS_PER_CHECK, 1)
    block = rows * num_blocks // counts
    first = -(-block * counts // num_blocks)
    size = -(-(block + 1) * counts // num_blocks) - first
    keys = mix((samples - rows + first).astype(np.uint64) ^ derive_key(seed, STREAM))
    turn = (keys % size.astype(np.uint64)).astype(np.int64) + epoch % size
    drawn: NDArray[np.bool_] = rows - first == turn % size
    return drawn
