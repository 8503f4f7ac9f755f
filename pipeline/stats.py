"""Where a loader's time goes."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Mapping
from dataclasses import dataclass


class StageClock:
    """Seconds per stage, and what was done in them, added up over all threads.

    Each thread adds to sums of its own: a lock could be held by a consumer whose signal handler waits for the readers.
    """

    def __init__(self) -> None:
        """Start at zero."""
        self._seconds: dict[tuple[str, int], float] = {}
        self._counts: dict[tuple[str, int], int] = {}

    def add(self, stage: str, seconds: float, count: int = 1) -> None:
        """Add the duration of one piece of work, or of several."""
        own = stage, threading.get_ident()
        self._seconds[own] = self._seconds.get(own, 0.0) + seconds
        self._counts[own] = self._counts.get(own, 0) + count

    def seconds(self, stage: str) -> float:
        """Seconds so far."""
        return sum((seconds for (of, _), seconds in list(self._seconds.items()) if of == stage), 0.0)

    def count(self, stage: str) -> int:
        """Pieces of work so far."""
        return sum(count for (of, _), count in list(self._counts.items()) if of == stage)


@dataclass(frozen=True, kw_only=True)
class LoaderStats:
    """What a loader has done since it was made.

    Attributes:
        reader: the reader in use, and why it was chosen.
        num_batches: batches yielded.
        num_samples: valid samples yielded.
        num_bytes: bytes asked of storage for the rows yielded: what was drawn, or all of a row that was checked or
            that its reader takes whole.
        num_padded: rows of padding yielded.
        num_checked: rows yielded that were compared with their checksums.
        num_decoded: pieces decoded, such as JPEG frames; of batches that are read ahead, too.
        num_quarantined: samples left out because they could not be read, each counted once.
        num_slabs: slabs allocated at present.
        wait_seconds: time the consumer waited for a batch.
        plan_seconds: time spent on order, masks and hand-out, in the consumer's thread.
        consumer_seconds: time between a batch being yielded and the next being asked for.
        read_seconds: time in the reader threads, added up: storage, copy, checksums and decoding.
        decode_seconds: processor time that they took, added up over the threads.
    """

    reader: str
    num_batches: int = 0
    num_samples: int = 0
    num_bytes: int = 0
    num_padded: int = 0
    num_checked: int = 0
    num_decoded: int = 0
    num_quarantined: int = 0
    num_slabs: int = 0
    wait_seconds: float = 0.0
    plan_seconds: float = 0.0
    consumer_seconds: float = 0.0
    read_seconds: float = 0.0
    decode_seconds: float = 0.0


def add_up(parts: Mapping[str, LoaderStats]) -> LoaderStats:
    """What several loaders have done together; `reader` names each one's."""
    numbers = [field.name for field in dataclasses.fields(LoaderStats) if field.name != "reader"]
    sums = {name: sum(getattr(part, name) for part in parts.values()) for name in numbers}
    return LoaderStats(reader=", ".join(f"{name}: {part.reader}" for name, part in parts.items()), **sums)
