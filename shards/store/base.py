"""What every store can do."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Protocol

from shards.format.errors import ShardError


class Store(Protocol):
    """A folder of named objects; names are relative, with slashes. Safe to use from several threads.

    All methods raise MissingDataError where an object or its bucket is not there, and ShardError, one line, where the
    store cannot be reached, refuses, or does not do what is asked.
    """

    @property
    def url(self) -> str:
        """Where it is, for people: a URL without secrets, or a path."""
        ...

    def get(self, name: str) -> bytes:
        """All bytes of an object that fits into memory."""
        ...

    def get_ranges(self, name: str, starts: Sequence[int], stops: Sequence[int]) -> list[bytes]:
        """Bytes `starts[i]` to `stops[i]` of an object, a request each, at the same time.

        Raises:
            DamagedShardError: the object ends before.
        """
        ...

    def size(self, name: str) -> int:
        """Bytes of an object."""
        ...

    def list(self, prefix: str = "") -> Iterable[tuple[str, int]]:
        """Name and size of every object whose name begins with the folder `prefix`, those in folders below too.

        Raises:
            ShardError: nothing can be listed over plain HTTP.
        """
        ...

    def put(self, name: str, data: bytes) -> None:
        """Write an object: it appears whole or not at all."""
        ...

    def put_file(self, path: Path, name: str) -> None:
        """Write a local file as an object: it appears whole or not at all, and is compared by size and digest."""
        ...

    def delete(self, name: str) -> None:
        """Remove an object, if it is there."""
        ...


def checked_name(name: str) -> str:
    """A name that stays inside of its store.

    Raises:
        ShardError: it does not.
    """
    path = PurePosixPath(name)
    if not name or path.is_absolute() or ".." in path.parts or not name.isprintable() or "\\" in name:
        raise ShardError(f"{name!r} is no name in a store: names are relative paths with slashes and without '..'")
    return name
