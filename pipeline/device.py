"""Batches on the device: copied from the slab at once, normalised there. Host code never makes float pixels."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Generator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pipeline.accelerator import Accelerator, Mark, accelerator_of
from pipeline.batch.batch import Batch
from pipeline.convert import Converter, PixelStatistics
from pipeline.source import BatchSource, LeavesCoded
from pipeline.stats import LoaderStats

MOST_UNDER_WAY = 2  # batches on their way to the device, whose slabs nobody can fill meanwhile


@dataclass(frozen=True)
class _Travelling:
    """A batch whose copy to the device was started, and the loader's position behind it."""

    batch: Batch
    copies: list[Tensor]
    mark: Mark
    state: dict[str, Any] | None


class DeviceLoader:
    """Wraps any source of batches: the same ones, on a device, with the u8 pixel fields that are in them normalised.

    On a GPU a batch is copied beside the arithmetic on the one before, as soon as it was read: it is handed over when
    it is there, and the device, not the host, waits for the rest of its copy. Its slab goes back to the readers as soon
    as the copy is over. What codecs have stored is copied as it is and decoded there. On a CPU batches pass through and
    only the normalisation is done.
    """

    def __init__(
        self,
        loader: BatchSource,
        device: torch.device | str | Accelerator,
        dtype: torch.dtype = torch.float32,
        normalize: Mapping[str, PixelStatistics] | None = None,
        *,
        compiled: bool = False,
    ) -> None:
        """Prepare.

        Args:
            loader: where batches come from.
            device: where they go; see `accelerator_of`.
            dtype: of normalised pixels.
            normalize: field -> (mean, std) per channel (last axis) of pixels scaled to [0, 1]; a batch may
                lack the field.
            compiled: whether `torch.compile` makes one kernel of what is done to a field; see `Converter`.
        """
        self.loader = loader
        self.accelerator = accelerator_of(device)
        self.device = self.accelerator.device
        if self.accelerator.travels and isinstance(loader, LeavesCoded):
            loader.leave_coded()
        self._state: dict[str, Any] | None = None  # on a GPU the loader may be one batch ahead of the consumer
        self._ahead: deque[_Travelling] = deque()  # started, and not handed over
        self._lent: deque[tuple[Batch, Mark]] = deque()  # what they are copied from
        self._convert = Converter(self.device, dtype, normalize or {}, compiled=compiled)

    def __len__(self) -> int:
        """Batches in an epoch."""
        return len(self.loader)

    def num_batches(self, epoch: int) -> int:
        """Batches in any epoch."""
        return self.loader.num_batches(epoch)

    def stats(self) -> LoaderStats:
        """What the loader has done so far, and where the time went."""
        return self.loader.stats()

    def ready(self) -> bool:
        """Whether the next batch is on its way, or can be sent without waiting."""
        return bool(self._ahead) or self.loader.ready()

    @property
    def epoch(self) -> int:
        """The epoch of the next batch."""
        return self.loader.epoch

    def __iter__(self) -> Iterator[Batch]:
        """The rest of the current epoch, on the device."""
        if not self.accelerator.travels:
            yield from map(self._convert, self.loader)  # no name holds the batch here
            return
        self._state = self._position()
        batches = _all_of(self.loader)
        try:
            while self._ahead or self._send(batches):
                if self.loader.ready():
                    self._send(batches)
                yield self._arrived(self._ahead.popleft())
        finally:
            batches.close()
            self._turn_back()

    def _send(self, batches: Iterator[Batch]) -> bool:
        """Start the copy of the next batch, if there is one, as soon as it is read; slabs go back before that."""
        while self._lent and (self._lent[0][1].done() or len(self._lent) >= MOST_UNDER_WAY):
            self._lent[0][1].wait()
            self._lent.popleft()
        batch = next(batches, None)
        if batch is None:
            return False
        tensors, copies, mark = _copied(batch, self.accelerator, {*self._convert.normalised, *batch.coded})
        self._lent.append((batch, mark))
        self._ahead.append(_Travelling(batch.replace(tensors), copies, mark, self._position()))
        return True

    def _position(self) -> dict[str, Any] | None:
        """The loader's; None for a stream, which has none and says so when it is asked for."""
        try:
            return self.loader.state_dict()
        except ValueError:
            return None

    def _arrived(self, travelling: _Travelling) -> Batch:
        """What the device computes from now on may read the batch, whose memory stays until that is done."""
        self.accelerator.wait_for(travelling.mark)
        for copy in travelling.copies:
            self.accelerator.keep(copy)
        self._state = travelling.state
        return self._convert(travelling.batch)

    def _turn_back(self) -> None:
        """Give all slabs back once they are read, and the loader the position of a consumer who left before the end."""
        while self._lent:
            self._lent[0][1].wait()
            self._lent.popleft()
        if self._ahead and self._state is not None:
            self.loader.load_state_dict(self._state)
        self._ahead.clear()

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


def _all_of(loader: BatchSource) -> Generator[Batch, None, None]:
    """The rest of an epoch; ends the loader's own iteration when it is closed."""
    yield from loader


def _copied(
    batch: Batch, accelerator: Accelerator, apart: Collection[str]
) -> tuple[dict[str, Tensor], list[Tensor], Mark]:
    """Start to copy a batch: its tensors there, the blocks that they lie in, and the point behind the copies.

    All that lies in the slab is one copy, but fields `apart` get memory that is free again without the others'.
    """
    sources: list[Tensor] = []
    runs: list[list[str]] = []
    if batch.memory is not None and batch.layout is not None:
        runs = _runs(list(batch.layout.regions), apart)
        for names in runs:
            first, last = (batch.layout.regions[name] for name in (names[0], names[-1]))
            sources.append(batch.memory[first.offset : last.offset + last.num_bytes])
    in_slab = {name for names in runs for name in names}
    beside = {name: tensor for name, tensor in batch.items() if name not in in_slab}
    copies, mark = accelerator.copy([*sources, *beside.values()])
    tensors: dict[str, Tensor] = {}
    for names, block in zip(runs, copies, strict=False):
        assert batch.layout is not None
        start = batch.layout.regions[names[0]].offset
        for name in names:
            region = batch.layout.regions[name]
            part = block[region.offset - start :][: region.num_bytes]
            tensors[name] = part.view(batch[name].dtype).view(region.shape)
    tensors |= dict(zip(beside, copies[len(runs) :], strict=True))
    return tensors, copies, mark


def _runs(names: list[str], apart: Collection[str]) -> list[list[str]]:
    """Neighbours in a slab that are copied together."""
    runs: list[list[str]] = []
    for name in names:
        if runs and name not in apart and runs[-1][-1] not in apart:
            runs[-1].append(name)
        else:
            runs.append([name])
    return runs
