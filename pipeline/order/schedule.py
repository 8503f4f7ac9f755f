"""Which samples make up which batch, and which part of it is this rank's: pure functions of seed and epoch.

A global batch is the same set of samples whatever the number of ranks; every rank has the same number of batches.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.order.bits import derive_key
from pipeline.order.order import in_order, permute, permute_at
from pipeline.world import World

Samples = NDArray[np.int64]
Order = Callable[[int, int, int, Samples], Samples]  # (number of samples, seed, epoch, positions) -> samples
WINDOW = 4096
BLOCK = 64
EPOCHS_KEPT = 2  # the one that is consumed, and the next, of which batches are read ahead


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
        self,
        num_samples: int,
        global_batch_size: int,
        world: World,
        *,
        seed: int,
        shuffle: bool,
        drop_last: bool,
        order: Order = permute_at,
    ) -> None:
        """Take the parameters; `order` is that of the shuffle.

        Raises:
            ValueError: G is not a multiple of the number of ranks, or not one batch is full.
        """
        if global_batch_size % world.size:
            raise ValueError(
                f"global_batch_size must be a multiple of the number of ranks: got {global_batch_size} and {world.size}"
            )
        self._num_samples, self._size, self._world = num_samples, global_batch_size, world
        self._seed, self._order = seed, order if shuffle else in_order
        self._looked_up: deque[tuple[int, int, Samples]] = deque(maxlen=EPOCHS_KEPT)
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
        for known_epoch, first, rows in self._looked_up:
            if known_epoch == epoch and first <= number < first + len(rows):
                row: Samples = rows[number - first]
                return row
        self._looked_up.append((epoch, number, self._look_up(epoch, number)))
        return self.rows(epoch, number)

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
    """Batches of samples of like length, such that rows times the longest stay within every budget.

    Windows of the shuffled order are cut into strips of like first length, say frames, and each strip is sorted by what
    the other lengths cost, so that neighbours are alike in all of them (as the leaves of an R-tree that is packed by
    sort-tile-recursive; Leutenegger et al., 1997). What is cut from it as batches is shuffled again. Every sample comes
    exactly once an epoch. The number of batches differs a little from epoch to epoch, and is the same on every rank.
    """

    def __init__(
        self,
        lengths: Mapping[str, NDArray[np.int64]],
        budgets: Mapping[str, int],
        world: World,
        *,
        seed: int,
        shuffle: bool,
        order: Order | None = None,
    ) -> None:
        """Take the parameters.

        Args:
            lengths: by name, i64 `[num_samples]`: frames, tokens, ... of each sample.
            budgets: by the same names: the most that a global batch may hold, padding between its samples included.
            world: the ranks.
            seed: of the shuffles.
            shuffle: without it samples are sorted by cost within windows of the shards' order.
            order: of the shuffle, one with locality; batches are then shuffled within windows only.

        Raises:
            ValueError: there are no samples, or one alone is over a budget.
        """
        for name, budget in budgets.items():
            if len(lengths[name]) == 0 or int(lengths[name].min()) < 0 or int(lengths[name].max()) > budget:
                longest = int(lengths[name].max(initial=0))
                raise ValueError(f"a budget of {budget} {name} must hold the longest sample, which has {longest}")
        self._world, self._seed, self._shuffle, self._order = world, seed, shuffle, order
        self._budgets = list(budgets.values())
        self._lengths = np.maximum(np.stack([lengths[name] for name in budgets]), 1)  # [budgets, num_samples]
        self._shares = self._lengths / np.array(self._budgets)[:, None]  # of each budget
        self._costs = self._shares.max(axis=0)  # for dealing to ranks
        self._planned: dict[int, list[Samples]] = {}

    @property
    def max_rows(self) -> int:
        """As many samples of the least length as the budgets hold, on one rank."""
        shortest = self._lengths.min(axis=1).tolist()
        most = min(budget // length for budget, length in zip(self._budgets, shortest, strict=True))
        rows: int = -(-min(most, self._lengths.shape[1], WINDOW) // self._world.size)
        return rows

    def num_batches(self, epoch: int) -> int:
        """Batches in this epoch."""
        return len(self._batches(epoch))

    def rows(self, epoch: int, number: int) -> Samples:
        """This rank's part of a batch, padded to as many rows as the other ranks have."""
        batch = self._batches(epoch)[number]
        share = -(-len(batch) // self._world.size)
        part = deal(self._costs[batch], self._world.size)[self._world.rank]
        return _padded(batch[part], share)

    def _batches(self, epoch: int) -> list[Samples]:
        if epoch not in self._planned:
            while len(self._planned) >= EPOCHS_KEPT:
                del self._planned[next(iter(self._planned))]
            self._planned[epoch] = self._plan(epoch)
        return self._planned[epoch]

    def _plan(self, epoch: int) -> list[Samples]:
        count = self._lengths.shape[1]
        order = (self._order or permute_at) if self._shuffle else in_order
        samples = order(count, self._seed, epoch, np.arange(count))
        windows = [self._cut(self._tiled(samples[start : start + WINDOW])) for start in range(0, count, WINDOW)]
        if self._shuffle and self._order is not None:
            return [batch for number, window in enumerate(windows) for batch in self._mixed(window, epoch, number)]
        batches = [batch for window in windows for batch in window]
        return self._mixed(batches, epoch) if self._shuffle else batches

    def _mixed(self, batches: list[Samples], epoch: int, window: int | None = None) -> list[Samples]:
        seed = int(derive_key(self._seed, 1) if window is None else derive_key(self._seed, 1, window))
        return [batches[place] for place in permute(len(batches), seed, epoch, 0, len(batches)).tolist()]

    def _tiled(self, window: Samples) -> Samples:
        """Order samples such that neighbours are alike in all lengths."""
        first = self._shares[0, window]
        window = window[np.argsort(first, kind="stable")]
        if len(self._budgets) == 1:
            return window
        others = self._shares[1:].max(axis=0)
        num_batches = float(self._shares[:, window].sum(axis=1).max())
        spread = [float(costs.std() / costs.mean()) for costs in (first, others[window])]
        wanted = math.sqrt(num_batches * spread[0] / max(spread[1], 1e-9))  # the least padding of both together
        borders = _strips(self._lengths[0, window], max(1, min(round(wanted), math.ceil(num_batches))))
        strips = [window[start:stop] for start, stop in itertools.pairwise(borders)]
        for number, strip in enumerate(strips):
            dearest = -1 if number % 2 else 1  # there and back, so that where strips meet samples are alike, too
            strips[number] = strip[np.argsort(dearest * others[strip], kind="stable")]
        return np.concatenate(strips)

    def _cut(self, window: Samples) -> list[Samples]:
        batches, first = [], 0
        longest = [0] * len(self._budgets)
        for place, lengths in enumerate(self._lengths[:, window].T.tolist()):
            longest = list(map(max, longest, lengths))
            if any((place + 1 - first) * most > budget for most, budget in zip(longest, self._budgets, strict=True)):
                batches.append(window[first:place])
                first, longest = place, lengths
        return [*batches, window[first:]]


def _strips(ascending: NDArray[np.int64], count: int) -> list[int]:
    """Cut sorted lengths into about so many equal parts, where the length changes if that is near: the borders."""
    size = len(ascending) / count
    changes = np.concatenate([[0], np.flatnonzero(np.diff(ascending)) + 1, [len(ascending)]])
    borders = {0, len(ascending)}
    for border in (round(size * number) for number in range(1, count)):
        nearest = int(changes[np.abs(changes - border).argmin()])
        borders.add(nearest if abs(nearest - border) < size / 2 else border)
    return sorted(borders)


def deal(costs: NDArray[np.float64], num_ranks: int) -> list[Samples]:
    """Deal the samples of a batch to ranks in rounds: the dearest that is left goes to the rank with the least so far.

    Ranks get equally many samples or one fewer, and their costs differ by no more than the dearest sample's.

    Args:
        costs: f64 `[num_samples]`.
        num_ranks: from 1 on.

    Returns:
        For each rank, i64, ascending: the places of its samples.
    """
    total = np.zeros(num_ranks)
    dealt: list[list[int]] = [[] for _ in range(num_ranks)]
    dearest = np.argsort(-costs, kind="stable")
    for start in range(0, len(costs), num_ranks):
        samples = dearest[start : start + num_ranks]
        for rank, sample in zip(np.argsort(total, kind="stable").tolist(), samples.tolist(), strict=False):
            dealt[rank].append(sample)
            total[rank] += costs[sample]
    return [np.sort(np.array(places, np.int64)) for places in dealt]


def _padded(samples: Samples, rows: int) -> Samples:
    return np.concatenate([samples, np.full(rows - len(samples), -1, np.int64)])
