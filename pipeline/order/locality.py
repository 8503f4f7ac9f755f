"""An order with locality: shards are shuffled, and the samples of a window of them are mixed.

Where a sample costs a request to a store elsewhere, or evicts another from a cache, few shards are in use at a time.
A pure function of (seed, epoch) as the global shuffle is, so its state is the same few integers, and it goes on with
any number of ranks.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.order.bits import derive_key
from pipeline.order.order import permute, permute_at

STREAM = int.from_bytes(b"windows of shards"[:8], "little")  # apart from all else of the same seed
WINDOW_SHARDS = 16  # unless something else is asked for


class Locality:
    """The order of an epoch, at any positions; called like `pipeline.order.order.permute_at`.

    Every sample comes exactly once in an epoch. All samples of a window of shards come before any of the next window,
    uniformly mixed; windows are made of other shards in every epoch.
    """

    def __init__(self, counts: NDArray[np.int64], window: int) -> None:
        """Take i64 `[num_shards]`, samples in each shard, and how many shards are mixed."""
        self._counts, self._window = counts, window
        self._firsts = np.cumsum(counts) - counts
        self._shuffled: tuple[tuple[int, int], NDArray[np.int64], NDArray[np.int64]] | None = None

    @property
    def radius(self) -> int:
        """Samples that are mixed with each other, on average: how far the order is from a global shuffle."""
        return round(int(self._counts.sum()) * min(1.0, self._window / max(1, len(self._counts))))

    def __call__(self, num_samples: int, seed: int, epoch: int, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Sample numbers at `positions`, i64 of any shape.

        Raises:
            ValueError: a position is not inside the data set.
        """
        if positions.size and (int(positions.min()) < 0 or int(positions.max()) >= num_samples):
            raise ValueError(f"positions must lie in [0, {num_samples}), got {positions.min()} to {positions.max()}")
        shards, ends = self._shards(seed, epoch)
        borders = np.concatenate([[0], ends[self._window - 1 :: self._window], ends[-1:]])
        windows = np.searchsorted(borders, positions, side="right") - 1
        mixed = np.empty_like(positions)
        for window in np.unique(windows).tolist():
            inside = windows == window
            first, last = int(borders[window]), int(borders[window + 1])
            key = int(derive_key(seed, STREAM, window))
            mixed[inside] = first + permute_at(last - first, key, epoch, positions[inside] - first)
        places = np.searchsorted(ends, mixed, side="right")
        starts = ends[places] - self._counts[shards[places]]
        numbers: NDArray[np.int64] = self._firsts[shards[places]] + mixed - starts
        return numbers

    def _shards(self, seed: int, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The shards in the order of an epoch, and where the samples of each end in it."""
        if self._shuffled is None or self._shuffled[0] != (seed, epoch):
            key = int(derive_key(seed, STREAM))
            shards = permute(len(self._counts), key, epoch, 0, len(self._counts))
            self._shuffled = (seed, epoch), shards, np.cumsum(self._counts[shards])
        return self._shuffled[1:]
