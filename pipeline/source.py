"""What every source of batches has: one loader, a mix of several, a stream, or any of them on its way to a device."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

from pipeline.batch.batch import Batch
from pipeline.stats import LoaderStats


class BatchSource(Protocol):
    """Batches epoch after epoch. `ShardLoader`, `MixedLoader`, `DeviceLoader` and `StreamLoader` are such."""

    @property
    def epoch(self) -> int:
        """The epoch of the next batch."""
        ...

    def __iter__(self) -> Iterator[Batch]:
        """The rest of the current epoch."""
        ...

    def __len__(self) -> int:
        """Batches in the current epoch, the same on every rank."""
        ...

    def num_batches(self, epoch: int) -> int:
        """Batches in any epoch, the same on every rank."""
        ...

    def ready(self) -> bool:
        """Whether the iteration that is running has a next batch, and it can be had without waiting."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """The position of the next batch, in what JSON knows."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to a position; takes effect when the next iteration begins.

        Raises:
            ValueError: it is no state, or of another source of batches.
        """
        ...

    def stats(self) -> LoaderStats:
        """What was done so far in this process, and where the time went."""
        ...

    def close(self) -> None:
        """End a running iteration and close all files."""
        ...


@runtime_checkable
class LeavesCoded(Protocol):
    """A source that can leave the decoding of what codecs have stored to whoever takes its batches."""

    def leave_coded(self) -> None:
        """Give out batches with `Batch.coded` fields from the next iteration on."""
        ...
