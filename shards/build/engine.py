"""Who runs the workers. An engine is handed shards and gives back reports; what a shard is, only the worker knows."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Protocol

from shards.build.config import Teacher, TeacherFacts
from shards.build.plan import Plan
from shards.build.report import ShardReport
from shards.build.worker import Deliver, Progress, ShardWorker


class Engine(Protocol):
    """Runs one worker or many."""

    def facts(self) -> TeacherFacts | None:
        """What the plan needs to know of the teacher; None where there is none."""

    def run(
        self, plan: Plan, out: Path, shards: Sequence[int], progress: Progress
    ) -> Generator[ShardReport, None, None]:
        """Build shards and yield their reports in any order; fewer than asked for where workers were lost.

        Raises:
            Exception: whatever stopped a worker that was not simply lost.
        """


class InProcess:
    """One worker in this process, with the teacher here."""

    def __init__(self, teacher: Teacher | None, deliver: Deliver | None = None) -> None:
        """Take the teacher, or None for clips only, and what takes finished shards elsewhere."""
        self._teacher, self._deliver = teacher, deliver

    def facts(self) -> TeacherFacts | None:
        """Return the teacher itself."""
        return self._teacher

    def run(
        self, plan: Plan, out: Path, shards: Sequence[int], progress: Progress
    ) -> Generator[ShardReport, None, None]:
        """Build all of them, in order."""
        workers = plan.config.num_workers
        worker = ShardWorker(plan, out, self._teacher, workers, progress=progress, deliver=self._deliver)
        yield from worker.build_all(shards)
