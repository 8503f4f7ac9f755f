"""What the demos share: a folder of their own, steps that say their name and are timed, and the machine."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tools.revision import git_revision, package_versions

MARKER = ".reelshard-demo"  # says that a folder is the demo's own and may be replaced
# Fixed, so that sums are added up in the same order every time; more do not pay at this size.
TORCH_THREADS = 1


class Clock:
    """Steps with their names on stderr, and how long each took.

    Attributes:
        seconds: by step.
    """

    def __init__(self, num_steps: int) -> None:
        self.seconds: dict[str, float] = {}
        self._num_steps = num_steps

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Say that a step begins, and time it."""
        say(f"[{len(self.seconds) + 1}/{self._num_steps}] {name}")
        start = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - start, 2)


def say(line: str) -> None:
    """A line on stderr."""
    print(line, file=sys.stderr, flush=True)


def prepare(out: Path) -> None:
    """Make the folder of a demo, in place of an earlier one.

    Raises:
        ValueError: it holds something else.
    """
    if out.exists() and any(out.iterdir()):
        if not (out / MARKER).exists():
            raise ValueError(f"{out} is not empty and not an earlier demo; choose another --out")
        shutil.rmtree(out)
    out.mkdir(parents=True, exist_ok=True)
    (out / MARKER).touch()


def num_workers() -> int:
    """Processes that work at once."""
    return min(len(os.sched_getaffinity(0)), 16)


def made_on() -> dict[str, Any]:
    """Machine, date and versions, for a report."""
    from tools.bench.about import machine

    return {
        "what": machine(),
        "cpus": len(os.sched_getaffinity(0)),
        "threads": TORCH_THREADS,
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "versions": package_versions(),
        "revision": git_revision(),
    }
