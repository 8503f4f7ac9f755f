"""One worker in this process."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from pathlib import Path

from shards.builder.config import Teacher, TeacherFacts
from shards.builder.journal import ShardReport
from shards.builder.plan import Plan
from shards.builder.worker import Deliver, ShardWorker
from shards.progress import Progress


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
