"""Reelshard's loader, and the loops that show what it could reach at most."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.config import LoaderConfig, Reader, Verify
from pipeline.loader import ShardLoader
from pipeline.order.draws import TubeMask
from pipeline.read.gather import COMPILED, gather
from pipeline.reads import Reads
from pipeline.world import World
from shards.dataset import ShardDataset
from tools.bench.check import Arrived
from tools.bench.storage import in_threads

GATHER = {"clip": "visible", "target": "masked"}
DEFAULT_VERIFY = LoaderConfig().verify


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is measured, the same for every contender.

    Attributes:
        mask_ratio: share of hidden positions of the tube mask, or None for whole samples.
        batch_size: samples per batch.
        threads: reader threads, or workers of those who use processes.
        seed: of the shuffle.
    """

    mask_ratio: float | None = None
    batch_size: int = 32
    threads: int = 2
    seed: int = 0

    def mask(self, dataset: ShardDataset) -> TubeMask | None:
        """The tube mask over the data set's positions."""
        if self.mask_ratio is None:
            return None
        return TubeMask(num_positions=dataset.schema["clip"].num_positions, ratio=self.mask_ratio)


class Contender(Protocol):
    """Somebody who delivers batches."""

    def epoch(self) -> Iterator[Arrived | int]:
        """One pass: batches, or a number of samples that were copied and are not looked at."""
        ...


class Reelshard:
    """This project's loader. With `verify: first` each epoch is the first of a new one, which is what that costs.

    Nothing is read beyond the end of an epoch: that would be read before the next one's clock runs.
    """

    def __init__(
        self,
        dataset: ShardDataset,
        case: Case,
        reader: Reader = "auto",
        world: World | None = None,
        verify: Verify = DEFAULT_VERIFY,
    ) -> None:
        """Construct the loader; files are opened with the first batch."""
        self._dataset, self._mask = dataset, case.mask(dataset)
        world = world or World()
        config = LoaderConfig(
            global_batch_size=case.batch_size * world.size,
            seed=case.seed,
            threads=case.threads,
            reader=reader,
            verify=verify,
        )
        reads = Reads(draws=(self._mask,), gather=GATHER, held_out=True) if self._mask else Reads(held_out=True)
        self.loader = ShardLoader(dataset, config, world=world, reads=reads)

    def epoch(self) -> Iterator[Arrived | int]:
        """Batches of one epoch."""
        if self.loader.config.verify == "first":
            self.loader.close()
            loader = self.loader
            self.loader = ShardLoader(self._dataset, loader.config, world=loader.world, reads=loader.reads)
        for batch in self.loader:
            arrays = {name: tensor.numpy() for name, tensor in batch.items()}
            yield Arrived(
                arrays["clip"], arrays["target"], arrays.get("visible"), arrays.get("masked"), samples=arrays["index"]
            )
            del batch, arrays  # or the slab could not come back before the next batch is ready


class InSlab(Reelshard):
    """The same, of fields with a codec as that has stored them: what is copied to a GPU, which decodes it."""

    def __init__(
        self,
        dataset: ShardDataset,
        case: Case,
        reader: Reader = "auto",
        world: World | None = None,
        verify: Verify = DEFAULT_VERIFY,
    ) -> None:
        """Construct the loader."""
        super().__init__(dataset, case, reader, world, verify)
        self.loader.leave_coded()


class Bare:
    """Copies the same bytes in the same order with the same threads, into as much memory, and does nothing else."""

    NUM_BUFFERS = 4

    def __init__(self, dataset: ShardDataset, case: Case) -> None:
        """Map all shards and allocate the buffers."""
        self._dataset, self._case = dataset, case
        self._mask = case.mask(dataset)
        maps = []
        for shard in range(dataset.num_shards):
            descriptor = os.open(dataset.tar_path(shard), os.O_RDONLY)
            maps.append(np.frombuffer(mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ), np.uint8))
            os.close(descriptor)
        shards, rows = dataset.locate(np.arange(len(dataset)))
        self._payloads: dict[str, list[NDArray[np.uint8]]] = {}
        self._buffers: dict[str, NDArray[np.uint8]] = {}
        for name in GATHER:
            field = dataset.schema[name]
            offsets = [dataset.extents(shard, name).offsets for shard in range(dataset.num_shards)]
            places = [(s, int(offsets[s][r])) for s, r in zip(shards.tolist(), rows.tolist(), strict=True)]
            self._payloads[name] = [
                maps[s][offset : offset + field.num_bytes].reshape(field.num_positions, -1) for s, offset in places
            ]
            count = self._mask.shapes[GATHER[name]][0] if self._mask else field.num_positions
            shape = (self.NUM_BUFFERS * case.batch_size, count, field.num_bytes // field.num_positions)
            self._buffers[name] = np.zeros(shape, np.uint8)

    def epoch(self) -> Iterator[Arrived | int]:
        """Copy one epoch by threads that each take every so-many-th sample; yields their number when all are done."""
        case = self._case
        count = len(self._dataset) // case.batch_size * case.batch_size
        order = np.random.default_rng(case.seed).permutation(len(self._dataset))[:count]
        positions = self._mask.draw(case.seed, 0, order) if self._mask else {}
        in_threads(case.threads, self._copier(order, positions))
        yield count

    def _copier(self, order: NDArray[np.int64], positions: dict[str, NDArray[np.int64]]) -> Callable[[int], None]:
        slots = self.NUM_BUFFERS * self._case.batch_size

        def work(number: int) -> None:
            for place in range(number, len(order), self._case.threads):
                for name, mask_name in GATHER.items():
                    payload, out = self._payloads[name][order[place]], self._buffers[name][place % slots]
                    if positions:
                        payload.take(positions[mask_name][place], axis=0, out=out, mode="clip")
                    else:
                        np.copyto(out, payload)

        return work


class MemoryCopy:
    """The ceiling of memory: as many bytes as an epoch has, copied by the same threads, in order, in plain memory."""

    BUFFER_BYTES = 64 << 20  # beyond the caches

    def __init__(self, dataset: ShardDataset, case: Case) -> None:
        """Allocate a source and a sink for each thread."""
        self._threads, mask = case.threads, case.mask(dataset)
        self._num_clips = len(dataset) // case.batch_size * case.batch_size
        kept = {name: mask.shapes[GATHER[name]][0] / mask.num_positions if mask else 1.0 for name in GATHER}
        self._num_bytes = self._num_clips * sum(dataset.schema[name].num_bytes * kept[name] for name in GATHER)
        self._sources, self._sinks = (np.ones((case.threads, self.BUFFER_BYTES), np.uint8) for _ in range(2))

    def epoch(self) -> Iterator[Arrived | int]:
        """Copy; yields the number of clips when all threads are done."""
        in_threads(self._threads, self._copy)
        yield self._num_clips

    def _copy(self, number: int) -> None:
        left = round(self._num_bytes / self._threads)
        while left > 0:
            size = min(left, self.BUFFER_BYTES)
            source, sink = self._sources[number, :size], self._sinks[number, :size]
            if COMPILED:
                gather(sink.reshape(1, 1, size), np.array([source.ctypes.data], np.uint64), None, 1)
            else:
                np.copyto(sink, source)
            left -= size
