"""Every stream, event and page-lock call there is: what copies batches to a device, waits for it and times it.

Three classes have the same few methods, each a call of the device's driver and nothing more, so that who waits for what
is written once, by their users:

    Host    a CPU: batches stay where they are
    Cuda    a GPU: copies run beside the kernels, on a stream of their own (`pipeline.cuda`)
    Twin    a CPU that plays a GPU, as late as one may be (`pipeline.twin`): missing waits are seen anywhere
"""

from __future__ import annotations

import functools
import mmap
import time
from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from pipeline.cuda import Cuda
from pipeline.twin import Twin
from shards.format.errors import ShardError

TWINS = {"twin": True, "twin:fp16": False}  # name -> whether the card that is played has bf16
Stamp = Any  # a point in the work of a device, as its accelerator knows it


class Mark(Protocol):
    """A point behind some copies."""

    def done(self) -> bool:
        """Whether they are over, so that what they were taken from may be written over; does not wait."""
        ...

    def wait(self) -> None:
        """Wait until they are over, asleep."""
        ...


class Accelerator(Protocol):
    """A device and what it is told beside its arithmetic."""

    @property
    def device(self) -> torch.device:
        """Where tensors lie."""
        ...

    @property
    def name(self) -> str:
        """For people."""
        ...

    @property
    def travels(self) -> bool:
        """Whether batches are copied to it. Where they are, slabs are page-locked unless the user forbids it."""
        ...

    @property
    def has_bf16(self) -> bool:
        """Whether it computes in bf16."""
        ...

    @property
    def half(self) -> torch.dtype | None:
        """The dtype that the precision `auto` takes; None for f32."""
        ...

    @property
    def captures_graphs(self) -> bool:
        """Whether some modes of `torch.compile` replay kernels in memory that stays the same (CUDA graphs)."""
        ...

    def copy(self, tensors: Sequence[Tensor]) -> tuple[list[Tensor], Mark]:
        """Begin to copy tensors of the host; the copies are not to be read before `wait_for`."""
        ...

    def wait_for(self, mark: Mark) -> None:
        """Let the device do what it is given from now on after `mark`. The host does not wait."""
        ...

    def keep(self, tensor: Tensor) -> None:
        """Keep the memory of a copy, once nobody holds it any more, until the device has done what it was given."""
        ...

    def lock(self, memory: mmap.mmap) -> int:
        """Page-lock memory, so that copies of it run beside all else; its address, for `unlock`.

        Raises:
            ShardError: It cannot be.
        """
        ...

    def unlock(self, address: int) -> None:
        """Undo `lock`."""
        ...

    def released(self, memory: mmap.mmap) -> None:
        """Hear that nobody holds a batch in this memory any more, and that it will be written over."""
        ...

    def stamp(self) -> Stamp:
        """Mark the point behind what the device was given until now."""
        ...

    def synchronize(self) -> None:
        """Wait until the device has done all that it was given."""
        ...

    def seconds_between(self, begin: Stamp, end: Stamp) -> float:
        """Time between two stamps, behind both of which somebody has waited (`synchronize`)."""
        ...

    def memory(self) -> dict[str, float]:
        """GiB at most so far, by the name of the metric; nothing where it is not the device's own."""
        ...


class Over:
    """The mark of copies that were over at once."""

    def done(self) -> bool:
        """They are."""
        return True

    def wait(self) -> None:
        """There is nothing to wait for."""


class Host:
    """A CPU, or another device that is given tensors where they are."""

    name: str
    travels: ClassVar[bool] = False
    has_bf16: ClassVar[bool] = True  # in software where it is not in the hardware
    half: ClassVar[torch.dtype | None] = None
    captures_graphs: ClassVar[bool] = False

    def __init__(self, device: torch.device) -> None:
        self.device, self.name = device, str(device)

    def copy(self, tensors: Sequence[Tensor]) -> tuple[list[Tensor], Mark]:
        """Tensors on the device; those of a CPU are the same ones."""
        return [tensor.to(self.device) for tensor in tensors], Over()

    def wait_for(self, mark: Mark) -> None:
        """There is nothing to wait for."""
        mark.wait()

    def keep(self, tensor: Tensor) -> None:
        """Memory is free when nobody holds it."""
        del tensor

    def lock(self, memory: mmap.mmap) -> int:
        """Refuse: nobody copies from there.

        Raises:
            ShardError: Always.
        """
        raise ShardError(f"{self.name} is no GPU to page-lock {len(memory)} bytes for")

    def unlock(self, address: int) -> None:
        """Nothing was locked."""
        del address

    def released(self, memory: mmap.mmap) -> None:
        """Nobody reads it."""
        del memory

    def stamp(self) -> Stamp:
        """The time."""
        return time.perf_counter()

    def synchronize(self) -> None:
        """There is nothing to wait for: operations are over when they return."""

    def seconds_between(self, begin: Stamp, end: Stamp) -> float:
        """Their difference."""
        seconds: float = end - begin
        return seconds

    def memory(self) -> dict[str, float]:
        """Nothing: it is that of the machine."""
        return {}


def accelerator_of(device: torch.device | str | Accelerator) -> Accelerator:
    """The accelerator of a device, the same one every time: a torch device or its name, or one of `TWINS`.

    Raises:
        RuntimeError: torch knows no such device.
    """
    if not isinstance(device, torch.device | str):
        return device
    if isinstance(device, str) and device in TWINS:
        return _twin(device)
    device = torch.device(device)
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", torch.cuda.current_device())
    return _of(device)


@functools.cache
def _of(device: torch.device) -> Accelerator:
    return Cuda(device) if device.type == "cuda" else Host(device)


@functools.cache
def _twin(name: str) -> Accelerator:
    return Twin(has_bf16=TWINS[name])
