"""Batches live in slabs: page-aligned blocks of memory that are filled by reader threads and used again and again.

Rule of the ring: it has `num_slabs` slabs. A slab comes back when the last tensor of its batch is gone, and not before,
so a batch is never overwritten under its user. Reading ahead waits for a slab to come back; only a consumer that asks
for a batch while it holds all slabs itself makes the ring grow, and slabs beyond `num_slabs` are freed on return.
"""

from __future__ import annotations

import contextlib
import math
import mmap
import weakref
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.accelerator import Accelerator
from shards.format.errors import ShardError

PAGE_BYTES = 4096
Arrays = dict[str, tuple[str, tuple[int, ...]]]  # name -> dtype and shape


@dataclass(frozen=True)
class Region:
    """One dense array of a batch inside its slab; `shape` includes the batch dimension."""

    offset: int
    dtype: str
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        """Bytes of the array."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


class SlabLayout:
    """Where each array of a batch lies. Every region starts on a page."""

    def __init__(self, arrays: Iterable[tuple[str, tuple[str, tuple[int, ...]]]]) -> None:
        """Lay out names with dtype and shape one after the other."""
        self.regions: dict[str, Region] = {}
        self.num_bytes = 0
        for name, (dtype, shape) in arrays:
            region = Region(self.num_bytes, dtype, shape)
            self.regions[name] = region
            self.num_bytes += -(-region.num_bytes // PAGE_BYTES) * PAGE_BYTES

    def views(self, memory: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        """The arrays in a slab's memory, u8 `[num_bytes]`; no copy."""
        return {
            name: memory[region.offset : region.offset + region.num_bytes].view(region.dtype).reshape(region.shape)
            for name, region in self.regions.items()
        }


@lru_cache(maxsize=64)  # batches of fixed arrays have one layout, or two
def lay_out(arrays: tuple[tuple[str, tuple[str, tuple[int, ...]]], ...]) -> SlabLayout:
    """The layout of these arrays."""
    return SlabLayout(arrays)


def anonymous_memory(num_bytes: int) -> mmap.mmap:
    """Private zeroed memory of at least `num_bytes` (and one page), page-aligned, in huge pages where there are any.

    Raises:
        ShardError: the machine does not give so much.
    """
    try:
        memory = mmap.mmap(-1, max(num_bytes, PAGE_BYTES), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except (OSError, OverflowError):
        raise ShardError(
            f"a batch needs {num_bytes:,} bytes, which this machine does not give: use smaller batches or a length "
            "budget; if no sample is so long, `reelshard verify` finds the sidecar that says so"
        ) from None
    with contextlib.suppress(OSError):  # a kernel without huge pages
        memory.madvise(mmap.MADV_HUGEPAGE)
    return memory


class Slab:
    """A page-aligned private block of memory, page-locked for a GPU where there is one."""

    def __init__(self, num_bytes: int, accelerator: Accelerator | None = None) -> None:
        """Allocate; pages are touched when they are first written, or page-locked for the `accelerator`.

        Raises:
            ShardError: the machine does not give so much, or it cannot be page-locked.
        """
        self.memory = anonymous_memory(num_bytes)
        if accelerator is not None:
            weakref.finalize(self, accelerator.unlock, accelerator.lock(self.memory))


class SlabRing:
    """Hands out slabs and takes them back. Taking is for one thread; slabs may come back from any."""

    def __init__(self, num_slabs: int, accelerator: Accelerator | None = None) -> None:
        """Prepare a ring of `num_slabs` slabs, allocated when first needed, and page-locked for an `accelerator`."""
        self._num_slabs, self._accelerator = num_slabs, accelerator
        self.num_bytes = 0  # of a slab: as many as the largest batch needed, or more
        self._free: deque[Slab] = deque()
        self._returned: deque[Slab] = deque()
        self._leases: dict[int, weakref.ref[NDArray[np.uint8]]] = {}
        self.num_allocated = 0

    def take(self, num_bytes: int, grow: bool) -> NDArray[np.uint8] | None:
        """A slab's memory, u8 of at least `num_bytes`, or None if all are in use and `grow` is false.

        A slab that is too small makes way for a larger one. It comes back by itself when the returned array and
        everything that shares its memory are gone.
        """
        self._collect()
        if num_bytes > self.num_bytes:
            self.num_bytes = max(num_bytes, self.num_bytes * 5 // 4)  # not one by one where they rise slowly
        slab = self._free.pop() if self._free else None
        if slab is not None and len(slab.memory) < num_bytes:
            slab, self.num_allocated = None, self.num_allocated - 1
        if slab is None:
            if self.num_allocated >= self._num_slabs and not grow:
                return None
            slab = Slab(self.num_bytes, self._accelerator)
            self.num_allocated += 1
        lease = np.frombuffer(slab.memory, np.uint8)
        returned = self._returned
        # The callback can run inside any allocation of any thread, so it may not take a lock: deque.append does not.
        self._leases[id(slab)] = weakref.ref(lease, lambda _: returned.append(slab))
        return lease

    def _collect(self) -> None:
        while self._returned:
            slab = self._returned.popleft()
            del self._leases[id(slab)]
            if self._accelerator is not None:
                self._accelerator.released(slab.memory)
            if self.num_allocated > self._num_slabs:
                self.num_allocated -= 1
            else:
                self._free.append(slab)
