"""Samples that were left out because they could not be read, and how many there may be."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass

from shards.format.errors import ShardError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Quarantined:
    """A sample that was left out of a batch, and why, when it was left out first."""

    sample: int
    epoch: int
    reason: str


class Quarantine:
    """Counts distinct samples: one that fails in every epoch counts once."""

    def __init__(self, limit: int, where: str) -> None:
        """Take the most samples there may be, and the name of their data set for messages."""
        self._limit, self._where = limit, where
        self._samples: dict[int, Quarantined] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._samples)

    @property
    def samples(self) -> tuple[Quarantined, ...]:
        """Those left out so far."""
        with self._lock:
            return tuple(self._samples.values())

    def add(self, sample: int, epoch: int, error: ShardError | OSError) -> None:
        """Leave a sample out.

        Raises:
            ShardError: there are more than the limit.
        """
        with self._lock:
            self._samples.setdefault(sample, Quarantined(sample, epoch, str(error)))
            count = len(self._samples)
        thread = threading.current_thread().name
        counted = f"{count} of at most {self._limit}"
        log.warning("sample %d of %s left out by %s (%s): %s", sample, self._where, thread, counted, error)
        if count > self._limit:
            raise ShardError(
                f"{count} samples could not be read, more than the {self._limit} that max_quarantined allows; "
                f"`reelshard verify` lists all damage; the last: {error}"
            )
