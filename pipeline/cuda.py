"""A GPU, told by CUDA's calls what `pipeline.accelerator` describes. Nothing else in this project makes these calls."""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from shards.format.errors import ShardError


class Cuda:
    """A GPU."""

    travels: ClassVar[bool] = True
    captures_graphs: ClassVar[bool] = True

    def __init__(self, device: torch.device) -> None:
        self.device, self.name = device, torch.cuda.get_device_name(device)
        with torch.cuda.device(device):
            self.has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        self.half: torch.dtype | None = torch.bfloat16 if self.has_bf16 else torch.float16
        # One for the life of the process: the allocator keeps memory by stream, and that of a stream that nobody uses
        # any more is lost to all others.
        self._copying = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def copy(self, tensors: Sequence[Tensor]) -> tuple[list[Tensor], CudaMark]:
        """On the copying stream, behind what is there already."""
        with torch.cuda.stream(self._copying):
            copies = [tensor.to(self.device, non_blocking=True) for tensor in tensors]
            mark = CudaMark()
            mark.event.record(self._copying)
        return copies, mark

    def wait_for(self, mark: Any) -> None:
        """The current stream waits."""
        torch.cuda.current_stream(self.device).wait_event(mark.event)

    def keep(self, tensor: Tensor) -> None:
        """Of the current stream; the allocator asks when the last tensor is gone."""
        tensor.record_stream(torch.cuda.current_stream(self.device))

    def lock(self, memory: mmap.mmap) -> int:
        """By `cudaHostRegister`.

        Raises:
            ShardError: It says no.
        """
        address = np.frombuffer(memory, np.uint8).ctypes.data
        cudart = torch.cuda.cudart()  # type: ignore[no-untyped-call]
        error = cudart.cudaHostRegister(address, len(memory), 0)
        if int(error) != 0:
            raise ShardError(
                f"cudaHostRegister could not page-lock {len(memory)} bytes (error {int(error)}): raise the "
                "limit `ulimit -l`, use fewer slabs, or set pin_memory to false"
            )
        return address

    def unlock(self, address: int) -> None:
        """By `cudaHostUnregister`."""
        torch.cuda.cudart().cudaHostUnregister(address)  # type: ignore[no-untyped-call]

    def released(self, memory: mmap.mmap) -> None:
        """Nothing to do: whoever released it has asked whether copies are over."""
        del memory

    def stamp(self) -> torch.cuda.Event:
        """An event on the current stream."""
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self.device))
        return event

    def synchronize(self) -> None:
        """All streams of the GPU."""
        torch.cuda.synchronize(self.device)

    def seconds_between(self, begin: torch.cuda.Event, end: torch.cuda.Event) -> float:
        """As the GPU has measured."""
        milliseconds: float = begin.elapsed_time(end)
        return milliseconds / 1000

    def memory(self) -> dict[str, float]:
        """What tensors took, and what the allocator had taken for them."""
        return {
            "gpu_memory_gib": torch.cuda.max_memory_allocated(self.device) / 2**30,
            "gpu_reserved_gib": torch.cuda.max_memory_reserved(self.device) / 2**30,
        }


class CudaMark:
    """An event on the copying stream; who waits for it sleeps, and leaves the core to the readers."""

    def __init__(self) -> None:
        self.event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]

    def done(self) -> bool:
        """Whether the GPU has come past it."""
        return bool(self.event.query())  # type: ignore[no-untyped-call]

    def wait(self) -> None:
        """Sleep until it has."""
        self.event.synchronize()
