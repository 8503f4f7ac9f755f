"""Three ways to get bytes of a shard into memory. Each yields the same bytes; they differ in speed.

- `mmap`: for data in the page cache; gathers straight from the mapping, one copy in all.
- `pread`: for any file system; one copy by the kernel.
- `direct`: O_DIRECT, for data beyond memory; the device writes into the batch, no copy and no page cache.

A mapping is touched by `pipeline.read.gather` alone, which survives a page that is not there any more.
"""

from __future__ import annotations

import errno
import mmap
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.batch.slab import anonymous_memory
from pipeline.read.gather import copy_bytes
from shards.format.errors import DamagedShardError, MissingDataError
from shards.format.npy import PAGE_BYTES

Bytes = NDArray[np.uint8]
ReaderName = Literal["mmap", "pread", "direct"]
SECTOR_BYTES = 512
LEAST_MAPPED_BYTES = 64 << 10
NOT_THERE = "a part of the mapped file is not there (SIGBUS): it was cut off, or its storage failed"


class Identity(NamedTuple):
    """What changes when a file is overwritten, cut or replaced."""

    size: int
    inode: int
    modified_ns: int

    @classmethod
    def of(cls, status: os.stat_result, *, grows: bool = False) -> Identity:
        """From what the kernel says of a file; one that grows from within is written to at any time."""
        return cls(status.st_size, status.st_ino, 0 if grows else status.st_mtime_ns)

    def changed(self, now: Identity, path: Path) -> DamagedShardError:
        """The error that says what became of the file."""
        what = "it was written to"
        if now.inode != self.inode:
            what = "another file took its place"
        elif now.size < self.size:
            what = f"it was cut off, from {self.size} to {now.size} bytes"
        problem = f"the file was changed since it was opened: {what}; restore it, and check with `reelshard verify`"
        return DamagedShardError(problem, shard=path.name)


class OpenShard(Protocol):
    """A tar opened by one of the readers; safe to use from several threads."""

    @property
    def path(self) -> Path:
        """The tar."""
        ...

    @property
    def identity(self) -> Identity:
        """Of the file, when it was opened."""
        ...

    @property
    def mapped_at(self) -> int | None:
        """Where the file's first byte is mapped as long as this object lives, or None if it must be read."""
        ...

    def view(self, offset: int, size: int) -> Bytes:
        """Bytes of the file, u8 `[size]`, good until this thread calls again.

        Raises:
            DamagedShardError: the file ends before.
        """
        ...

    def read_into(self, offset: int, out: Bytes) -> None:
        """Fill `out`, u8 contiguous, from `offset` on.

        Raises:
            DamagedShardError: the file ends before.
        """
        ...

    def check_unchanged(self) -> None:
        """Compare the file's size, inode and time of change with those it had when it was opened.

        What was read before this call and after the opening is what was there at the opening: the kernel sets the time
        of change before it changes a byte.

        Raises:
            DamagedShardError: they differ.
            MissingDataError: the file is gone.
        """
        ...


def _missing(path: Path) -> MissingDataError:
    return MissingDataError(f"shard {path} is missing; restore it, or build it again")


def _cut_off(path: Path, offset: int, size: int) -> DamagedShardError:
    problem = f"the file ends before the {size} bytes that should be here; it was cut off"
    return DamagedShardError(problem, shard=path.name, offset=offset)


def open_for_reading(path: Path, flags: int = 0) -> int:
    """A file descriptor.

    Raises:
        MissingDataError: there is no such file.
        ValueError: O_DIRECT was asked for and the file system does not have it.
    """
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | flags)
    except FileNotFoundError:
        raise _missing(path) from None
    except OSError as error:
        if flags and error.errno == errno.EINVAL:
            raise ValueError(f"{path.parent} is on a file system without O_DIRECT: use reader pread or auto") from None
        raise


class Scratch(threading.local):
    """A page-aligned buffer a thread, for bytes that must be picked apart before they reach the batch."""

    def __init__(self) -> None:
        """Start empty."""
        self._memory = np.empty(0, np.uint8)

    def take(self, size: int) -> Bytes:
        """u8 `[size]`, page-aligned; the thread's next call reuses it."""
        if len(self._memory) < size:
            pages = -(-size // PAGE_BYTES) * PAGE_BYTES
            self._memory = np.frombuffer(anonymous_memory(pages), np.uint8)
        return self._memory[:size]


class DescriptorShard:
    """A tar read with `preadv`, through the page cache."""

    flags = 0
    mapped_at: int | None = None

    def __init__(self, path: Path, scratch: Scratch, *, grows: bool = False) -> None:
        """Open the file; one of the cache `grows`: members are written into it while others are read."""
        self.path, self._scratch, self._grows = path, scratch, grows
        self._name = os.fspath(path)
        self._descriptor = open_for_reading(path, self.flags)
        self.identity = Identity.of(os.fstat(self._descriptor), grows=grows)

    def __del__(self, close: Callable[[int], None] = os.close) -> None:  # at the interpreter's end there may be no os
        if hasattr(self, "_descriptor"):
            close(self._descriptor)

    def check_unchanged(self) -> None:
        """Ask by name, so that a file which took this one's place is noticed too."""
        try:
            now = os.stat(self._name)  # noqa: PTH116
        except FileNotFoundError:
            raise _missing(self.path) from None
        if (now.st_size, now.st_ino, 0 if self._grows else now.st_mtime_ns) != self.identity:
            raise self.identity.changed(Identity.of(now, grows=self._grows), self.path)

    def view(self, offset: int, size: int) -> Bytes:
        """Bytes read into this thread's scratch memory."""
        out = self._scratch.take(size)
        self.read_into(offset, out)
        return out

    def read_into(self, offset: int, out: Bytes) -> None:
        """Read into `out`."""
        self._read(offset, out, len(out))

    def _read(self, offset: int, out: Bytes, needed: int) -> None:
        """Read until `needed` bytes of `out` are there; `out` may be longer."""
        done = 0
        while done < needed:
            count = os.preadv(self._descriptor, [out[done:].data], offset + done)
            done += count
            if done < needed and (count == 0 or (self.flags and count % SECTOR_BYTES)):
                raise _cut_off(self.path, offset, needed)


class MappedShard(DescriptorShard):
    """A tar in the page cache: mapped for copies by `gather`; a small read costs less without a mapping."""

    def __init__(self, path: Path, scratch: Scratch, *, grows: bool = False) -> None:
        """Map the whole file."""
        super().__init__(path, scratch, grows=grows)
        try:
            self._map = mmap.mmap(self._descriptor, self.identity.size, access=mmap.ACCESS_READ)
        except ValueError:
            raise DamagedShardError("the file is empty, or was cut off just now", shard=path.name) from None
        self._address: int = np.frombuffer(self._map, np.uint8).ctypes.data
        self.mapped_at = self._address

    def read_into(self, offset: int, out: Bytes) -> None:
        """Copy into `out`."""
        if len(out) < LEAST_MAPPED_BYTES:
            super().read_into(offset, out)
            return
        if offset + len(out) > self.identity.size:
            raise _cut_off(self.path, offset, len(out))
        if not copy_bytes(out, self._address + offset):  # where the file has become shorter since, it says so
            raise DamagedShardError(NOT_THERE, shard=self.path.name, offset=offset)


class DirectShard(DescriptorShard):
    """A tar read past the page cache; what is not page-aligned goes through scratch memory."""

    flags = os.O_DIRECT

    def view(self, offset: int, size: int) -> Bytes:
        """Bytes inside whole pages read into scratch memory."""
        lead = offset % PAGE_BYTES
        pages = -(-(lead + size) // PAGE_BYTES) * PAGE_BYTES
        out = self._scratch.take(pages)
        self._read(offset - lead, out, lead + size)
        return out[lead : lead + size]

    def read_into(self, offset: int, out: Bytes) -> None:
        """Read straight into `out` where it and the bytes lie on page borders."""
        if offset % PAGE_BYTES or len(out) % PAGE_BYTES or out.ctypes.data % PAGE_BYTES:
            np.copyto(out, self.view(offset, len(out)))
        else:
            self._read(offset, out, len(out))
