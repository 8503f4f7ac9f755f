"""A data set elsewhere, as a folder of the cache in which what was asked for is there."""

from __future__ import annotations

import contextlib
import os
import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from shards.cache.fetch import Failures, Source, Traffic, fetch
from shards.cache.folder import Cache, unwritable, used_bytes
from shards.cache.sparse import CachedTar
from shards.format.errors import MissingDataError, ShardError
from shards.format.index import ShardIndex, ShardInfo, index_path, load_index
from shards.format.manifest import MANIFEST_NAME
from shards.format.publish import TEMPORARY_SUFFIX, publish_bytes
from shards.store import Store
from shards.store.contents import names_beside, read_manifest

MOST_OPEN_TARS = 1024
COPY_BYTES = 16 << 20
T = TypeVar("T")


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
        self.manifest = read_manifest(store)
        self.directory, self._descriptor = cache.open_set(store.url, self.manifest.digest)
        if not (self.directory / MANIFEST_NAME).exists():
            self.manifest.write(self.directory)
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
                found = self._tars[name] = self._with_room(lambda: CachedTar(self.directory / name, index))
            return found

    def fetch(
        self,
        tar: CachedTar,
        rows: NDArray[np.int64],
        fields: Sequence[str],
        *,
        whole: bool,
        wait: bool = True,
        named: bool = False,
    ) -> Failures:
        """See to it that rows are in the cache; see `shards.cache.fetch`."""
        return fetch(tar, Source(self.store, self.cache, self.traffic, whole, wait, named), rows, fields)

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
                    with self.cache.room(len(data), needed=True):
                        file.write(data)
            yield path
        finally:
            with contextlib.suppress(FileNotFoundError):
                for path in folder.iterdir():
                    path.unlink()
                folder.rmdir()

    def cached_bytes(self) -> int:
        """Bytes that the cache has of it on the disk."""
        return used_bytes(self.directory)

    def fetch_beside(self) -> None:
        """Fetch what lies beside the shards, such as plans and failures, as it is now."""
        for name in names_beside(self.store, self.manifest):
            with contextlib.suppress(MissingDataError):
                self._publish(name, self.store.get(name))

    def _publish(self, name: str, data: bytes) -> None:
        self._with_room(lambda: publish_bytes(self.directory / name, data))

    def _with_room(self, write: Callable[[], T]) -> T:
        """Write; where the disk is full, once more after others gave way."""
        try:
            return write()
        except OSError:
            self.cache.give_way()
        try:
            return write()
        except OSError as error:
            raise unwritable(self.cache.folder, error) from None
