"""A data set elsewhere, as a folder of the cache in which what was asked for is there."""

from __future__ import annotations

import contextlib
import os
import secrets
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shards.cache.fetch import Failures, Source, Traffic, fetch
from shards.cache.folder import Cache
from shards.cache.sparse import CachedTar
from shards.format.beside import FAILURES_NAME, PLAN_NAME, projection_name
from shards.format.beside_group import beside_group
from shards.format.errors import MissingDataError, ShardError
from shards.format.index import TAR_SUFFIX, ShardIndex, ShardInfo, index_path, load_index
from shards.format.manifest import MANIFEST_NAME, Manifest
from shards.format.publish import TEMPORARY_SUFFIX, publish_bytes
from shards.store import Store

MOST_OPEN_TARS = 1024
COPY_BYTES = 16 << 20


class Mirror:
    """Fetches what is asked for; safe to use from several threads, and anew in a forked child.

    Attributes:
        store: where the data set is.
        cache: where it is kept.
        manifest: of the data set.
        directory: its folder in the cache; the sidecars and tars in it are those of the data set, the tars sparse.
        traffic: what was asked of the store for samples.
    """

    def __init__(self, store: Store, cache: Cache) -> None:
        """Read the manifest.

        Raises:
            MissingDataError: there is no data set.
            ManifestError: its manifest is damaged.
            ShardError: the store cannot be reached, or the cache cannot be written.
        """
        self.store, self.cache, self.traffic = store, cache, Traffic()
        try:
            data = store.get(MANIFEST_NAME)
        except MissingDataError as error:
            raise MissingDataError(f"there is no data set at {store.url}: {error}") from None
        self.manifest = Manifest.parse(data, f"{store.url}/{MANIFEST_NAME}")
        self.directory, self._descriptor = cache.open_set(store.url, self.manifest.digest)
        if not (self.directory / MANIFEST_NAME).exists():
            self._publish(MANIFEST_NAME, data)
        self._own()

    def __del__(self) -> None:
        if "_descriptor" in self.__dict__:
            os.close(self._descriptor)

    def _own(self) -> None:
        self._process = os.getpid()
        self._tars: dict[str, CachedTar] = {}
        self._lock = threading.Lock()

    def index(self, expected: ShardInfo) -> ShardIndex:
        """The sidecar of a tar, fetched if it is not here; kept if it is the one that the manifest expects."""
        path = index_path(self.directory / expected.name)
        with contextlib.suppress(ShardError):
            if (found := load_index(path)).info == expected:
                return found
        try:
            data = self.store.get(path.name)
        except MissingDataError as error:
            raise MissingDataError(f"sidecar {error}") from None
        index = ShardIndex.decode(data, path.name)
        if index.info == expected:
            self._publish(path.name, data)
        return index

    def tar(self, index: ShardIndex) -> CachedTar:
        """The cached tar of a sidecar.

        Raises:
            ShardError: the cache cannot be written.
        """
        if os.getpid() != self._process:
            self._own()
        name = index.info.name
        with self._lock:
            if (found := self._tars.get(name)) is None:
                while len(self._tars) >= MOST_OPEN_TARS:
                    del self._tars[next(iter(self._tars))]
                try:
                    found = self._tars[name] = CachedTar(self.directory / name, index)
                except OSError as error:
                    raise self._unwritable(error) from None
            return found

    def fetch(
        self, tar: CachedTar, rows: NDArray[np.int64], fields: Sequence[str], *, whole: bool, wait: bool = True
    ) -> Failures:
        """See to it that rows are in the cache; see `shards.cache.fetch`."""
        return fetch(tar, Source(self.store, self.cache.make_room, self.traffic, whole, wait), rows, fields)

    @contextlib.contextmanager
    def whole_tar(self, info: ShardInfo) -> Iterator[Path]:
        """A tar as its store gives it now, byte for byte, in a file that goes away again.

        Raises:
            MissingDataError: it is not there.
        """
        size = self.store.size(info.name)
        folder = self.directory / f"whole-{secrets.token_hex(4)}{TEMPORARY_SUFFIX}"
        try:
            folder.mkdir()
            path = folder / info.name
            with path.open("wb") as file:
                for start in range(0, size, COPY_BYTES):
                    (data,) = self.store.get_ranges(info.name, [start], [min(start + COPY_BYTES, size)])
                    self.cache.make_room(len(data))
                    file.write(data)
            yield path
        finally:
            with contextlib.suppress(FileNotFoundError):
                for path in folder.iterdir():
                    path.unlink()
                folder.rmdir()

    def fetch_beside(self) -> None:
        """Fetch what lies beside the shards, such as plans and failures, as it is now."""
        for name in names_beside(self.store, self.manifest):
            with contextlib.suppress(MissingDataError):
                self._publish(name, self.store.get(name))

    def _publish(self, name: str, data: bytes) -> None:
        try:
            publish_bytes(self.directory / name, data)
        except OSError as error:
            raise self._unwritable(error) from None

    def _unwritable(self, error: OSError) -> ShardError:
        return ShardError(
            f"the cache {self.cache.folder} cannot be written: {error.strerror}; make room there, or name another "
            "folder with data.cache or REELSHARD_CACHE"
        )


def names_beside(store: Store, manifest: Manifest) -> list[str]:
    """The small files of a data set beside its manifest, tars and sidecars: listed, or those that there may be."""
    if store.url.partition("://")[0] in ("http", "https"):
        groups = ("", *manifest.groups)
        return [beside_group(name, group) for name in (PLAN_NAME, FAILURES_NAME) for group in groups] + [
            projection_name(group) for group in groups
        ]
    names = (name for name, _ in store.list())
    return [name for name in names if "/" not in name and not name.endswith((TAR_SUFFIX, ".idx", MANIFEST_NAME))]
