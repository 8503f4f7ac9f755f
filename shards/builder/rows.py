"""Rows of a shard's samples, cut into calls of the teacher.

A call takes consecutive rows, whatever samples they are of, and never rows of two shards: what a call holds shapes the
bits of the targets, and has to follow from the plan alone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from shards.builder.config import Teacher
from shards.builder.prepare import Outcome
from shards.builder.samples.base import Array, Rows


@dataclass
class _Waiting:
    """A sample whose rows are not all through."""

    outcome: Outcome
    num_rows: int | None  # None: the teacher is not asked
    made: list[Array] = field(default_factory=list)

    @property
    def is_complete(self) -> bool:
        return sum(map(len, self.made)) == (self.num_rows or 0)


class RowBatches:
    """The samples of one shard on their way through the teacher; they come out in the order in which they went in."""

    def __init__(self, teacher: Teacher, batch: int) -> None:
        """Take the teacher, and how many rows it takes in one call."""
        self._teacher, self._batch = teacher, batch
        self._waiting: deque[_Waiting] = deque()
        self._rows: deque[tuple[_Waiting, Rows]] = deque()
        self._num_rows = 0

    def add(self, outcome: Outcome, rows: Rows | None) -> Iterator[tuple[Outcome, Array | None]]:
        """Take a sample with its rows; yield samples that are complete, each with what the teacher gave for it."""
        sample = _Waiting(outcome, None if rows is None else len(rows))
        self._waiting.append(sample)
        if rows is not None and len(rows):
            self._rows.append((sample, rows))
            self._num_rows += len(rows)
        while self._num_rows >= self._batch:
            self._call(self._batch)
        yield from self._complete()

    def flush(self) -> Iterator[tuple[Outcome, Array | None]]:
        """Send what is left, at the end of the shard; yield the samples that are left."""
        if self._num_rows:
            self._call(self._num_rows)
        yield from self._complete()

    def _call(self, num_rows: int) -> None:
        takers, parts, left = [], [], num_rows
        while left:
            sample, rows = self._rows.popleft()
            takers.append((sample, min(left, len(rows))))
            parts.append(rows[:left])
            if len(rows) > left:
                self._rows.appendleft((sample, rows[left:]))
            left -= takers[-1][1]
        self._num_rows -= num_rows
        targets = self._checked(self._teacher(_joined(parts)), num_rows)
        for sample, count in takers:
            sample.made.append(targets[:count])
            targets = targets[count:]

    def _checked(self, targets: Array, num_rows: int) -> Array:
        shape, dtype = (num_rows, *self._teacher.output_shape), np.dtype(self._teacher.output_dtype)
        if targets.shape != shape or targets.dtype != dtype:
            raise ValueError(
                f"the teacher gave {targets.dtype} {targets.shape}, its output_shape asks for {dtype} {shape}"
            )
        return targets

    def _complete(self) -> Iterator[tuple[Outcome, Array | None]]:
        while self._waiting and self._waiting[0].is_complete:
            sample = self._waiting.popleft()
            if sample.num_rows is None:
                yield sample.outcome, None
            elif len(sample.made) == 1:
                yield sample.outcome, sample.made[0]
            else:
                nothing = np.empty((0, *self._teacher.output_shape), self._teacher.output_dtype)
                yield sample.outcome, np.concatenate([nothing, *sample.made])


def _joined(parts: list[Rows]) -> Rows:
    if isinstance(parts[0], list):
        return [row for part in parts for row in part]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)
