"""The sidecars of a data set: read on first use, compared with the manifest, kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shards.cache.mirror import Mirror
from shards.format.errors import DamagedShardError, ManifestError
from shards.format.index import ShardIndex, index_path, load_index
from shards.format.manifest import Manifest
from shards.format.schema import Field
from shards.threads import thread_pool

SIDECAR_THREADS = 16


class Sidecars:
    """Sidecars in `directory`, or what `mirror` fetches of them.

    Safe to use from several threads without any lock, which a fork could leave locked in the child.
    """

    def __init__(self, directory: Path, manifest: Manifest, mirror: Mirror | None) -> None:
        self._directory = directory
        self._manifest = manifest
        self._mirror = mirror
        self._indices: dict[tuple[int, str], ShardIndex] = {}
        self._columns: dict[tuple[str, str], NDArray[np.int64]] = {}

    @property
    def num_open(self) -> int:
        """Sidecars read so far."""
        return len(self._indices)

    def index(self, shard: int, group: str = "") -> ShardIndex:
        """The sidecar of a shard.

        Raises:
            MissingDataError: it is not there.
            DamagedShardError: it is not readable, or belongs to another shard.
        """
        index = self._indices.get((shard, group))
        if index is None:
            expected = self._manifest.series(group)[shard]
            path, schema = self._directory / expected.name, self._manifest.schema.of_group(group)
            index = load_index(index_path(path)) if self._mirror is None else self._mirror.index(expected)
            if index.info != expected:
                raise DamagedShardError(
                    f"the sidecar describes {index.info.name} ({index.info.num_samples} samples, digest "
                    f"{index.info.digest}), the manifest expects {expected.name} ({expected.num_samples} samples, "
                    f"digest {expected.digest}); restore it, or make it again with `reelshard index`",
                    shard=index_path(path).name,
                )
            if list(index.schema) != list(schema):
                differing = ", ".join(sorted({f.name for f in {*index.schema} ^ {*schema}}))
                raise ManifestError(
                    f"shard {path.name}: its sidecar and the manifest differ in {differing or 'the order of fields'}"
                )
            if group and not index.has_keys_of(self.index(shard)):
                main = self._manifest.series("")[shard].name
                raise DamagedShardError(f"its keys are not those of {main}, or in another order", shard=path.name)
            self._indices[(shard, group)] = index
        return index

    def column(self, what: str, field: Field, column: Callable[[ShardIndex], NDArray[np.int64]]) -> NDArray[np.int64]:
        """A column of all sidecars, i64 `[num_samples]`, read-only; `what` names it among those of the field."""
        if (what, field.name) not in self._columns:
            shards = range(len(self._manifest.shards))
            with thread_pool(SIDECAR_THREADS) as pool:
                indices = list(pool.map(lambda shard: self.index(shard, field.group), shards))
            values = np.concatenate([column(index) for index in indices])
            values.flags.writeable = False
            self._columns[what, field.name] = values
        return self._columns[what, field.name]
