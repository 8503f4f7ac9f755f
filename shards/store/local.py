"""A local folder as a store."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from shards.format.errors import DamagedShardError, MissingDataError, ShardError
from shards.format.files import open_regular, read_small
from shards.format.publish import TEMPORARY_SUFFIX, publish_bytes, publish_file, temporary_path
from shards.store.base import checked_name


class LocalStore:
    """Files below a folder; what has no end yet (`*.tmp`) is not there."""

    def __init__(self, root: Path) -> None:
        """Take the folder, which need not be there before something is put."""
        self.root = root

    @property
    def url(self) -> str:
        """The path."""
        return str(self.root)

    def get(self, name: str) -> bytes:
        """Read a file."""
        try:
            return read_small(self._path(name))
        except FileNotFoundError:
            raise self._missing(name) from None
        except NotADirectoryError:
            raise ShardError(f"{self.root} is a file: a data set is a folder, give one") from None

    def get_ranges(self, name: str, starts: Sequence[int], stops: Sequence[int]) -> list[bytes]:
        """Read parts of a file."""
        found = []
        try:
            with open_regular(self._path(name)) as file:
                for start, stop in zip(starts, stops, strict=True):
                    data = os.pread(file.fileno(), stop - start, start)
                    while len(data) < stop - start and (
                        more := os.pread(file.fileno(), stop - start - len(data), start + len(data))
                    ):
                        data += more
                    found.append(data)
        except FileNotFoundError:
            raise self._missing(name) from None
        for data, start, stop in zip(found, starts, stops, strict=True):
            refuse_short(data, name, start, stop)
        return found

    def size(self, name: str) -> int:
        """Size of a file."""
        try:
            return self._path(name).stat().st_size
        except FileNotFoundError:
            raise self._missing(name) from None

    def list(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        """All files below."""
        top = self._path(prefix) if prefix else self.root
        if not top.is_dir():
            if prefix:
                return
            raise MissingDataError(f"{self.root} is not there, or no folder")
        for folder, folders, names in os.walk(top):
            folders.sort()
            for name in sorted(names):
                path = Path(folder, name)
                if path.is_file() and not name.endswith(TEMPORARY_SUFFIX):
                    yield path.relative_to(self.root).as_posix(), path.stat().st_size

    def put(self, name: str, data: bytes) -> None:
        """Write a file."""
        path = self._path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        publish_bytes(path, data)

    def put_file(self, path: Path, name: str) -> None:
        """Copy a file."""
        target = self._path(name)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = temporary_path(target)
        try:
            with open_regular(path) as source, temporary.open("wb") as file:
                shutil.copyfileobj(source, file, 8 << 20)
                file.flush()
                os.fsync(file.fileno())
                size = os.fstat(source.fileno()).st_size
            if temporary.stat().st_size != size:
                raise ShardError(f"{path} changed while it was copied into {self.root}")
            publish_file(temporary, target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

    def delete(self, name: str) -> None:
        """Remove a file."""
        self._path(name).unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        return self.root / checked_name(name)

    def _missing(self, name: str) -> MissingDataError:
        return MissingDataError(f"{self.root / name} is not there")


def refuse_short(data: bytes, name: str, start: int, stop: int) -> None:
    """Refuse a part of an object that is shorter than was asked for.

    Raises:
        DamagedShardError: it is.
    """
    if len(data) != stop - start:
        problem = f"it ends before byte {stop}: {len(data)} of {stop - start} bytes are there; it was cut off"
        raise DamagedShardError(problem, shard=name, offset=start)
