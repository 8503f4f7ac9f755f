"""Batches on the device: copied from the slab at once, normalised there. Host code never makes float pixels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from pipeline.batch.batch import Batch
from pipeline.source import BatchSource
from pipeline.stats import LoaderStats

PixelStatistics = tuple[tuple[float, ...], tuple[float, ...]]


@dataclass(frozen=True)
class _Travelling:
    """A batch whose copy to the device was started, and the loader's position behind it."""

    source: Batch
    batch: Batch
    event: torch.cuda.Event
    state: dict[str, Any] | None


class DeviceLoader:
    """Wraps any source of batches: the same ones, on `device`, with the u8 pixel fields that are in them normalised.

    On a GPU the slab of the next batch travels on a stream of its own while the current one is computed on: two batches
    in flight. On a CPU batches pass through and only the normalisation is done.
    """

    def __init__(
        self,
        loader: BatchSource,
        device: torch.device | str,
        dtype: torch.dtype = torch.float32,
        normalize: Mapping[str, PixelStatistics] | None = None,
    ) -> None:
        """Prepare.

        Args:
            loader: where batches come from.
            device: where they go.
            dtype: of normalised pixels.
            normalize: field -> (mean, std) per channel (last axis) of pixels scaled to [0, 1]; a batch may
                lack the field.
        """
        self.loader = loader
        self.device = torch.device(device)
        self._dtype = dtype
        self._state: dict[str, Any] | None = None  # on a GPU the loader is one batch ahead of the consumer
        self._scale: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        for name, (mean, std) in (normalize or {}).items():
            scale = 1 / (255 * torch.tensor(std, device=self.device))
            shift = -torch.tensor(mean, device=self.device) / torch.tensor(std, device=self.device)
            self._scale[name] = (scale, shift)

    def __len__(self) -> int:
        """Batches in an epoch."""
        return len(self.loader)

    def num_batches(self, epoch: int) -> int:
        """Batches in any epoch."""
        return self.loader.num_batches(epoch)

    def stats(self) -> LoaderStats:
        """What the loader has done so far, and where the time went."""
        return self.loader.stats()

    @property
    def epoch(self) -> int:
        """The epoch of the next batch."""
        return self.loader.epoch

    def __iter__(self) -> Iterator[Batch]:
        """The rest of the current epoch, on the device."""
        if self.device.type != "cuda":
            yield from map(self._normalised, self.loader)  # no name holds the batch here
            return
        self._state = self._position()
        stream = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        ahead: _Travelling | None = None
        for batch in self.loader:
            travelling = self._send(batch, stream)
            if ahead is not None:
                yield self._arrived(ahead)
            ahead = travelling
        if ahead is not None:
            yield self._arrived(ahead)

    def _send(self, batch: Batch, stream: torch.cuda.Stream) -> _Travelling:
        with torch.cuda.stream(stream):
            tensors = to_device(batch, self.device)
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record(stream)
        return _Travelling(batch, batch.replace(tensors), event, self._position())

    def _position(self) -> dict[str, Any] | None:
        """The loader's; None for a stream, which has none and says so when it is asked for."""
        try:
            return self.loader.state_dict()
        except ValueError:
            return None

    def _arrived(self, travelling: _Travelling) -> Batch:
        travelling.event.synchronize()  # until then the slab is being read; it goes back to the ring with its tensors
        travelling.source.clear()
        travelling.source.memory = None
        current = torch.cuda.current_stream(self.device)
        for tensor in travelling.batch.values():
            if tensor.is_cuda:
                tensor.record_stream(current)
        self._state = travelling.state
        return self._normalised(travelling.batch)

    def _normalised(self, batch: Batch) -> Batch:
        tensors = dict(batch)
        for name, (scale, shift) in self._scale.items():
            if name in tensors:
                tensors[name] = torch.addcmul(shift, tensors[name].to(torch.float32), scale).to(self._dtype)
        return batch.replace(tensors)

    def state_dict(self) -> dict[str, Any]:
        """The position of the next batch the consumer will get."""
        return self._state or self.loader.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to a position; see `BatchSource.load_state_dict`."""
        self.loader.load_state_dict(state)
        self._state = None

    def close(self) -> None:
        """Close the loader."""
        self.loader.close()


def to_device(batch: Batch, device: torch.device) -> dict[str, torch.Tensor]:
    """The tensors of a batch on a device: one copy for all that lies in the slab, and one for each tensor beside it."""
    tensors: dict[str, torch.Tensor] = {}
    if batch.memory is not None and batch.layout is not None:
        memory = batch.memory.to(device, non_blocking=True)
        for name, region in batch.layout.regions.items():
            part = memory[region.offset : region.offset + region.num_bytes]
            tensors[name] = part.view(batch[name].dtype).view(region.shape)
    for name, tensor in batch.items():
        if name not in tensors:
            tensors[name] = tensor.to(device, non_blocking=True)
    return tensors
