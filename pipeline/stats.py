"""Where a loader's time goes."""

from __future__ import annotations

import threading
from collections import defaultdict
from dataclasses import dataclass


class StageClock:
    """Seconds per stage, added up over all threads."""

    def __init__(self) -> None:
        """Start at zero."""
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._lock = threading.Lock()

    def add(self, stage: str, seconds: float) -> None:
        """Add the duration of one piece of work."""
        with self._lock:
            self._seconds[stage] += seconds

    def seconds(self, stage: str) -> float:
        """Seconds so far."""
        return self._seconds.get(stage, 0.0)


@dataclass(frozen=True, kw_only=True)
class LoaderStats:
    """What a loader has done since it was made.

    Attributes:
        reader: the reader in use, and why it was chosen.
        num_batches: batches yielded.
        num_samples: valid samples yielded.
        num_bytes: bytes of array fields put into batches.
        num_padded: rows of padding yielded.
        num_checked: rows that were compared with their checksums.
        num_quarantined: samples left out because they could not be read, each counted once.
        num_slabs: slabs allocated at present.
        wait_seconds: time the consumer waited for a batch.
        plan_seconds: time spent on order, masks and hand-out, in the consumer's thread.
        consumer_seconds: time between a batch being yielded and the next being asked for.
        read_seconds: time in the reader threads, added up: storage, copy and checksums.
    """

    reader: str
    num_batches: int
    num_samples: int
    num_bytes: int
    num_padded: int
    num_checked: int
    num_quarantined: int
    num_slabs: int
    wait_seconds: float
    plan_seconds: float
    consumer_seconds: float
    read_seconds: float
