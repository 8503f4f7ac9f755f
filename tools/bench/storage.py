"""The ceiling of storage: what it gives a loop that does nothing else."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter

from pipeline.read.auto import supports_direct
from shards.threads import thread_pool

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
    began = perf_counter()
    with thread_pool(count) as pool:
        list(pool.map(work, range(count)))
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
