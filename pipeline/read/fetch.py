"""Fill rows of a batch from shards: what the reader threads run."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

import numpy as np

from pipeline.batch.batch import BatchPlan
from pipeline.batch.destinations import Destination, FixedRows
from pipeline.batch.parts import Part
from pipeline.batch.stored import StoredField
from pipeline.config import LoaderConfig
from pipeline.read.arrivals import Arrivals
from pipeline.read.files import ShardFiles
from pipeline.read.quarantine import Quarantine
from pipeline.read.readers import NOT_THERE, Identity, OpenShard, ReaderName
from pipeline.stats import StageClock
from shards.dataset import ShardDataset
from shards.format.errors import DamagedShardError, ShardError
from shards.format.members import check_members
from shards.format.schema import Field

Failures = dict[int, ShardError | OSError]


class _Opened(NamedTuple):
    """What is needed of a shard: a source for each field, and the tars that these lie in."""

    sources: tuple[StoredField, ...]
    tars: tuple[OpenShard, ...]


@dataclass(frozen=True)
class _Shards:
    """What is open with one reader; exchanged as one, so that no lock is held by who asks for another."""

    files: ShardFiles
    opened: dict[int, _Opened]


class Tally(NamedTuple):
    """What was done for some rows: the bytes asked of storage, and how many rows were compared with their checksums."""

    num_bytes: int
    num_checked: int


class Fetcher:
    """Reads samples into batches. One object serves all threads of a loader."""

    def __init__(
        self, dataset: ShardDataset, config: LoaderConfig, parts: Sequence[Part], arrivals: Arrivals | None = None
    ) -> None:
        """Prepare to read the fields of `parts`; those of a data set elsewhere, when they have arrived."""
        self._dataset, self._config, self._parts = dataset, config, parts
        self._arrivals = arrivals
        self._identities: dict[Path, Identity] = {}
        self._shards = self._with("pread")
        self._fields = tuple(part.field for part in parts)
        self._verified = np.zeros(len(dataset), np.bool_)
        self.quarantine = Quarantine(config.most_quarantined(len(dataset)), dataset.place)
        self._lock = threading.Lock()

    def use(self, reader: ReaderName) -> None:
        """Read with `reader` from now on."""
        if reader != self._shards.files.reader:
            self._shards = self._with(reader)  # batches of this epoch may be in the making

    def _with(self, reader: ReaderName) -> _Shards:
        return _Shards(ShardFiles(reader, self._identities, cached=self._arrivals is not None), {})

    def close(self) -> None:
        """Close all files; they are opened again when needed, and may be others then."""
        self._shards.opened.clear()
        self._shards.files.close()
        self._identities.clear()

    def fill(self, plan: BatchPlan, start: int, stop: int, clock: StageClock) -> Tally:
        """Fill rows `start` to `stop` of a batch.

        Raises:
            ShardError: a sample cannot be read, and errors are not quarantined, or too many were.
        """
        if self._arrivals is None:
            return self._fill(plan, start, stop, clock, {})
        began = perf_counter()
        with self._arrivals.waited_for(plan.shards[start:stop], plan.rows[start:stop]) as failed:
            clock.add("arrive", perf_counter() - began)
            return self._fill(plan, start, stop, clock, {start + place: error for place, error in failed.items()})

    def _fill(
        self, plan: BatchPlan, start: int, stop: int, clock: StageClock, missing: Mapping[int, ShardError]
    ) -> Tally:
        """Fill rows but those that are known to be missing."""
        began = perf_counter()
        destinations = [part.destination(plan, start, stop) for part in self._parts]
        valid = plan.arrays["valid"]
        np.greater_equal(plan.arrays["index"][start:stop], 0, out=valid[start:stop])
        wanted = [row for row in range(start, stop) if plan.samples[row] >= 0 and row not in missing]
        failed: Failures = dict(missing)
        used, wanted = self._open_all(plan, wanted, failed)
        tally = self._fill_rows(plan, wanted, destinations, used, failed)
        lost = [(row, number) for number, destination in enumerate(destinations) for row in destination.finish()]
        if changed := _changed(used):
            rows = (row for row in range(start, stop) if plan.shards[row] in changed)
            failed = {row: changed[plan.shards[row]] for row in rows} | failed
        for row, number in lost:
            source, field = used[plan.shards[row]].sources[number], self._fields[number]
            failed.setdefault(row, self._damaged(plan, row, source, field, NOT_THERE))
        self._leave_out(plan, failed)
        padding = (row for row in range(start, stop) if plan.samples[row] < 0)
        for row in (*failed, *padding):
            valid[row] = False
            for destination in destinations:
                destination.blank(row)
        decoding = [found for destination in destinations if (found := getattr(destination, "decoding", None))]
        clock.add("decode", sum(found.seconds for found in decoding), sum(found.num_pieces for found in decoding))
        clock.add("read", perf_counter() - began)
        return tally

    def _leave_out(self, plan: BatchPlan, failed: Failures) -> None:
        for row, error in failed.items():
            if self._config.on_error == "raise":
                raise error
            self.quarantine.add(plan.samples[row], plan.epoch, error)

    def _open_all(self, plan: BatchPlan, rows: list[int], failed: Failures) -> tuple[dict[int, _Opened], list[int]]:
        """Open the shards that samples lie in; returns these, and the rows whose shard is none of the failed ones."""
        used: dict[int, _Opened] = {}
        errors: dict[int, ShardError | OSError] = {}
        for shard in {plan.shards[row] for row in rows}:
            try:
                used[shard] = self._shards.opened.get(shard) or self._open(shard)
            except (ShardError, OSError) as error:
                errors[shard] = error
        if errors:
            failed |= {row: errors[shard] for row in rows if (shard := plan.shards[row]) in errors}
            rows = [row for row in rows if plan.shards[row] in used]
        return used, rows

    def _fill_rows(
        self,
        plan: BatchPlan,
        rows: list[int],
        destinations: list[Destination],
        used: Mapping[int, _Opened],
        failed: Failures,
    ) -> Tally:
        """Put samples into their rows: unchecked mapped arrays all at once, anything else by itself."""
        checks = {row for row in rows if plan.checked[row]}
        if self._config.verify == "first":
            checks = {row for row in rows if not self._verified[plan.samples[row]]}
        at_once = [row for row in rows if row not in checks]
        shards, shard_rows = [plan.shards[row] for row in at_once], [plan.rows[row] for row in at_once]
        num_bytes, by_row = 0, []
        for number, destination in enumerate(destinations):
            asked = None
            if isinstance(destination, FixedRows):
                sources = {shard: opened.sources[number] for shard, opened in used.items()}
                asked = destination.take_note(at_once, sources, shards, shard_rows)
            if asked is None:
                by_row.append((number, destination))
            num_bytes += asked or 0
        every = list(enumerate(destinations))
        for row in rows if by_row else sorted(checks):
            try:
                check = row in checks
                num_bytes += self._fill_row(plan, row, check, every if check else by_row, used[plan.shards[row]])
            except (ShardError, OSError) as error:
                checks.discard(row)
                failed[row] = error
        return Tally(num_bytes, len(checks))

    def _fill_row(
        self, plan: BatchPlan, row: int, check: bool, destinations: list[tuple[int, Destination]], opened: _Opened
    ) -> int:
        """Put a sample into its row; returns the bytes asked of storage for that."""
        asked = 0
        for number, destination in destinations:
            source = opened.sources[number]
            try:
                asked += destination.fill(row, source, plan.rows[row], check)
            except DamagedShardError as error:
                raise self._damaged(plan, row, source, destination.field, error.problem) from None
        if check:
            self._verified[plan.samples[row]] = True
        return asked

    def _damaged(self, plan: BatchPlan, row: int, source: StoredField, field: Field, problem: str) -> DamagedShardError:
        return DamagedShardError(
            problem,
            shard=source.shard.path.name,
            key=self._dataset.key(plan.samples[row]),
            field=field.name,
            offset=int(source.extents.offsets[plan.rows[row]]),
        )

    def _open(self, shard: int) -> _Opened:
        """Open what is needed of a shard; those opened first are forgotten first when there are too many."""
        # a checksum does not say that the sidecar means the right sample; headers do, and come with what is elsewhere
        if self._config.verify == "always" and self._arrivals is None:
            for group in dict.fromkeys(field.group for field in self._fields):
                check_members(self._dataset.tar_path(shard, group), self._dataset.index(shard, group))
        shards = self._shards
        sources = tuple(self._source(shards.files, shard, field) for field in self._fields)
        opened = _Opened(sources, tuple({source.shard for source in sources}))
        with self._lock:
            while len(shards.opened) >= shards.files.limit:
                del shards.opened[next(iter(shards.opened))]
            shards.opened[shard] = opened
        return opened

    def _source(self, files: ShardFiles, shard: int, field: Field) -> StoredField:
        index = self._dataset.index(shard, field.group)
        tar = files.get(self._dataset.tar_path(shard, field.group), index)
        return StoredField.mapped(tar, index.extents[field.name])


def _changed(used: Mapping[int, _Opened]) -> Failures:
    """Shards that are not what they were when they were opened; asked after the last byte was copied."""
    changed: Failures = {}
    for shard, opened in used.items():
        try:
            for tar in opened.tars:
                tar.check_unchanged()
        except (ShardError, OSError) as error:
            changed[shard] = error
    return changed
