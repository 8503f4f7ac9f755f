"""The reader threads of a loader, and the batches that they fill ahead, epoch after epoch."""

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
from pipeline.batch.planner import Draft, Planner
from pipeline.batch.slab import SlabRing
from pipeline.read.fetch import Fetcher, Tally
from pipeline.stats import StageClock

LEAST_ROWS_PER_TASK = 32  # about 5 ms of copying, beside which what Python does for a task is small
DECODED_ROWS_PER_TASK = 1  # decoding takes milliseconds, beside which a task is nothing
THREAD_NAME = "reelshard-reader"
PATIENCE_SECONDS = 0.1  # after which a thread that waits for readers looks whether a handler has ended the iteration


@dataclass(frozen=True)
class _Pending:
    """A batch that reader threads are filling."""

    plan: BatchPlan
    futures: list[Future[Tally]]


class Iteration:
    """Belongs to the process that began it, and ends once: by `end`, or by an error.

    Attributes:
        position: epoch and number of the next batch to be taken.
        idle: whether its loop has come to the end of an epoch, and another may go on with it.
    """

    def __init__(
        self,
        planner: Planner,
        fetcher: Fetcher,
        ring: SlabRing,
        clock: StageClock,
        *,
        threads: int,
        position: tuple[int, int],
        beyond: bool,
    ) -> None:
        """Start the threads.

        Args:
            planner: what batches there are.
            fetcher: reads.
            ring: memory.
            clock: takes the time.
            threads: how many.
            position: epoch and number of the first batch.
            beyond: whether to read ahead beyond the end of an epoch.
        """
        self._planner, self._fetcher, self._ring, self._clock = planner, fetcher, ring, clock
        self._threads = threads
        self.position = self._next = position
        self.idle, self._beyond = False, beyond
        self._draft: Draft | None = None  # the next batch, when there was no slab for it yet
        self._process = os.getpid()
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=THREAD_NAME)
        self._pending: deque[_Pending] = deque()
        self._filled: list[tuple[BatchPlan, Tally]] = []
        self._pool_lock = threading.RLock()
        self._inside = 0  # the thread that is using the pool, whose own locks are not reentrant
        self._running = 0  # the thread in its loop: a handler in it may hold up those it would wait for
        self._ended_by = ""

    def fill(self) -> None:
        """Wait until the batch at `position` is filled; those after it are under way then.

        Raises:
            RuntimeError: this iteration was ended, or begun in another process.
            ShardError: a sample cannot be read.
        """
        self.check()
        try:
            self._hand_out()
            self._wait()
        except (CancelledError, RuntimeError):
            self.check()  # ended meanwhile by another thread?
            raise

    def ready(self) -> bool:
        """Whether `fill` would not wait; an error is not what anybody asks for before its turn."""
        return bool(self._pending) and all(
            future.done() and not future.cancelled() and future.exception() is None
            for future in self._pending[0].futures
        )

    def take(self) -> tuple[BatchPlan, Tally]:
        """The batch that `fill` waited for, and what was done for it."""
        self.position = self._after(self.position)
        return self._filled.pop()

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

        Called by a signal's handler that interrupted its own loop, it returns at once; what it interrupted ends.
        Likewise where garbage is collected: in one of the threads themselves, or in one in which no other can end.
        """
        if os.getpid() != self._process:
            return
        self._ended_by = self._ended_by or by
        if threading.current_thread().name.startswith(THREAD_NAME) or _no_thread_can_end():
            self._pool.shutdown(wait=False, cancel_futures=True)
            return
        if threading.get_ident() != self._inside and not self.runs_here():
            with self._using_the_pool():
                self._pool.shutdown(wait=True, cancel_futures=True)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """The loop that iterates does something that a signal's handler must not wait for."""
        self._running = threading.get_ident()
        try:
            yield
        finally:
            self._running = 0

    def runs_here(self) -> bool:
        """Whether the calling thread is a handler that interrupted `running`."""
        return self._running == threading.get_ident()

    @contextlib.contextmanager
    def _using_the_pool(self) -> Iterator[None]:
        with self._pool_lock:
            self._inside = threading.get_ident()
            try:
                yield
            finally:
                self._inside = 0

    def _hand_out(self) -> None:
        """Plan batches into all free slabs and give them to the threads; at least the next one is under way then."""
        began = perf_counter()
        with self._using_the_pool():
            while not self._ended_by and (draft := self._next_draft()) is not None:
                memory = self._ring.take(draft.layout.num_bytes, grow=not self._pending)
                if memory is None:
                    break
                self._draft = None
                plan = self._planner.plan(draft, memory)
                size, step = len(plan.samples), self._rows_per_task(plan)
                task = (self._planner, self._fetcher, self._clock)
                futures = [
                    self._pool.submit(_fill, *task, plan, range(start, min(start + step, size)))
                    for start in range(0, size, step)
                ]
                self._pending.append(_Pending(plan, futures))
        self.check()
        self._clock.add("plan", perf_counter() - began)

    def _rows_per_task(self, plan: BatchPlan) -> int:
        """All threads have equal parts of a batch; more tasks would cost more than they even out."""
        return DECODED_ROWS_PER_TASK if plan.keys else max(LEAST_ROWS_PER_TASK, -(-len(plan.samples) // self._threads))

    def _next_draft(self) -> Draft | None:
        """The next batch to be read; None where its epoch is not to be begun yet."""
        if self._draft is None and (self._beyond or self._next[0] == self.position[0]):
            self._draft = self._planner.draft(*self._next)
            self._next = self._after(self._next)
        return self._draft

    def _after(self, position: tuple[int, int]) -> tuple[int, int]:
        epoch, number = position
        return (epoch, number + 1) if number + 1 < self._planner.schedule.num_batches(epoch) else (epoch + 1, 0)

    def _wait(self) -> None:
        began = perf_counter()
        pending = self._pending.popleft()
        try:
            tallies = [self._next_result(pending.futures) for _ in range(len(pending.futures))]
            self.check()
            self._filled.append((pending.plan, Tally(*map(sum, zip(*tallies, strict=True)))))
        finally:
            del pending  # an error holds this frame, and a future its error: no circle keeps files open
        self._clock.add("wait", perf_counter() - began)

    def _next_result(self, futures: list[Future[Tally]]) -> Tally:
        """What the first task gave. A handler that struck between the look at it and the wait would be missed."""
        try:
            while True:
                try:
                    tally = futures[0].result(timeout=PATIENCE_SECONDS)
                except TimeoutError:
                    if not futures[0].done():
                        self.check()
                        continue
                    tally = futures[0].result()  # an error of storage may be one, too
                del futures[0]
                return tally
        finally:
            del futures  # as above


def _no_thread_can_end() -> bool:
    """Whether this thread holds the lock that ending threads ask for, as it may where the collector runs.

    Python 3.11 and 3.12 have that lock; whoever else holds it soon lets go.
    """
    lock = getattr(threading, "_shutdown_locks_lock", None)
    if lock is None:
        return False
    if free := lock.acquire(timeout=PATIENCE_SECONDS * 10):
        lock.release()
    return not free


def _fill(planner: Planner, fetcher: Fetcher, clock: StageClock, plan: BatchPlan, rows: range) -> Tally:
    """Draw what is read of some rows, and read it: what a thread does. No circle: its errors hold no iteration."""
    planner.draw(plan, rows.start, rows.stop)
    return fetcher.fill(plan, rows.start, rows.stop, clock)
