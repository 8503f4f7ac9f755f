"""Progress on stderr: a live bar on a terminal, a plain line now and then where the output is kept."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, TextIO

from shards.words import SHORTEST_SECONDS, spell_bytes, spell_seconds

PLAIN_INTERVAL_SECONDS = 10.0


class _Display(Protocol):
    def show(self, progress: ShownProgress) -> None:
        """Show the present state."""


class ShownProgress:
    """A `shards.progress.Progress` that shows the counts, and what follows from them."""

    def __init__(self, title: str, total: int | None, unit: str, display: _Display) -> None:
        self.title, self.total, self.unit = title, total, unit
        self.done = self.failed = 0
        self._display = display
        self._start = time.monotonic()

    def __call__(self, done: int, failed: int = 0, /) -> None:
        """Count further items, of which `failed` could not be used."""
        self.done, self.failed = self.done + done, self.failed + failed
        self._display.show(self)

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self._start

    def line(self) -> str:
        """The state in words: count, rate, time left, failures; neither rate nor time left of what took no time."""
        seconds = self.seconds
        parts = [spell_count(self.done, self.total, self.unit)]
        if not self.done:
            parts += [f"after {spell_seconds(seconds)}"] if seconds >= SHORTEST_SECONDS else []
        else:
            parts += [spell_rate(self.done / seconds, self.unit)] if seconds >= SHORTEST_SECONDS else []
            if not self.total or self.done >= self.total:
                parts.append(f"took {spell_seconds(seconds)}")
            elif seconds >= SHORTEST_SECONDS:
                parts.append(f"{spell_seconds((self.total - self.done) * seconds / self.done)} left")
        if self.failed:
            parts.append(f"{self.failed:,} failed")
        return f"{self.title}: {', '.join(parts)}"


@contextmanager
def track(title: str, *, total: int | None, unit: str, file: TextIO | None = None) -> Iterator[ShownProgress]:
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
            yield ShownProgress(title, total, unit, display)
        return
    plain = _PlainLines(stream)
    progress = ShownProgress(title, total, unit, plain)
    try:
        yield progress
    finally:
        if progress.done or total:
            plain.write(progress)


class _PlainLines:
    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._last = time.monotonic()
        self._written: tuple[int, int] | None = None

    def show(self, progress: ShownProgress) -> None:
        if time.monotonic() - self._last >= PLAIN_INTERVAL_SECONDS:
            self.write(progress)

    def write(self, progress: ShownProgress) -> None:
        counts = progress.done, progress.failed
        if counts == self._written:  # the last line now and then was the last one too
            return
        self._last, self._written = time.monotonic(), counts
        print(progress.line(), file=self._stream, flush=True)


class _Bar:
    def __init__(self, bar: object, task: object) -> None:
        self._bar, self._task = bar, task

    def show(self, progress: ShownProgress) -> None:
        self._bar.update(self._task, completed=progress.done, words=progress.line())  # type: ignore[attr-defined]


@contextmanager
def _bar(title: str, total: int | None, stream: TextIO) -> Iterator[_Display]:
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as RichProgress

    columns = (BarColumn(bar_width=24), TextColumn("{task.fields[words]}", markup=False))
    with RichProgress(*columns, console=Console(file=stream)) as bar:
        yield _Bar(bar, bar.add_task(title, total=total, words=title))


def spell_count(done: int, total: int | None, unit: str) -> str:
    """How much is done, such as `12 of 34 clips`; of bytes `1.2 GB of 3.4 GB`."""
    if unit == "bytes":
        return spell_bytes(done) + (f" of {spell_bytes(total)}" if total else "")
    return f"{done:,}" + (f" of {total:,}" if total else "") + f" {unit}"


def spell_rate(per_second: float, unit: str) -> str:
    """A rate in words, in the unit of time in which it is at least one, such as `12.5 clips/s` or `4.2 clips/min`."""
    if unit == "bytes":
        return f"{spell_bytes(per_second)}/s"
    for time_unit, in_seconds in (("s", 1), ("min", 60)):
        if per_second * in_seconds >= 1:
            return f"{per_second * in_seconds:,.1f} {unit}/{time_unit}"
    return f"{per_second * 3600:,.1f} {unit}/h"
