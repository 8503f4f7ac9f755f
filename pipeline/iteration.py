"""One pass of a loader over the rest of an epoch: the reader threads, and the batches that they fill ahead."""

from __future__ import annotations

import contextlib
import os
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass
from time import perf_counter

from pipeline.batch.batch import BatchPlan
from pipeline.batch.planner import Planner
from pipeline.batch.slab import SlabRing
from pipeline.read.fetch import Fetcher
from pipeline.stats import StageClock

ROWS_PER_TASK = 16


@dataclass(frozen=True)
class _Pending:
    """A batch that reader threads are filling."""

    plan: BatchPlan
    futures: list[Future[None]]


class Iteration:
    """Belongs to the process that began it, and ends once: at the end of the epoch, by `end`, or by an error."""

    def __init__(
        self, planner: Planner, fetcher: Fetcher, ring: SlabRing, clock: StageClock, *, threads: int, epoch: int
    ) -> None:
        """Start the threads."""
        self._planner, self._fetcher, self._ring, self._clock = planner, fetcher, ring, clock
        self._epoch, self._num_batches = epoch, planner.schedule.num_batches(epoch)
        self._process = os.getpid()
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="reelshard-reader")
        self._pending: deque[_Pending] = deque()
        self._pool_lock = threading.RLock()
        self._inside = 0  # the thread that is using the pool, whose own locks are not reentrant
        self._ended_by = ""

    def fill(self, number: int) -> None:
        """Wait until batch `number`, the next in order, is filled; those after it are under way then.

        Raises:
            RuntimeError: this iteration was ended, or begun in another process.
            ShardError: a sample cannot be read.
        """
        self.check()
        try:
            self._hand_out(number)
            self._wait(self._pending[0])
        except (CancelledError, RuntimeError):
            self.check()  # ended meanwhile by another thread?
            raise

    def take(self) -> BatchPlan:
        """The batch that `fill` waited for."""
        return self._pending.popleft().plan

    def check(self) -> None:
        """Raise RuntimeError unless it can go on."""
        if os.getpid() != self._process:
            raise RuntimeError(
                f"this iteration was begun by process {self._process}, and this is {os.getpid()}, forked from it: its "
                "threads are not here. Iterate over the loader anew in the child"
            )
        if self._ended_by:
            raise RuntimeError(f"this iteration was ended by {self._ended_by}")

    def end(self, by: str) -> None:
        """Stop the threads and wait for them. In a forked child there are none, and their locks are left alone.

        Called by a signal's handler that interrupted this very object, it returns at once; what it interrupted ends.
        """
        if os.getpid() != self._process:
            return
        self._ended_by = self._ended_by or by
        if self._inside != threading.get_ident():
            with self._using_the_pool():
                self._pool.shutdown(wait=True, cancel_futures=True)

    @contextlib.contextmanager
    def _using_the_pool(self) -> Iterator[None]:
        with self._pool_lock:
            self._inside = threading.get_ident()
            try:
                yield
            finally:
                self._inside = 0

    def _hand_out(self, number: int) -> None:
        """Plan batches into all free slabs and give them to the threads; at least batch `number` is under way then."""
        began = perf_counter()
        with self._using_the_pool():
            while (upcoming := number + len(self._pending)) < self._num_batches and not self._ended_by:
                memory = self._ring.take(grow=not self._pending)
                if memory is None:
                    break
                plan = self._planner.plan(self._epoch, upcoming, memory)
                size = len(plan.samples)
                futures = [
                    self._pool.submit(self._fetcher.fill, plan, start, min(start + ROWS_PER_TASK, size), self._clock)
                    for start in range(0, size, ROWS_PER_TASK)
                ]
                self._pending.append(_Pending(plan, futures))
        self.check()
        self._clock.add("plan", perf_counter() - began)

    def _wait(self, pending: _Pending) -> None:
        began = perf_counter()
        for future in pending.futures:
            future.result()
        self._clock.add("wait", perf_counter() - began)
