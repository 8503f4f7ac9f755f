"""What the loop needs of a loader."""

from collections.abc import Generator, Iterator
from typing import Any, Protocol

from pipeline.batch.batch import Batch
from pipeline.stats import LoaderStats


class BatchSource(Protocol):
    """What the loop needs of a loader: `pipeline.DeviceLoader` and `pipeline.ShardLoader` have it."""

    def __iter__(self) -> Iterator[Batch]:
        """The rest of the current epoch."""
        ...

    def __len__(self) -> int:
        """Batches in the current epoch."""
        ...

    def num_batches(self, epoch: int) -> int:
        """Batches in any epoch."""
        ...

    def stats(self) -> LoaderStats:
        """What was read so far, and how long it took."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """The position of the next batch, as JSON."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a position."""
        ...


def endless(loader: BatchSource) -> Generator[Batch, None, None]:
    """One epoch after the other."""
    while True:
        yield from loader
