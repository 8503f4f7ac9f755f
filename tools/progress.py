"""Progress on stderr: a live bar on a terminal, a plain line now and then where the output is kept."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, TextIO

PLAIN_INTERVAL_SECONDS = 10.0


class _Display(Protocol):
    def show(self, progress: Progress) -> None:
        """Show the present state."""


class Progress:
    """Counts what is done; call it with (done, failed) since its last call, or `at` with the counts so far."""

    def __init__(self, title: str, total: int | None, unit: str, display: _Display) -> None:
        self.title, self.total, self.unit = title, total, unit
        self.done = self.failed = 0
        self._display = display
        self._start = time.monotonic()

    def __call__(self, done: int, failed: int = 0) -> None:
        """Count further items, of which `failed` could not be used."""
        self.at(self.done + done, self.failed + failed)

    def at(self, done: int, failed: int = 0) -> None:
        """Set the counts."""
        self.done, self.failed = done, failed
        self._display.show(self)

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self._start

    @property
    def per_second(self) -> float:
        """Items per second so far."""
        return self.done / self.seconds if self.seconds > 0 else 0.0

    def line(self) -> str:
        """The state in words: count, rate, time left, failures."""
        parts = [f"{self.done:,}" + (f" of {self.total:,}" if self.total else "") + f" {self.unit}"]
        parts.append(f"{self.per_second:,.1f} {self.unit}/s")
        if self.total and 0 < self.done < self.total:
            parts.append(f"{spell_seconds((self.total - self.done) / self.per_second)} left")
        elif self.done:
            parts.append(f"took {spell_seconds(self.seconds)}")
        if self.failed:
            parts.append(f"{self.failed:,} failed")
        return f"{self.title}: {', '.join(parts)}"


@contextmanager
def track(title: str, *, total: int | None, unit: str, file: TextIO | None = None) -> Iterator[Progress]:
    """Show the progress of a piece of work while the `with` block runs.

    Args:
        title: what is being done, such as "building".
        total: items in all, or None where that is not known.
        unit: what an item is, in the plural.
        file: where it is shown; None is stderr.
    """
    stream = file or sys.stderr
    if stream.isatty():
        with _bar(title, total, stream) as display:
            yield Progress(title, total, unit, display)
        return
    plain = _PlainLines(stream)
    progress = Progress(title, total, unit, plain)
    try:
        yield progress
    finally:
        plain.write(progress)


class _PlainLines:
    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._last = time.monotonic()

    def show(self, progress: Progress) -> None:
        if time.monotonic() - self._last >= PLAIN_INTERVAL_SECONDS:
            self.write(progress)

    def write(self, progress: Progress) -> None:
        self._last = time.monotonic()
        print(progress.line(), file=self._stream, flush=True)


class _Bar:
    def __init__(self, bar: object, task: object) -> None:
        self._bar, self._task = bar, task

    def show(self, progress: Progress) -> None:
        self._bar.update(self._task, completed=progress.done, words=progress.line())  # type: ignore[attr-defined]


@contextmanager
def _bar(title: str, total: int | None, stream: TextIO) -> Iterator[_Display]:
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as RichProgress

    columns = (BarColumn(bar_width=24), TextColumn("{task.fields[words]}", markup=False))
    with RichProgress(*columns, console=Console(file=stream)) as bar:
        yield _Bar(bar, bar.add_task(title, total=total, words=title))


def spell_seconds(seconds: float) -> str:
    """A duration in words, such as `42 s`, `3 min 20 s` or `2 h 05 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
