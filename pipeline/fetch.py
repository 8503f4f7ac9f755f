"""Fill rows of a batch from shards: what the reader threads run."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from pipeline.batch import BatchPlan
from pipeline.config import LoaderConfig
from pipeline.decoders import Decoder
from pipeline.readers import OpenShard, ReaderName, ShardFiles
from pipeline.stats import StageClock
from shards.dataset import ShardDataset
from shards.errors import DamagedShardError, ShardError
from shards.index import Extents
from shards.schema import Field

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Quarantined:
    """A sample that was left out of a batch, and why."""

    sample: int
    epoch: int
    reason: str


@dataclass(frozen=True, slots=True)
class _Source:
    """One field of one shard: the open tar, and where each row's payload lies in it."""

    path: Path
    shard: OpenShard
    extents: Extents

    def view(self, row: int, check: bool) -> NDArray[np.uint8]:
        payload = self.shard.view(int(self.extents.offsets[row]), int(self.extents.sizes[row]))
        return self._checked(payload, row) if check else payload

    def read_into(self, row: int, out: NDArray[np.uint8], check: bool) -> None:
        self.shard.read_into(int(self.extents.offsets[row]), out)
        if check:
            self._checked(out, row)

    def _checked(self, payload: NDArray[np.uint8], row: int) -> NDArray[np.uint8]:
        if xxhash.xxh3_64_intdigest(payload.data) != int(self.extents.checksums[row]):
            raise DamagedShardError("the payload's checksum is wrong: its bytes were changed", shard=self.path.name)
        return payload


@dataclass(frozen=True, slots=True)
class _Destination:
    """Where one field of a batch goes: rows of bytes, or rows of gathered positions, or a list of ragged pieces."""

    field: Field
    rows: NDArray[np.uint8] | None
    positions: NDArray[np.int64] | None
    pieces: list[bytes] | None
    decoded: list[NDArray[Any] | None] | None
    decoder: Decoder | None
    labels: NDArray[np.int64] | None

    def fill(self, row: int, source: _Source, source_row: int, check: bool) -> None:
        """Put one payload into its row."""
        if self.rows is None:
            self._fill_ragged(row, source.view(source_row, check).tobytes())
        elif self.positions is None:
            source.read_into(source_row, self.rows[row], check)
        else:
            tubes = source.view(source_row, check).reshape(self.field.num_positions, -1)
            tubes.take(self.positions[row], axis=0, out=self.rows[row], mode="clip")

    def _fill_ragged(self, row: int, data: bytes) -> None:
        if self.pieces is not None:
            self.pieces[row] = data
        if self.decoded is not None and self.decoder is not None:
            try:
                self.decoded[row] = self.decoder(data)
            except ValueError as error:
                raise DamagedShardError(f"does not decode: {error}", shard="") from None
        if self.labels is not None:
            self.labels[row] = _label(data)

    def blank(self, row: int) -> None:
        """Zero a row, so that nothing of an earlier batch shows."""
        if self.rows is not None:
            self.rows[row] = 0
        if self.pieces is not None:
            self.pieces[row] = b""
        if self.decoded is not None:
            self.decoded[row] = None
        if self.labels is not None:
            self.labels[row] = -1


class Fetcher:
    """Reads samples into batches. One object serves all threads of a loader."""

    def __init__(self, dataset: ShardDataset, config: LoaderConfig, decoders: Mapping[str, Decoder]) -> None:
        """Prepare to read the fields of `config`; those in its `gather` only at the positions of the named mask."""
        self._dataset, self._config, self._decoders = dataset, config, decoders
        self._files = ShardFiles("pread")
        self._sources: dict[int, tuple[_Source, ...]] = {}
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
        destinations = [self._destination(plan, field) for field in self._fields]
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
        clock.add("read", perf_counter() - began)

    def _destination(self, plan: BatchPlan, field: Field) -> _Destination:
        labels = plan.arrays.get("label") if field.name == "json" else None
        if not field.is_array:
            pieces, decoded = plan.ragged.get(field.name), plan.decoded.get(field.name)
            return _Destination(field, None, None, pieces, decoded, self._decoders.get(field.name), labels)
        array = plan.arrays[field.name]
        mask = self._config.gather.get(field.name)
        positions = None if mask is None else plan.arrays[mask]
        shape = (len(array), -1) if positions is None else (*positions.shape, -1)
        return _Destination(field, array.view(np.uint8).reshape(shape), positions, None, None, None, labels)

    def _fill_row(self, plan: BatchPlan, row: int, destinations: list[_Destination]) -> None:
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

    def _open(self, shard: int) -> tuple[_Source, ...]:
        """Open what is needed of a shard; those opened first are forgotten first when there are too many."""
        paths = [self._dataset.tar_path(shard, field.group) for field in self._fields]
        sources = tuple(
            _Source(path, self._files.get(path), self._dataset.extents(shard, field.name))
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
        log.warning("sample %d left out by %s (%d so far): %s", sample, thread, count, error)
        if count > self._config.max_quarantined:
            raise ShardError(
                f"{count} samples could not be read, more than max_quarantined = {self._config.max_quarantined}; "
                f"the last: {error}"
            )


def _label(data: bytes) -> int:
    try:
        label = json.loads(data).get("label")
        return -1 if label is None else int(label)
    except (ValueError, TypeError, AttributeError) as error:
        raise DamagedShardError(f"the JSON member has no readable label: {error}", shard="") from None
