"""The ceilings: what storage and memory give a loop that does nothing else."""

from __future__ import annotations

import mmap
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter

import numpy as np

from pipeline.auto import supports_direct
from pipeline.gather import COMPILED, gather

BLOCK_BYTES = 4 << 20


def drop_cache(paths: Sequence[Path]) -> None:
    """Make the kernel forget the cached pages of files; needs no privilege, but the files must not be mapped."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def in_threads(count: int, work: Callable[[int], None]) -> float:
    """Run `work(0) ... work(count - 1)` at the same time; seconds until all are done."""
    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    began = perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return perf_counter() - began


def read_rate(paths: Sequence[Path], threads: int, direct: bool) -> float:
    """Bytes per second of reading whole files in blocks of 4 MiB, `threads` files at a time, from a cold cache."""
    drop_cache(paths)
    flags = os.O_RDONLY | (os.O_DIRECT if direct else 0)

    def work(number: int) -> None:
        buffer = mmap.mmap(-1, BLOCK_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        for path in paths[number::threads]:
            descriptor = os.open(path, flags)
            try:
                offset = 0
                while count := os.preadv(descriptor, [buffer], offset):
                    offset += count
                    if count % mmap.PAGESIZE:
                        break
            finally:
                os.close(descriptor)

    seconds = in_threads(threads, work)
    return sum(path.stat().st_size for path in paths) / seconds


def best_read_rate(paths: Sequence[Path]) -> tuple[float, str]:
    """The best of some ways to read the files raw: bytes per second, and which way."""
    ways = [(threads, direct) for threads in (1, 2, 4, 8) for direct in (False, True)]
    if not supports_direct(paths[0]):
        ways = [way for way in ways if not way[1]]
    rates = {way: read_rate(paths, *way) for way in ways}
    threads, direct = max(rates, key=lambda way: rates[way])
    return rates[threads, direct], f"{'O_DIRECT' if direct else 'buffered'}, {threads} at a time"


def copy_rate(threads: int, megabytes: int = 256) -> float:
    """Bytes per second that `threads` threads copy from memory to memory, beyond the caches; the best of some tries."""
    sources = [np.ones(megabytes << 20, np.uint8) for _ in range(threads)]
    sinks = [np.ones(megabytes << 20, np.uint8) for _ in range(threads)]

    def with_numpy(number: int) -> None:
        np.copyto(sinks[number], sources[number])

    def compiled(number: int) -> None:
        gather(sinks[number].reshape(1, 1, -1), np.array([sources[number].ctypes.data], np.uint64), None, 1)

    ways = [with_numpy, compiled] if COMPILED else [with_numpy]
    seconds = min(in_threads(threads, way) for _ in range(5) for way in ways)
    return threads * (megabytes << 20) / seconds
