"""A CPU that plays a GPU with as little haste as the rules allow, so that a wait that is missing is seen anywhere."""

from __future__ import annotations

import mmap
import time
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

POISON = 0xFF  # NaN in every float; in a number of a sample, -1

Bytes = NDArray[np.uint8]


class Twin:
    """Computes at once, as a CPU does, and copies late.

    A copy is made when somebody waits for it and not before, the newest first; until then it reads `POISON`. It takes
    page-locked memory as that is by then, and memory of that kind is poisoned as soon as it is released. What would
    corrupt a batch on a GPU without any sign here is an error: memory that is released while a copy of it may be under
    way, a copy that is freed while kernels may read it, a time read before it is known.
    """

    device: ClassVar[torch.device] = torch.device("cpu")
    travels: ClassVar[bool] = True
    captures_graphs: ClassVar[bool] = True

    def __init__(self, *, has_bf16: bool = True) -> None:
        """Play a card. With bf16, `auto` is f32 nevertheless, so that a run is equal to one on the CPU to the bit."""
        self.name = "a CPU that plays a GPU" + ("" if has_bf16 else " without bf16")
        self.has_bf16 = has_bf16
        self.half = None if has_bf16 else torch.float16
        self._locked: dict[int, mmap.mmap] = {}
        self._marks: list[TwinMark] = []  # those whose sources may not be written over yet
        self._blocks: dict[int, _Block] = {}
        self._faults: list[str] = []
        self._num_stamps = self._num_waited = 0

    def copy(self, tensors: Sequence[Tensor]) -> tuple[list[Tensor], TwinMark]:
        """Begin to copy; memory that is not page-locked is read at once, as the driver does it."""
        self.check()
        mark = TwinMark()
        copies = [self._begin(tensor, mark) for tensor in tensors]
        self._marks = [other for other in self._marks if not other.known]
        self._marks.append(mark)
        return copies, mark

    def _begin(self, tensor: Tensor, mark: TwinMark) -> Tensor:
        source, address = self._bytes_of(tensor)
        memory = np.full(max(source.nbytes, 1), POISON, np.uint8)  # gone with the last tensor that shares it
        self._blocks[memory.ctypes.data] = _Block()
        weakref.finalize(memory, self._freed, memory.ctypes.data)
        mark.copies.append(_Copy(source, address, weakref.ref(memory)))
        return torch.from_numpy(memory[: source.nbytes]).view(tensor.dtype).view(tensor.shape)

    def _bytes_of(self, tensor: Tensor) -> tuple[Bytes, int | None]:
        """The bytes of a tensor and their address, without holding it, where they are page-locked; else a copy."""
        start, size = tensor.data_ptr(), tensor.nbytes
        for address, memory in self._locked.items():
            if tensor.is_contiguous() and address <= start and start + size <= address + len(memory):
                return np.frombuffer(memory, np.uint8)[start - address :][:size], start
        return np.frombuffer(tensor.contiguous().numpy().tobytes(), np.uint8), None

    def wait_for(self, mark: Any) -> None:
        """Copy now: what is computed from now on is computed at once."""
        self.check()
        mark.make()
        for copy in mark.copies:
            if (memory := copy.target()) is not None:
                self._blocks[memory.ctypes.data].used = True

    def keep(self, tensor: Tensor) -> None:
        """Note it."""
        self._blocks[tensor.untyped_storage().data_ptr()].kept = True

    def _freed(self, address: int) -> None:
        block = self._blocks.pop(address)
        if block.used and not block.kept:
            self._faults.append("a copy was freed without `keep`: the next one would be written over what is computed")

    def lock(self, memory: mmap.mmap) -> int:
        """Note it; there are no limits."""
        address = int(np.frombuffer(memory, np.uint8).ctypes.data)
        self._locked[address] = memory
        return address

    def unlock(self, address: int) -> None:
        """Forget it."""
        memory = self._locked.pop(address)
        if self._under_way(address, len(memory)):
            self._faults.append("memory was unlocked while a copy of it was under way")

    def released(self, memory: mmap.mmap) -> None:
        """Poison it.

        Raises:
            RuntimeError: A copy of it may be under way.
        """
        address = next((address for address, locked in self._locked.items() if locked is memory), None)
        if address is None:
            return
        under_way = self._under_way(address, len(memory))
        np.frombuffer(memory, np.uint8)[:] = POISON
        if under_way:
            raise RuntimeError("a slab was released while a copy of it may be under way: nobody asked or waited")

    def _under_way(self, address: int, size: int) -> bool:
        starts = [copy.address for mark in self._marks if not mark.known for copy in mark.copies]
        return any(start is not None and address <= start < address + size for start in starts)

    def stamp(self) -> tuple[int, float]:
        """Number and time."""
        self.check()
        self._num_stamps += 1
        return self._num_stamps, time.perf_counter()

    def synchronize(self) -> None:
        """Make what was begun, and let the times be known."""
        for mark in reversed(self._marks):
            mark.wait()
        self._num_waited = self._num_stamps

    def seconds_between(self, begin: tuple[int, float], end: tuple[int, float]) -> float:
        """As a GPU, refuse before somebody has waited.

        Raises:
            RuntimeError: Nobody has.
        """
        if max(begin[0], end[0]) > self._num_waited:
            raise RuntimeError("the time of a stamp is not known before `synchronize`")
        return end[1] - begin[1]

    def memory(self) -> dict[str, float]:
        """It has none of its own."""
        return {}

    def check(self) -> None:
        """Raise RuntimeError if something was found that would have corrupted a batch on a GPU."""
        if self._faults:
            raise RuntimeError(self._faults.pop(0))


@dataclass
class _Block:
    """Memory that a copy goes to: whether kernels were given it, and whether it is kept until they have run."""

    used: bool = False
    kept: bool = False


@dataclass(frozen=True)
class _Copy:
    """What is copied, its address where it is page-locked, and where it goes."""

    source: Bytes
    address: int | None
    target: weakref.ref[Bytes]


class TwinMark:
    """A point behind some copies.

    Attributes:
        copies: which.
        made: whether they were made.
        known: whether the host knows.
    """

    def __init__(self) -> None:
        self.copies: list[_Copy] = []
        self.made = self.known = False

    def make(self) -> None:
        """Copy, the last first, as the memory is now."""
        if not self.made:
            for copy in reversed(self.copies):
                if (target := copy.target()) is not None:
                    target[: len(copy.source)] = copy.source
        self.made = True

    def done(self) -> bool:
        """Not before somebody has waited."""
        self.known = self.known or self.made
        return self.made

    def wait(self) -> None:
        """Copy."""
        self.make()
        self.known = True
