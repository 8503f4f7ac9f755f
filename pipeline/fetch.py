"""Fill rows of a batch from shards: what the reader threads run."""

from __future__ import annotations

import json
import logging
import threading
from dataclasses import dataclass
from time import perf_counter

import numpy as np
import xxhash
from numpy.typing import NDArray

from pipeline.batch import BatchPlan
from pipeline.config import LoaderConfig
from pipeline.readers import OpenShard, ReaderName, ShardFiles
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


@dataclass(frozen=True, slots=True)
class _Source:
    """Where a payload lies, and its checksum if it is to be compared."""

    shard: OpenShard
    offset: int
    size: int
    checksum: int | None

    def view(self) -> NDArray[np.uint8]:
        return self._checked(self.shard.view(self.offset, self.size))

    def read_into(self, out: NDArray[np.uint8]) -> None:
        self.shard.read_into(self.offset, out)
        self._checked(out)

    def _checked(self, payload: NDArray[np.uint8]) -> NDArray[np.uint8]:
        if self.checksum is not None and xxhash.xxh3_64_intdigest(payload.data) != self.checksum:
            raise DamagedShardError("the payload's checksum is wrong: its bytes were changed", shard="")
        return payload


class Fetcher:
    """Reads samples into batches. One object serves all threads of a loader."""

    def __init__(self, dataset: ShardDataset, config: LoaderConfig) -> None:
        """Prepare to read the fields of `config`; those in its `gather` only at the positions of the named mask."""
        self._dataset, self._config = dataset, config
        self._files = ShardFiles("pread")
        self._with_label = "label" in config.fields
        needed = dict.fromkeys("json" if name == "label" else name for name in config.fields)
        self._fields = tuple(dataset.schema[name] for name in needed)
        self._verified = np.zeros(len(dataset), np.bool_)
        self.quarantined: list[Quarantined] = []
        self._lock = threading.Lock()

    def use(self, reader: ReaderName) -> None:
        """Read with `reader` from now on."""
        if reader != self._files.reader:
            self._files = ShardFiles(reader)

    def close(self) -> None:
        """Close all files; they are opened again when needed."""
        self._files.close()

    def fill(self, plan: BatchPlan, start: int, stop: int, clock: StageClock) -> None:
        """Fill rows `start` to `stop` of a batch.

        Raises:
            ShardError: a sample cannot be read, and errors are not quarantined, or too many were.
        """
        began = perf_counter()
        for row in range(start, stop):
            if plan.samples[row] < 0:
                self._blank(plan, row)
                continue
            try:
                self._fill_row(plan, row)
            except (ShardError, OSError) as error:
                self._set_aside(plan, row, error)
        clock.add("read", perf_counter() - began)

    def _fill_row(self, plan: BatchPlan, row: int) -> None:
        shard, shard_row, sample = plan.shards[row], plan.rows[row], plan.samples[row]
        check = self._config.verify == "always" or (self._config.verify == "first" and not self._verified[sample])
        for field in self._fields:
            path = self._dataset.tar_path(shard, field.group)
            extents = self._dataset.extents(shard, field.name)
            checksum = int(extents.checksums[shard_row]) if check else None
            offset, size = int(extents.offsets[shard_row]), int(extents.sizes[shard_row])
            source = _Source(self._files.get(path), offset, size, checksum)
            try:
                if field.is_array:
                    self._fill_array(plan, row, field, source)
                else:
                    self._fill_ragged(plan, row, field, source)
            except DamagedShardError as error:
                raise DamagedShardError(
                    error.problem, shard=path.name, key=self._dataset.key(sample), field=field.name, offset=offset
                ) from None
        if check:
            self._verified[sample] = True
        plan.arrays["valid"][row] = True

    def _fill_array(self, plan: BatchPlan, row: int, field: Field, source: _Source) -> None:
        out = plan.arrays[field.name][row]
        mask = self._config.gather.get(field.name)
        if mask is None:
            source.read_into(out.reshape(-1).view(np.uint8))
            return
        positions = plan.arrays[mask][row]
        tubes = source.view().reshape(field.num_positions, -1)
        np.take(tubes, positions, axis=0, out=out.reshape(len(positions), -1).view(np.uint8), mode="clip")

    def _fill_ragged(self, plan: BatchPlan, row: int, field: Field, source: _Source) -> None:
        data = source.view().tobytes()
        if field.name in plan.ragged:
            plan.ragged[field.name][row] = data
        if field.name == "json" and self._with_label:
            plan.arrays["label"][row] = _label(data)

    def _blank(self, plan: BatchPlan, row: int) -> None:
        """Zero the row, so that nothing of an earlier batch shows."""
        for field in self._fields:
            if field.name in plan.arrays:
                plan.arrays[field.name][row] = 0
            if field.name in plan.ragged:
                plan.ragged[field.name][row] = b""
        if self._with_label:
            plan.arrays["label"][row] = -1
        plan.arrays["valid"][row] = False

    def _set_aside(self, plan: BatchPlan, row: int, error: ShardError | OSError) -> None:
        if self._config.on_error == "raise":
            raise error
        self._blank(plan, row)
        with self._lock:
            self.quarantined.append(Quarantined(plan.samples[row], plan.epoch, str(error)))
            count = len(self.quarantined)
        log.warning("sample %d left out (%d so far): %s", plan.samples[row], count, error)
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
