"""A tar in the cache: a sparse file of the tar's size, and beside it a byte for each member that is there.

A member's byte is set after its data was compared with the sidecar's checksum and written, so a process that is killed
leaves members that are there, or not. What a machine that lost power has not written to its disk is found by comparing
all members again, once, after the machine was started anew.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import threading
import time
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import xxhash
from numpy.typing import NDArray

from shards.cache.locks import lock, try_lock, unlock
from shards.format.index import ShardIndex
from shards.format.tar import BLOCK_BYTES

HAVE_SUFFIX = ".have"
PAYLOAD, NAMED = 1, 2  # what a member's byte says was compared: its payload; its name and its other headers, too
HEADER_BYTES = 64
CHUNK_BYTES = 8 << 20
HOLD, SETUP, CLAIMS = 1 << 40, (1 << 40) + 1, 1 << 41  # bytes that are locked, beyond any that are there
USED_SECONDS = 10.0  # between two notes of when a tar was used last


def have_path(tar: Path) -> Path:
    """The file that says which members of a cached tar are there."""
    return tar.with_suffix(HAVE_SUFFIX)


class CachedTar:
    """Belongs to one process; safe to use from its threads.

    Attributes:
        index: the sidecar.
        path: the sparse tar.
        chunks: i64 `[num_samples]`, to which piece of about 8 MiB each row belongs: what one process fetches at a time.
    """

    def __init__(self, path: Path, index: ShardIndex) -> None:
        """Open it, or make it with no member in it.

        Raises:
            OSError: the cache cannot be written.
        """
        self.path, self.index = path, index
        self.fields = {field.name: number for number, field in enumerate(index.schema)}
        sizes = np.sum([extents.sizes for extents in index.extents.values()], axis=0).astype(np.int64)
        self.chunks: NDArray[np.int64] = (np.cumsum(sizes) - sizes) // CHUNK_BYTES
        self._mutex = threading.Lock()
        self._holds, self._used = 0, 0.0
        self._claimed: set[int] = set()
        self._have = os.open(have_path(path), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._data = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._set_up()
        self._map = mmap.mmap(self._have, 0, access=mmap.ACCESS_READ)
        flags = np.frombuffer(self._map, np.uint8)[HEADER_BYTES:]
        self.flags: NDArray[np.uint8] = flags.reshape(len(self.fields), len(index))

    @cached_property
    def heads(self) -> dict[str, NDArray[np.int64]]:
        """Of each field, i64 `[num_samples]`: where the headers in front of each payload begin."""
        return heads_of(self.index)

    def __del__(self) -> None:
        for name in ("_have", "_data"):
            if name in self.__dict__:
                os.close(self.__dict__[name])

    def _set_up(self) -> None:
        """Make both files what they have to be; whoever comes first does it."""
        header = f"reelshard 1 {boot_id()}\n".encode().ljust(HEADER_BYTES, b"\0")
        lock(self._have, SETUP)
        try:
            found = os.pread(self._have, HEADER_BYTES, 0)
            size = HEADER_BYTES + len(self.fields) * len(self.index)
            whole = os.fstat(self._have).st_size == size and os.fstat(self._data).st_size == self.index.info.num_bytes
            if found == header and whole:
                return
            if whole and found[:12] == header[:12]:
                self._recheck()
            else:
                if os.fstat(self._have).st_size != size:  # else it may be mapped, and must not shrink
                    os.ftruncate(self._have, 0)
                write_at(self._have, bytes(size), 0)
                os.ftruncate(self._data, self.index.info.num_bytes)
            write_at(self._have, header, 0)
        finally:
            unlock(self._have, SETUP)

    def _recheck(self) -> None:
        """Forget members that the machine lost when it went down."""
        count = len(self.index)
        for name, number in self.fields.items():
            flags = bytearray(os.pread(self._have, count, HEADER_BYTES + number * count))
            extents = self.index.extents[name]
            for row in np.flatnonzero(np.frombuffer(bytes(flags), np.uint8)).tolist():
                data = os.pread(self._data, int(extents.sizes[row]), int(extents.offsets[row]))
                if xxhash.xxh3_64_intdigest(data) != int(extents.checksums[row]):
                    flags[row] = 0
            write_at(self._have, bytes(flags), HEADER_BYTES + number * count)

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        """Keep what is there, and what comes, while the block runs: no tar is evicted that anybody holds."""
        self.acquire()
        try:
            yield
        finally:
            self.release()

    def acquire(self) -> None:
        """Begin to hold."""
        with self._mutex:
            if not self._holds:
                lock(self._have, HOLD, shared=True)
                if os.fstat(self._data).st_size != self.index.info.num_bytes:  # whoever evicted it was killed
                    self._set_up()
            self._holds += 1
            if (now := time.monotonic()) > self._used + USED_SECONDS:
                os.utime(self._have)
                self._used = now

    def release(self) -> None:
        """End a hold."""
        with self._mutex:
            self._holds -= 1
            if not self._holds:
                unlock(self._have, HOLD)

    def num_bytes(self, rows: NDArray[np.int64], fields: Sequence[str]) -> int:
        """Bytes of these fields of some rows."""
        return sum(int(self.index.extents[field].sizes[rows].sum()) for field in fields)

    def lacks(self, rows: NDArray[np.int64], fields: Sequence[str], compared: int = PAYLOAD) -> NDArray[np.bool_]:
        """Which rows are not there with all of these fields, compared so far at least; bool like `rows`."""
        lacking: NDArray[np.bool_] = np.zeros(len(rows), np.bool_)
        for field in fields:
            lacking |= self.flags[self.fields[field]].take(rows) < compared  # faster than by two indices at once
        return lacking

    def try_claim(self, chunk: int) -> bool:
        """Become the one who fetches a chunk, among all threads of all processes."""
        with self._mutex:
            if chunk in self._claimed or not try_lock(self._have, CLAIMS + chunk):
                return False
            self._claimed.add(chunk)
            return True

    def give_up(self, chunk: int) -> None:
        """End a claim."""
        with self._mutex:
            self._claimed.discard(chunk)
            unlock(self._have, CLAIMS + chunk)

    def write(self, data: bytes | memoryview, offset: int) -> None:
        """Write a part of the tar.

        Raises:
            OSError: the disk is full, or fails.
        """
        write_at(self._data, data, offset)

    def set_present(self, number: int, row: int, compared: int) -> None:
        """Say that a member is there, and what of it was compared."""
        write_at(self._have, bytes((compared,)), HEADER_BYTES + number * len(self.index) + row)


def heads_of(index: ShardIndex) -> dict[str, NDArray[np.int64]]:
    """Where the headers in front of each payload begin: behind the payload before it, whosever that is."""
    names = list(index.extents)
    starts, sizes = (
        np.stack([np.asarray(getattr(index.extents[name], what), np.int64) for name in names])
        for what in ("offsets", "sizes")
    )
    order = np.argsort(starts, axis=None, kind="stable")
    ends = (starts + sizes).ravel()[order]
    heads = np.zeros(starts.size, np.int64)
    heads[order[1:]] = (ends + -ends % BLOCK_BYTES)[:-1]
    return dict(zip(names, heads.reshape(starts.shape), strict=True))


def evict(tar: Path) -> bool:
    """Empty a cached tar, unless somebody holds it; returns whether that was done.

    The files stay, so that those who have it open need not open it anew: its members are not there any more.
    """
    try:
        have = os.open(have_path(tar), os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        if not try_lock(have, HOLD):
            return False
        size = tar.stat().st_size
        write_at(have, bytes(max(0, os.fstat(have).st_size - HEADER_BYTES)), HEADER_BYTES)
        os.truncate(tar, 0)
        os.truncate(tar, size)
        return True
    except FileNotFoundError:
        return False
    finally:
        os.close(have)


def write_at(descriptor: int, data: bytes | memoryview, offset: int) -> None:
    """Write all of it."""
    rest = memoryview(data)
    while rest:
        done = os.pwrite(descriptor, rest, offset)
        rest, offset = rest[done:], offset + done


def boot_id() -> str:
    """What is another one each time the machine is started; "unknown" where the kernel does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return "unknown"
