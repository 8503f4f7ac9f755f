"""Several sources of batches as one: each batch comes from one of them, by weight, the same one on every rank."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.batch.batch import Batch
from pipeline.order.mixing import epoch_counts, spread
from pipeline.source import BatchSource, LeavesCoded
from pipeline.state import NUM_EPOCHS, refuse_other, shown, whole_number
from pipeline.stats import LoaderStats, add_up

STATE_FORMAT = 2


class MixedLoader:
    """An epoch is one pass over the heaviest source; the others give their share beside it and begin anew as needed.

    Which source a batch comes from follows from the weights and the number of batches alone, so all ranks agree without
    talking. `Batch.source` names it; `Batch.epoch` and `Batch.number` are those of the mix.
    """

    def __init__(self, loaders: Mapping[str, BatchSource], weights: Mapping[str, float]) -> None:
        """Take the sources.

        Args:
            loaders: by name.
            weights: by the same names; they need not add up to 1.

        Raises:
            ValueError: names differ, a weight is negative, or all are zero.
        """
        if set(loaders) != set(weights) or not loaders:
            raise ValueError(f"every source needs a weight: got {sorted(loaders)} and weights for {sorted(weights)}")
        if not all(0 <= weight < float("inf") for weight in weights.values()) or sum(weights.values()) <= 0:
            raise ValueError(f"weights must not be negative, nor all zero: got {dict(weights)}")
        self.loaders = dict(loaders)
        self.weights = {name: float(weights[name]) for name in loaders}
        self.heaviest = max(self.weights, key=self.weights.__getitem__)
        self.epoch = self._batch = 0
        self._streams: dict[str, Generator[Batch, None, None]] = {}
        self._process = os.getpid()
        self._spread: tuple[tuple[int, ...], NDArray[np.int64]] = ((), np.empty(0, np.int64))

    def __len__(self) -> int:
        """Batches in the current epoch."""
        return self.num_batches(self.epoch)

    def num_batches(self, epoch: int) -> int:
        """Batches in any epoch."""
        return sum(self.counts(epoch).values())

    def counts(self, epoch: int) -> dict[str, int]:
        """Batches of each source in an epoch."""
        num_heaviest = self.loaders[self.heaviest].num_batches(epoch)
        return dict(zip(self.loaders, epoch_counts(list(self.weights.values()), num_heaviest), strict=True))

    def sources(self, epoch: int) -> list[str]:
        """Which source each batch of an epoch comes from."""
        names = list(self.loaders)
        return [names[source] for source in self._order(epoch).tolist()]

    def _order(self, epoch: int) -> NDArray[np.int64]:
        """The same as places in `loaders`, i64 `[num_batches]`."""
        counts = tuple(self.counts(epoch).values())
        if self._spread[0] != counts:
            self._spread = (counts, spread(counts))
        return self._spread[1]

    def __iter__(self) -> Iterator[Batch]:
        """The rest of the current epoch. What the sources have read ahead is kept for the next one."""
        if self._batch >= len(self):
            self.epoch, self._batch = self.epoch + 1, 0
        if os.getpid() != self._process:  # what a parent has read ahead is not here
            self._process, self._streams = os.getpid(), {}
        streams = self._streams or {name: _endless(loader) for name, loader in self.loaders.items()}
        self._streams = {}  # a newer iteration makes its own, which ends these
        whole = False
        try:
            sources = self.sources(self.epoch)
            for number in range(self._batch, len(sources)):
                self._batch = number + 1
                yield self._named(streams[sources[number]], sources[number], number)  # no name holds the batch here
            self.epoch, self._batch = self.epoch + 1, 0
            whole = True
        finally:
            if whole:
                self._streams = streams
            else:
                _close(streams)

    def _named(self, stream: Iterator[Batch], source: str, number: int) -> Batch:
        batch = next(stream)
        batch.source, batch.epoch, batch.number = source, self.epoch, number
        return batch

    def leave_coded(self) -> None:
        """Let the sources leave decoding to a device; see `ShardLoader.leave_coded`."""
        for loader in self.loaders.values():
            if isinstance(loader, LeavesCoded):
                loader.leave_coded()

    def ready(self) -> bool:
        """Whether the source whose turn it is has its next batch ready."""
        order = self._order(self.epoch)
        return self._batch < len(order) and list(self.loaders.values())[order[self._batch]].ready()

    def state_dict(self) -> dict[str, Any]:
        """The position, and that of every source."""
        epoch, batch = (self.epoch, self._batch) if self._batch < len(self) else (self.epoch + 1, 0)
        sources = {name: loader.state_dict() for name, loader in self.loaders.items()}
        return self._identity() | {"epoch": epoch, "batch": batch, "sources": sources}

    def _identity(self) -> dict[str, Any]:
        return {"format": STATE_FORMAT, "weights": dict(self.weights)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to a position.

        Raises:
            ValueError: the state is of another mixture, or does not fit a source.
        """
        refuse_other(state, self._identity(), "the mixture")
        epoch = whole_number(state, "epoch", NUM_EPOCHS, "the mixture")
        batch = whole_number(state, "batch", self.num_batches(epoch), "the mixture")
        sources = state.get("sources")
        if not isinstance(sources, Mapping) or set(sources) != set(self.loaders):
            got = sorted(sources) if isinstance(sources, Mapping) else sources
            raise ValueError(f"the mixture's state needs the states of {sorted(self.loaders)}, got {shown(got)}")
        before = {name: loader.state_dict() for name, loader in self.loaders.items()}
        try:
            for name, loader in self.loaders.items():
                loader.load_state_dict(sources[name])
        except ValueError:
            for name, loader in self.loaders.items():
                loader.load_state_dict(before[name])
            raise
        self._leave()
        self.epoch, self._batch = epoch, batch

    def stats(self) -> LoaderStats:
        """What all sources together have done; each has its own."""
        return add_up({name: loader.stats() for name, loader in self.loaders.items()})

    def close(self) -> None:
        """Close all sources."""
        self._leave()
        for loader in self.loaders.values():
            loader.close()

    def _leave(self) -> None:
        streams, self._streams = self._streams, {}
        _close(streams)


def _close(streams: Mapping[str, Generator[Batch, None, None]]) -> None:
    for stream in streams.values():
        stream.close()


def _endless(loader: BatchSource) -> Generator[Batch, None, None]:
    while True:
        yield from loader
