"""Which samples make up which batch, and which part of it is this rank's: pure functions of seed and epoch.

A global batch is the same set of samples whatever the number of ranks; every rank has the same number of batches.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.order.bits import derive_key
from pipeline.order.order import in_order, permute, permute_at
from pipeline.world import World

Samples = NDArray[np.int64]
WINDOW = 4096
BLOCK = 64


class Schedule(Protocol):
    """What the loader asks."""

    @property
    def max_rows(self) -> int:
        """The most rows that a batch of this rank can have."""
        ...

    def num_batches(self, epoch: int) -> int:
        """Batches in an epoch."""
        ...

    def rows(self, epoch: int, number: int) -> Samples:
        """Sample numbers of this rank's part of a batch, -1 for padding."""
        ...


class FixedSize:
    """Global batch b is the slice `[b * G, (b + 1) * G)` of the epoch's order."""

    def __init__(
        self, num_samples: int, global_batch_size: int, world: World, *, seed: int, shuffle: bool, drop_last: bool
    ) -> None:
        """Take the parameters.

        Raises:
            ValueError: G is not a multiple of the number of ranks, or not one batch is full.
        """
        if global_batch_size % world.size:
            raise ValueError(
                f"global_batch_size must be a multiple of the number of ranks: got {global_batch_size} and {world.size}"
            )
        self._num_samples, self._size, self._world = num_samples, global_batch_size, world
        self._seed, self._order = seed, permute_at if shuffle else in_order
        self._looked_up: tuple[int, int, Samples] = (-1, 0, np.empty((0, 0), np.int64))
        full, rest = divmod(num_samples, global_batch_size)
        self._num_batches = full + (rest > 0 and not drop_last)
        if not self._num_batches:
            raise ValueError(
                f"{num_samples} samples do not fill one global batch of {global_batch_size}: "
                "use a smaller global_batch_size or drop_last: false"
            )

    @property
    def max_rows(self) -> int:
        """G divided by the number of ranks."""
        return self._size // self._world.size

    def num_batches(self, epoch: int) -> int:
        """The same in every epoch."""
        del epoch
        return self._num_batches

    def rows(self, epoch: int, number: int) -> Samples:
        """This rank's contiguous part."""
        known_epoch, first, rows = self._looked_up
        if known_epoch != epoch or not first <= number < first + len(rows):
            rows = self._look_up(epoch, number)
            self._looked_up = (epoch, number, rows)
            first = number
        row: Samples = rows[number - first]
        return row

    def _look_up(self, epoch: int, number: int) -> Samples:
        """This rank's part of the next `BLOCK` batches, `[BLOCK, rows]`: many positions at once cost little more."""
        batches = np.arange(number, min(number + BLOCK, self._num_batches))
        first = batches * self._size + self._world.rank * self.max_rows
        positions = first[:, None] + np.arange(self.max_rows)
        inside = positions < self._num_samples
        rows = np.full(positions.shape, -1, np.int64)
        rows[inside] = self._order(self._num_samples, self._seed, epoch, positions[inside])
        return rows


class LengthBudget:
    """Batches of samples of like length, such that rows times the longest stay within a budget of frames or tokens.

    Windows of the shuffled order are sorted by length and cut into batches, whose order is shuffled again. Every sample
    comes exactly once an epoch. The number of batches differs a little from epoch to epoch.
    """

    def __init__(self, lengths: NDArray[np.int64], budget: int, world: World, *, seed: int, shuffle: bool) -> None:
        """Take the parameters.

        Args:
            lengths: i64 `[num_samples]`, such as frames or tokens of each sample.
            budget: the most that a global batch may hold, padding between its samples included.
            world: the ranks.
            seed: of the shuffles.
            shuffle: without it samples are sorted by length within windows of the shards' order.

        Raises:
            ValueError: a sample alone is over the budget.
        """
        if len(lengths) == 0 or int(lengths.min()) < 0 or int(lengths.max()) > budget:
            longest = int(lengths.max(initial=0))
            raise ValueError(f"a length budget of {budget} must hold the longest sample, which has {longest}")
        self._lengths, self._budget, self._world = lengths, budget, world
        self._seed, self._shuffle = seed, shuffle
        self._planned: tuple[int, list[Samples]] = (-1, [])

    @property
    def max_rows(self) -> int:
        """As many samples of the least length as the budget holds, on one rank."""
        shortest = max(int(self._lengths.min()), 1)
        most = min(self._budget // shortest, len(self._lengths), WINDOW)
        return -(-most // self._world.size)

    def num_batches(self, epoch: int) -> int:
        """Batches in this epoch."""
        return len(self._batches(epoch))

    def rows(self, epoch: int, number: int) -> Samples:
        """This rank's contiguous part of a batch, which is padded to a multiple of the number of ranks."""
        batch = self._batches(epoch)[number]
        share = -(-len(batch) // self._world.size)
        return _padded(batch[self._world.rank * share : (self._world.rank + 1) * share], share)

    def _batches(self, epoch: int) -> list[Samples]:
        if self._planned[0] != epoch:
            self._planned = (epoch, self._plan(epoch))
        return self._planned[1]

    def _plan(self, epoch: int) -> list[Samples]:
        count = len(self._lengths)
        order = (permute_at if self._shuffle else in_order)(count, self._seed, epoch, np.arange(count))
        batches: list[Samples] = []
        for start in range(0, count, WINDOW):
            window = order[start : start + WINDOW]
            window = window[np.argsort(self._lengths[window], kind="stable")]
            batches += self._cut(window)
        if not self._shuffle:
            return batches
        seed = int(derive_key(self._seed, 1))
        return [batches[place] for place in permute(len(batches), seed, epoch, 0, len(batches)).tolist()]

    def _cut(self, window: Samples) -> list[Samples]:
        lengths = np.maximum(self._lengths[window], 1).tolist()
        batches, first = [], 0
        for place, length in enumerate(lengths):
            if (place + 1 - first) * length > self._budget:
                batches.append(window[first:place])
                first = place
        return [*batches, window[first:]]


def _padded(samples: Samples, rows: int) -> Samples:
    return np.concatenate([samples, np.full(rows - len(samples), -1, np.int64)])
