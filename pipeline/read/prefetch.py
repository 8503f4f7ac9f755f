"""Fetches what the next batches will need, in their order, into the node's cache."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from pipeline.order.schedule import Schedule
from pipeline.read.arrivals import Arrivals, Rows
from shards.cache.sparse import CachedTar
from shards.dataset import ShardDataset
from shards.format.errors import ShardError

AHEAD_BYTES = 1 << 30  # of a node
MOST_BATCHES_AHEAD = 64
REQUESTS = 16  # at a time, of a process
SHARE_OF_QUOTA = 4  # what is ahead takes at most a quarter of the cache


@dataclass(frozen=True)
class _Ahead:
    """A batch on its way."""

    position: tuple[int, int]
    num_bytes: int
    tars: tuple[CachedTar, ...]  # held, so that nobody evicts them before the batch is read
    futures: tuple[Future[object], ...]


class Prefetcher:
    """Belongs to one process and the thread that consumes batches."""

    def __init__(self, dataset: ShardDataset, arrivals: Arrivals, schedule: Schedule, *, beyond: bool) -> None:
        """Take what is read in which order; nothing is fetched before `advance`.

        Args:
            dataset: the data set.
            arrivals: fetches.
            schedule: which samples make up this rank's part of each batch.
            beyond: whether to go on beyond the end of an epoch.
        """
        self._dataset, self._arrivals, self._schedule, self._beyond = dataset, arrivals, schedule, beyond
        quota = arrivals.mirror.cache.quota
        self._most_bytes = min(AHEAD_BYTES, quota // SHARE_OF_QUOTA) // arrivals.world.local_size
        self._ahead: deque[_Ahead] = deque()
        self._next = (0, 0)
        self._pool: ThreadPoolExecutor | None = None

    def advance(self, epoch: int, number: int) -> None:
        """Say which batch is about to be read, or was read already as one after it is: order what comes after it."""
        now = (epoch, number)
        while self._ahead and self._ahead[0].position < now:
            self._release(self._ahead.popleft())
        if self._ahead and self._ahead[0].position != now:
            self.stop()  # the position was changed
        if not self._ahead:
            self._next = now
        while len(self._ahead) < MOST_BATCHES_AHEAD and self._has_next(epoch):
            if self._ahead and sum(batch.num_bytes for batch in self._ahead) >= self._most_bytes:
                break
            self._ahead.append(self._order(*self._next))
            epoch_of, number_of = self._next
            last = number_of + 1 >= self._schedule.num_batches(epoch_of)
            self._next = (epoch_of + 1, 0) if last else (epoch_of, number_of + 1)

    def stop(self) -> None:
        """Take back what has not begun, and let go of all tars; `advance` begins anew."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None
        while self._ahead:
            self._release(self._ahead.popleft())

    def __del__(self) -> None:
        self.stop()

    def _has_next(self, epoch: int) -> bool:
        return self._beyond or self._next[0] == epoch

    def _order(self, epoch: int, number: int) -> _Ahead:
        """Ask for the samples of a batch, chunk by chunk."""
        samples = self._schedule.rows(epoch, number)
        shards, rows = self._dataset.locate(samples[samples >= 0])
        held: list[CachedTar] = []
        futures: list[Future[object]] = []
        num_bytes = 0
        for shard in dict.fromkeys(shards.tolist()):  # in the order of the batch
            of_shard = rows[shards == shard]
            with contextlib.suppress(ShardError):  # the reader meets it, too, and says so
                for tar, fields in self._arrivals.tars(shard):
                    tar.acquire()
                    held.append(tar)
                    lacking = self._arrivals.lacking(tar, of_shard, fields)
                    if len(lacking):
                        num_bytes += tar.num_bytes(self._arrivals.rows_along(tar, lacking), fields)
                        chunks = tar.chunks[lacking]
                        futures += [self._submit(tar, lacking[chunks == one], fields) for one in np.unique(chunks)]
        return _Ahead((epoch, number), num_bytes, tuple(held), tuple(futures))

    def _submit(self, tar: CachedTar, rows: Rows, fields: Sequence[str]) -> Future[object]:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(REQUESTS, thread_name_prefix="reelshard-prefetch")
        return self._pool.submit(_fetch, self._arrivals, tar, rows, tuple(fields))

    @staticmethod
    def _release(batch: _Ahead) -> None:
        for future in batch.futures:
            future.cancel()
        for tar in batch.tars:
            tar.release()


def _fetch(arrivals: Arrivals, tar: CachedTar, rows: Rows, fields: Sequence[str]) -> None:
    """What a thread does; what goes wrong, the reader meets, and says so."""
    with contextlib.suppress(ShardError, OSError), tar.hold():
        arrivals.fetch(tar, rows, fields, wait=False)
