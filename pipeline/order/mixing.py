"""Several loaders as one: each batch comes from one of them, by weight, the same one on every rank."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.batch.batch import Batch
from pipeline.loader import ShardLoader
from pipeline.order.order import permute
from pipeline.state import NUM_EPOCHS, refuse_other, shown, whole_number


class MixedLoader:
    """An epoch is `num_batches` batches, of which each source gives its share exactly, in a shuffled order.

    Which source a batch comes from derives from (seed, epoch, batch) alone, so all ranks agree without talking. Sources
    that are used up begin their next epoch.
    """

    def __init__(
        self, loaders: Mapping[str, ShardLoader], weights: Mapping[str, float], num_batches: int, seed: int = 0
    ) -> None:
        """Take the sources.

        Args:
            loaders: by name.
            weights: by the same names; they need not add up to 1.
            num_batches: batches in an epoch.
            seed: of the order of sources.

        Raises:
            ValueError: names differ, a weight is negative, or there are no batches.
        """
        if set(loaders) != set(weights) or not loaders:
            raise ValueError(f"every source needs a weight: got {sorted(loaders)} and weights for {sorted(weights)}")
        if min(weights.values()) < 0 or sum(weights.values()) <= 0:
            raise ValueError(f"weights must not be negative, nor all zero: got {dict(weights)}")
        if num_batches < 1:
            raise ValueError(f"num_batches must be at least 1, got {num_batches}")
        self.loaders = dict(loaders)
        self.num_batches, self.seed = num_batches, seed
        self.counts = dict(zip(loaders, shares([weights[name] for name in loaders], num_batches), strict=True))
        self.epoch = self._batch = 0

    def __len__(self) -> int:
        """Batches in an epoch."""
        return self.num_batches

    def sources(self, epoch: int) -> list[str]:
        """Which source each batch of an epoch comes from."""
        names = [name for name, count in self.counts.items() for _ in range(count)]
        return [names[place] for place in permute(self.num_batches, self.seed, epoch, 0, self.num_batches).tolist()]

    def __iter__(self) -> Iterator[tuple[str, Batch]]:
        """The rest of the current epoch: pairs of source name and batch."""
        if self._batch >= self.num_batches:
            self.epoch, self._batch = self.epoch + 1, 0
        streams = {name: _endless(loader) for name, loader in self.loaders.items()}
        try:
            for number, name in enumerate(self.sources(self.epoch)):
                if number < self._batch:
                    continue
                self._batch = number + 1
                yield name, next(streams[name])
            self.epoch, self._batch = self.epoch + 1, 0
        finally:
            for stream in streams.values():
                stream.close()

    def state_dict(self) -> dict[str, Any]:
        """The position, and that of every source."""
        epoch, batch = (self.epoch, self._batch) if self._batch < self.num_batches else (self.epoch + 1, 0)
        sources = {name: loader.state_dict() for name, loader in self.loaders.items()}
        return self._identity() | {"epoch": epoch, "batch": batch, "sources": sources}

    def _identity(self) -> dict[str, Any]:
        return {"seed": self.seed, "counts": dict(self.counts)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to a position.

        Raises:
            ValueError: the state is of another mixture, or does not fit a source.
        """
        refuse_other(state, self._identity(), "the mixture")
        epoch = whole_number(state, "epoch", NUM_EPOCHS, "the mixture")
        batch = whole_number(state, "batch", self.num_batches, "the mixture")
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
        self.epoch, self._batch = epoch, batch

    def close(self) -> None:
        """Close all sources."""
        for loader in self.loaders.values():
            loader.close()


def shares(weights: Sequence[float], total: int) -> list[int]:
    """Whole numbers in proportion to `weights` that add up to `total` (largest remainders first)."""
    exact: NDArray[np.float64] = np.asarray(weights, np.float64) / sum(weights) * total
    counts = np.floor(exact + 1e-9).astype(np.int64)
    for place in np.argsort(counts - exact, kind="stable")[: total - int(counts.sum())]:
        counts[place] += 1
    return [int(count) for count in counts]


def _endless(loader: ShardLoader) -> Generator[Batch, None, None]:
    while True:
        yield from loader
