"""Fill rows of a batch from shards: what the reader threads run."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from time import perf_counter

import numpy as np

from pipeline.batch import BatchPlan
from pipeline.config import LoaderConfig
from pipeline.decoders import Decoder
from pipeline.destinations import Destination, Ragged, Rows, Source
from pipeline.gather import COMPILED, NO_LIBRARY
from pipeline.readers import ReaderName, ShardFiles
from pipeline.stats import StageClock
from shards.dataset import ShardDataset
from shards.errors import DamagedShardError, ShardError
from shards.schema import Field

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Quarantined:
    """A sample that was left out of a batch, and why."""

    sample: int
    epoch: int
    reason: str


class Fetcher:
    """Reads samples into batches. One object serves all threads of a loader."""

    def __init__(self, dataset: ShardDataset, config: LoaderConfig, decoders: Mapping[str, Decoder]) -> None:
        """Prepare to read the fields of `config`; those in its `gather` only at the positions of the named mask."""
        self._dataset, self._config, self._decoders = dataset, config, decoders
        self._files = ShardFiles("pread")
        self._sources: dict[int, tuple[Source, ...]] = {}
        needed = dict.fromkeys("json" if name == "label" else name for name in config.fields)
        self._fields = tuple(dataset.schema[name] for name in needed)
        self._verified = np.zeros(len(dataset), np.bool_)
        self.quarantined: list[Quarantined] = []
        self._lock = threading.Lock()

    def use(self, reader: ReaderName) -> None:
        """Read with `reader` from now on."""
        if reader != self._files.reader:
            self.close()
            self._files = ShardFiles(reader)
            if reader == "mmap" and not COMPILED:
                log.warning("copying with numpy, at two thirds of the speed: %s", NO_LIBRARY)

    def close(self) -> None:
        """Close all files; they are opened again when needed."""
        self._sources.clear()
        self._files.close()

    def fill(self, plan: BatchPlan, start: int, stop: int, clock: StageClock) -> None:
        """Fill rows `start` to `stop` of a batch.

        Raises:
            ShardError: a sample cannot be read, and errors are not quarantined, or too many were.
        """
        began = perf_counter()
        destinations = [self._destination(plan, field, start, stop) for field in self._fields]
        valid = plan.arrays["valid"]
        for row in range(start, stop):
            valid[row] = plan.samples[row] >= 0
            try:
                if valid[row]:
                    self._fill_row(plan, row, destinations)
                    continue
            except (ShardError, OSError) as error:
                self._set_aside(plan.samples[row], plan.epoch, error)
                valid[row] = False
            for destination in destinations:
                destination.blank(row)
        for destination in destinations:
            destination.finish()
        clock.add("read", perf_counter() - began)

    def _destination(self, plan: BatchPlan, field: Field, start: int, stop: int) -> Destination:
        if not field.is_array:
            labels = plan.arrays.get("label") if field.name == "json" else None
            pieces, decoded = plan.ragged.get(field.name), plan.decoded.get(field.name)
            return Ragged(field, pieces, decoded, self._decoders.get(field.name), labels)
        array = plan.arrays[field.name]
        mask = self._config.gather.get(field.name)
        positions = None if mask is None else plan.arrays[mask]
        num_pieces = 1 if positions is None else positions.shape[1]
        return Rows(field, array.view(np.uint8).reshape(len(array), num_pieces, -1), positions, start, stop)

    def _fill_row(self, plan: BatchPlan, row: int, destinations: list[Destination]) -> None:
        sample, shard, shard_row = plan.samples[row], plan.shards[row], plan.rows[row]
        verify = self._config.verify
        check = verify != "never" and (verify == "always" or not self._verified[sample])
        sources = self._sources.get(shard) or self._open(shard)
        for source, destination in zip(sources, destinations, strict=True):
            try:
                destination.fill(row, source, shard_row, check)
            except DamagedShardError as error:
                raise DamagedShardError(
                    error.problem,
                    shard=source.path.name,
                    key=self._dataset.key(sample),
                    field=destination.field.name,
                    offset=int(source.extents.offsets[shard_row]),
                ) from None
        if check:
            self._verified[sample] = True

    def _open(self, shard: int) -> tuple[Source, ...]:
        """Open what is needed of a shard; those opened first are forgotten first when there are too many."""
        paths = [self._dataset.tar_path(shard, field.group) for field in self._fields]
        sources = tuple(
            Source(path, self._files.get(path), self._dataset.extents(shard, field.name))
            for path, field in zip(paths, self._fields, strict=True)
        )
        with self._lock:
            while len(self._sources) >= self._files.limit:
                del self._sources[next(iter(self._sources))]
            self._sources[shard] = sources
        return sources

    def _set_aside(self, sample: int, epoch: int, error: ShardError | OSError) -> None:
        if self._config.on_error == "raise":
            raise error
        with self._lock:
            self.quarantined.append(Quarantined(sample, epoch, str(error)))
            count = len(self.quarantined)
        thread = threading.current_thread().name
        where = self._dataset.directory
        log.warning("sample %d of %s left out by %s (%d so far): %s", sample, where, thread, count, error)
        if count > self._config.max_quarantined:
            raise ShardError(
                f"{count} samples could not be read, more than max_quarantined = {self._config.max_quarantined}; "
                f"the last: {error}"
            )
