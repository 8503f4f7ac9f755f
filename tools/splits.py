"""A data set on its device, as evaluators get it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor

from evaluation.result import Split
from pipeline.device import DeviceLoader
from shards.dataset import ShardDataset
from shards.format.views import view_hash
from shards.progress import Progress


class Passes:
    """Batches of a loader, as often as they are asked for; told how many samples each has had."""

    def __init__(self, loader: DeviceLoader, advance: Progress) -> None:
        """Read from `loader`; `advance` is called with the number of samples behind every batch."""
        self._loader, self._advance = loader, advance

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Mapping[str, Tensor]]:
        for batch in self._loader:
            num_valid = int(batch["valid"].sum())
            yield batch
            self._advance(num_valid)


def split_of(dataset: ShardDataset, loader: DeviceLoader, advance: Progress) -> Split:
    """What an evaluator knows of a data set: its batches, and where each sample comes from."""
    return Split(
        batches=Passes(loader, advance),
        digest=dataset.digest,
        label_names=dataset.manifest.label_names,
        key_of=dataset.key,
        view_hash=view_hash(dataset.manifest),
        about=dataset.metadata if "json" in dataset.schema else lambda number: {},
        num_samples=len(dataset),
    )
