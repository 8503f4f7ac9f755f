"""Who runs the workers. An engine is handed shards and gives back reports; what a shard is, only the worker knows."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Protocol

from shards.builder.config import TeacherFacts
from shards.builder.journal import ShardReport
from shards.builder.plan import Plan
from shards.progress import Progress


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
