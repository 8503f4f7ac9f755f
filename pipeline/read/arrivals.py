"""Rows of a data set elsewhere: they have to be in the node's cache before a reader copies them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.world import World
from shards.cache.fetch import Failures, into_runs, members_of
from shards.cache.mirror import Mirror
from shards.cache.sparse import NAMED, PAYLOAD, CachedTar
from shards.dataset import ShardDataset
from shards.format.errors import DamagedShardError, ManifestError, MissingDataError, ShardError
from shards.format.schema import Field

Rows = NDArray[np.int64]


class Arrivals:
    """Sees to it that samples are in the cache. Holds nothing of one process but what the mirror has."""

    def __init__(
        self, dataset: ShardDataset, mirror: Mirror, fields: Sequence[Field], world: World, *, named: bool = False
    ) -> None:
        """Take what is read.

        Args:
            dataset: the data set.
            mirror: its own.
            fields: those that are read.
            world: the ranks. Where all are on this machine it needs all samples, so that neighbours are fetched along.
            named: whether members' names in the tars, and what else their headers say, are compared with the sidecars.
        """
        self._dataset, self.mirror, self.world = dataset, mirror, world
        self._named = named
        self.whole = world.local_size == world.size
        self._by_group: dict[str, list[str]] = {}
        for field in fields:
            self._by_group.setdefault(field.group, []).append(field.name)

    def tars(self, shard: int) -> Iterator[tuple[CachedTar, list[str]]]:
        """The tars that samples of a shard lie in, each with the fields that are read of it.

        Raises:
            ShardError: a sidecar cannot be had.
        """
        for group, names in self._by_group.items():
            yield self.mirror.tar(self._dataset.index(shard, group)), names

    def lacking(self, tar: CachedTar, rows: Rows, fields: Sequence[str]) -> Rows:
        """Those of the rows that are not in the cache, compared as they have to be."""
        return rows[tar.lacks(rows, fields, NAMED if self._named else PAYLOAD)]

    def fetch(self, tar: CachedTar, rows: Rows, fields: Sequence[str], *, wait: bool = True) -> Failures:
        """See to it that rows are in the cache; see `shards.cache.fetch`."""
        return self.mirror.fetch(tar, rows, fields, whole=self.whole, wait=wait, named=self._named)

    def rows_along(self, tar: CachedTar, rows: Rows) -> Rows:
        """The rows that are fetched where these are needed."""
        return np.flatnonzero(np.isin(tar.chunks, tar.chunks[rows])) if self.whole else rows

    def estimate(self) -> tuple[int, int]:
        """Requests and bytes of an epoch on this machine, from the sidecars of the first shard.

        Raises:
            ShardError: a sidecar cannot be had.
        """
        requests, num_bytes = 0, 0
        for tar, fields in self.tars(0):
            rows = np.arange(len(tar.index))
            piece_of = tar.chunks if self.whole else rows
            for piece in (rows[piece_of == number] for number in np.unique(piece_of)):
                runs = into_runs(members_of(tar, piece.tolist(), fields, named=self._named))
                requests += len(runs)
                num_bytes += sum(run[-1].stop - run[0].head for run in runs)
        share = len(self._dataset) / max(1, self._dataset.manifest.shards[0].num_samples)
        share *= self.world.local_size / self.world.size
        return round(requests * share), round(num_bytes * share)

    @contextlib.contextmanager
    def waited_for(self, shards: Sequence[int], rows: Sequence[int]) -> Iterator[dict[int, ShardError]]:
        """Wait until samples are in the cache, and keep them there while the block runs.

        Args:
            shards: of each sample; -1 for padding.
            rows: of each sample, in its shard.

        Returns:
            Place in `shards` -> why that sample cannot be had.

        Raises:
            ShardError: the store cannot be reached, or the cache cannot be written.
        """
        failed: dict[int, ShardError] = {}
        places: dict[int, list[int]] = {}
        for place, shard in enumerate(shards):
            if shard >= 0:
                places.setdefault(shard, []).append(place)
        held: list[CachedTar] = []
        try:
            for shard, of_shard in places.items():
                wanted = np.array([rows[place] for place in of_shard], np.int64)
                for tar, names in self._tars_or_error(shard, of_shard, failed):
                    tar.acquire()
                    held.append(tar)
                    if len(lacking := self.lacking(tar, wanted, names)):
                        errors = self.fetch(tar, lacking, names)
                        failed |= {place: errors[rows[place]] for place in of_shard if rows[place] in errors}
            yield failed
        finally:
            for tar in held:
                tar.release()

    def _tars_or_error(
        self, shard: int, places: Sequence[int], failed: dict[int, ShardError]
    ) -> list[tuple[CachedTar, list[str]]]:
        try:
            return list(self.tars(shard))
        except (MissingDataError, DamagedShardError, ManifestError) as error:
            failed |= dict.fromkeys(places, error)
            return []
