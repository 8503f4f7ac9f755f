"""The worker: builds shards of a plan, one after the other. Engines differ only in which shards they hand to whom.

Three stages overlap: decoders -> the teacher (in the calling thread) -> one writer thread. The next shard decodes
while the last one is written and synced. A shard depends on the plan alone, so building it again gives the same bytes.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from itertools import groupby, islice
from pathlib import Path

import numpy as np

from shards.builder.config import Teacher
from shards.builder.decode.isolate import DecodePool
from shards.builder.failure import BuildFailure, FailureRecord
from shards.builder.journal import ShardReport, StageSeconds, publish_failures
from shards.builder.plan import Plan
from shards.builder.prepare import Outcome, failure_record
from shards.builder.rows import RowBatches
from shards.builder.samples.base import Array, GroupKind, finish_all
from shards.format.errors import ShardError
from shards.progress import Progress, untold
from shards.writer import ShardWriter, Value

Deliver = Callable[[ShardReport], None]

# How far decoding may run ahead of writing: enough that it does not pause while a finished shard is synced to disk.
MAX_UNWRITTEN_SAMPLES = 48


class ShardWorker:
    """Builds any shards of a plan. Not for use from several threads at once."""

    def __init__(
        self,
        plan: Plan,
        out: Path,
        teacher: Teacher | None,
        num_decoders: int,
        *,
        progress: Progress = untold,
        deliver: Deliver | None = None,
    ) -> None:
        """Take what every shard needs; threads are started by `build_all`.

        Args:
            plan: what is to be built.
            out: the data set's folder, which must exist.
            teacher: makes the targets; None for samples without.
            num_decoders: decoders at work at once.
            progress: called with (items done, of which failed) since its last call.
            deliver: takes each published shard elsewhere; a shard counts as finished when it returns.
        """
        self.plan, self.out, self.teacher, self.num_decoders = plan, out, teacher, num_decoders
        self.deliver = deliver
        self.progress = progress

    def build(self, shard: int) -> ShardReport:
        """Build one shard, whatever may lie there already."""
        (report,) = self.build_all([shard])
        return report

    def build_all(self, shards: Iterable[int]) -> Generator[ShardReport, None, None]:
        """Build shards and yield the report of each once it is published.

        Raises:
            ShardError: a shard cannot be written.
            Exception: whatever the teacher raises; the shard in hand is dropped, finished ones stay.
        """
        rows = self.plan.config.teacher_batch if self.teacher else 0
        ahead = 2 * self.num_decoders + -(-rows // self.plan.samples_per_item)
        decoders = DecodePool(self.plan, self.num_decoders)
        writer = ThreadPoolExecutor(1, thread_name_prefix="write")
        uploader = ThreadPoolExecutor(1, thread_name_prefix="deliver")
        try:
            outcomes = _decode_in_order(self.plan, shards, decoders, ahead)
            closing: Future[ShardReport] | None = None
            for shard, group in groupby(_timed(outcomes), key=lambda timed: timed[0].shard):
                before, closing = closing, uploader.submit(self._finish, _OpenShard(self, shard, writer).fill(group))
                if before is not None:
                    yield before.result()
            if closing is not None:
                yield closing.result()
        finally:
            decoders.shutdown()
            writer.shutdown()
            uploader.shutdown()

    def _finish(self, published: Future[ShardReport]) -> ShardReport:
        report = published.result()
        if self.deliver is not None:
            self.deliver(report)
        return report


def _decode_in_order(plan: Plan, shards: Iterable[int], decoders: DecodePool, ahead: int) -> Iterator[Future[Outcome]]:
    """Yield the outcomes of all items of `shards` in plan order, with up to `ahead` in the making.

    The window runs on over shard borders, so the decoders do not pause where a shard ends; `shards` is asked for the
    next one only when the window reaches it.
    """
    jobs = ((shard, item) for shard in shards for item in plan.shard_items(shard))
    pending = deque(decoders.submit(*job) for job in islice(jobs, ahead))
    try:
        while pending:
            yield pending.popleft()
            pending.extend(decoders.submit(*job) for job in islice(jobs, 1))
    finally:
        for future in pending:
            future.cancel()


def _timed(outcomes: Iterable[Future[Outcome]]) -> Iterator[tuple[Outcome, float]]:
    """Yield outcomes with the seconds for which each had to be waited."""
    for future in outcomes:
        start = time.perf_counter()
        outcome = future.result()
        yield outcome, time.perf_counter() - start


class _OpenShard:
    """One shard in the making: rows for the teacher on this side, the tar in the writer thread."""

    def __init__(self, worker: ShardWorker, shard: int, pool: ThreadPoolExecutor) -> None:
        self._plan, self._out = worker.plan, worker.out
        self._shard, self._pool, self._progress = shard, pool, worker.progress
        self._batch = worker.plan.config.teacher_batch if worker.teacher else 1
        self._rows = RowBatches(worker.teacher, self._batch) if worker.teacher else None
        self._stack = ExitStack()
        self._writer: ShardWriter | None = None
        self._writes: deque[Future[None]] = deque()
        self._failures: list[FailureRecord] = []
        self._seconds = dict.fromkeys(vars(StageSeconds()), 0.0)

    def fill(self, outcomes: Iterable[tuple[Outcome, float]]) -> Future[ShardReport]:
        """Take the shard's outcomes in order, then publish in the writer thread; drop the shard on any exception."""
        try:
            for outcome, waited in outcomes:
                self._seconds["decode"] += outcome.seconds
                self._seconds["decode_wait"] += waited
                if outcome.failure is not None:
                    self._failures.append(outcome.failure)
                self._progress(1, int(outcome.failure is not None))
                self._write_all(self._taught(outcome))
            if self._rows is not None:
                self._write_all(self._rows.flush())
        except BaseException as error:
            self._drop(error)
            raise
        return self._pool.submit(self._publish)

    def _taught(self, outcome: Outcome) -> Iterable[tuple[Outcome, Array | None]]:
        """Hand an outcome's rows to the teacher, and return the outcomes that may be written now."""
        if outcome.prepared is None and not self._plan.group:
            return ()
        if self._rows is None:
            return ((outcome, None),)
        return self._rows.add(
            outcome, None if outcome.prepared is None else self._plan.kind.teacher_rows(outcome.prepared)
        )

    def _write_all(self, outcomes: Iterable[tuple[Outcome, Array | None]]) -> None:
        """Hand samples to the writer thread; what the teacher could not make a number of becomes a failure."""
        start = time.perf_counter()
        samples = list(outcomes)  # the teacher is at work in here
        self._seconds["teacher"] += time.perf_counter() - start
        for outcome, rows in samples:
            if rows is not None and not np.isfinite(rows).all():
                failed = _out_of_range(outcome, rows)
                self._failures.append(failed)
                self._progress(0, 1)
                if self._plan.group:
                    self._submit(replace(outcome, prepared=None, failure=failed), None)
            else:
                self._submit(outcome, rows)
        self._drain(keep=-(-max(MAX_UNWRITTEN_SAMPLES, 4 * self._batch) // self._plan.samples_per_item))

    def _submit(self, outcome: Outcome, rows: Array | None) -> None:
        self._writes.append(self._pool.submit(self._write, outcome, rows))

    def _drain(self, keep: int) -> None:
        start = time.perf_counter()
        while len(self._writes) > keep:
            self._writes.popleft().result()
        self._seconds["write_wait"] += time.perf_counter() - start

    def _write(self, outcome: Outcome, rows: Array | None) -> None:
        start = time.perf_counter()
        if outcome.prepared is None:
            self._open().write(outcome.item.key, self._substitute(outcome))
        else:
            for key, sample in finish_all(self._plan.kind, outcome.item, outcome.prepared, rows):
                self._open().write(key, sample)
        self._seconds["write"] += time.perf_counter() - start

    def _substitute(self, outcome: Outcome) -> Mapping[str, Value]:
        kind, failure = self._plan.kind, outcome.failure
        assert isinstance(kind, GroupKind)
        assert failure is not None
        sample = kind.substitute(outcome.item)
        if sample is None:
            raise ShardError(
                f"the field group {self._plan.group!r} needs every sample, and {failure.key} cannot be made: "
                f"{failure.reason}: {failure.message}. Mend it, or say what may stand for such samples (--missing)"
            )
        return sample

    def _open(self) -> ShardWriter:
        if self._writer is None:
            path = self._out / self._plan.shard_name(self._shard)
            self._writer = self._stack.enter_context(ShardWriter(path, self._plan.schema))
        return self._writer

    def _publish(self) -> ShardReport:
        start = time.perf_counter()
        failures = tuple(self._failures)
        try:
            for write in self._writes:  # done: the writer thread takes its jobs in order
                write.result()
            publish_failures(self._plan, self._out, self._shard, failures)  # first: no finished shard is without them
            writer = self._open()
        except BaseException as error:
            self._stack.__exit__(type(error), error, error.__traceback__)
            raise
        self._stack.close()
        self._seconds["write"] += time.perf_counter() - start
        return ShardReport(
            shard=self._shard,
            info=writer.info,
            failures=failures,
            seconds=StageSeconds(**self._seconds),
            fidelity=dict(writer.fidelity),
        )

    def _drop(self, error: BaseException) -> None:
        """Leave nothing of this shard: wait for the writer thread, then close the tar as failed."""
        for future in self._writes:
            future.cancel()
        self._pool.submit(self._stack.__exit__, type(error), error, error.__traceback__).result()


def _out_of_range(outcome: Outcome, rows: Array) -> FailureRecord:
    assert outcome.prepared is not None
    num_bad = int(rows.size - np.isfinite(rows).sum())
    message = f"{num_bad} of {rows.size} target values are not finite in {rows.dtype}"
    error = BuildFailure("teacher_error", message, outcome.prepared.source)
    return failure_record(outcome.item, outcome.shard, error)
