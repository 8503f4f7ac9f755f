"""Three ways to get bytes of a shard into memory. Each yields the same bytes; they differ in speed.

- `mmap`: for data in the page cache; gathers straight from the mapping, one copy in all.
- `pread`: for any file system; one copy by the kernel.
- `direct`: O_DIRECT, for data beyond memory; the device writes into the batch, no copy and no page cache.
"""

from __future__ import annotations

import errno
import mmap
import os
import resource
import threading
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.slab import anonymous_memory
from shards.errors import DamagedShardError, MissingDataError
from shards.npy import PAGE_BYTES

Bytes = NDArray[np.uint8]
ReaderName = Literal["mmap", "pread", "direct"]
MAX_OPEN_FILES = 4096
SECTOR_BYTES = 512


class OpenShard(Protocol):
    """A tar opened by one of the readers; safe to use from several threads."""

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

    def address(self, offset: int, size: int) -> int | None:
        """Where these bytes of the file are in memory as long as this object lives, or None if they must be read.

        Raises:
            DamagedShardError: the file ends before.
        """
        ...


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
        raise MissingDataError(f"shard {path} is missing; restore it, or build it again") from None
    except OSError as error:
        if flags and error.errno == errno.EINVAL:
            raise ValueError(f"{path.parent} is on a file system without O_DIRECT: use reader pread or auto") from None
        raise


class MappedShard:
    """A memory-mapped tar."""

    def __init__(self, path: Path) -> None:
        """Map the whole file."""
        self._path = path
        descriptor = open_for_reading(path)
        try:
            self._map = mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
        except ValueError:
            raise DamagedShardError("the file is empty", shard=path.name) from None
        finally:
            os.close(descriptor)
        self._bytes = np.frombuffer(self._map, np.uint8)
        self._address: int = self._bytes.ctypes.data

    def view(self, offset: int, size: int) -> Bytes:
        """A view of the mapping: nothing is copied."""
        self._check_end(offset, size)
        return self._bytes[offset : offset + size]

    def address(self, offset: int, size: int) -> int:
        """Inside the mapping."""
        self._check_end(offset, size)
        return self._address + offset

    def _check_end(self, offset: int, size: int) -> None:
        # A page beyond the end of a file that became shorter is SIGBUS, so ask for its size now.
        if offset + size > self._map.size():
            raise _cut_off(self._path, offset, size)

    def read_into(self, offset: int, out: Bytes) -> None:
        """Copy from the mapping."""
        np.copyto(out, self.view(offset, len(out)))


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

    def __init__(self, path: Path, scratch: Scratch) -> None:
        """Open the file."""
        self._path, self._scratch = path, scratch
        self._descriptor = open_for_reading(path, self.flags)

    def __del__(self) -> None:
        if hasattr(self, "_descriptor"):
            os.close(self._descriptor)

    def address(self, offset: int, size: int) -> None:
        """Not in memory."""

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
                raise _cut_off(self._path, offset, needed)


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


class ShardFiles:
    """Open shards of one reader, at most so many at a time; those opened first are closed first."""

    def __init__(self, reader: ReaderName) -> None:
        """Raise this process's limit of open files as far as it may be, and stay well below it."""
        self.reader = reader
        self._scratch = Scratch()
        self._open: dict[Path, OpenShard] = {}
        self._lock = threading.Lock()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = 2 * MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, 2 * MAX_OPEN_FILES)
        if soft != resource.RLIM_INFINITY and soft < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
        self.limit = MAX_OPEN_FILES if soft == resource.RLIM_INFINITY else min(MAX_OPEN_FILES, soft // 2)

    def get(self, path: Path) -> OpenShard:
        """The shard at `path`, opened if it is not."""
        shard = self._open.get(path)
        if shard is None:
            with self._lock:
                shard = self._open.get(path)
                if shard is None:
                    while len(self._open) >= self.limit:
                        del self._open[next(iter(self._open))]
                    shard = self._open[path] = self._open_shard(path)
        return shard

    def _open_shard(self, path: Path) -> OpenShard:
        if self.reader == "mmap":
            return MappedShard(path)
        return (DirectShard if self.reader == "direct" else DescriptorShard)(path, self._scratch)

    def close(self) -> None:
        """Forget all open shards; each is closed when its last user is done."""
        with self._lock:
            self._open.clear()
