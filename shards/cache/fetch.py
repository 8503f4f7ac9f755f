"""Members of a tar from its store into the cache: in runs, each member compared with its checksum before it counts."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import xxhash
from numpy.typing import NDArray

from shards.cache.folder import Cache, unwritable
from shards.cache.locks import LONGEST_PAUSE_SECONDS
from shards.cache.sparse import CachedTar
from shards.format.errors import DamagedShardError, MissingDataError, ShardError
from shards.store import Store

GAP_BYTES = 64 << 10  # what is read between two members rather than asked for apart
RUN_BYTES = 8 << 20
ATTEMPTS = 3
PATIENCE_SECONDS = 60.0  # with whoever has claimed a chunk; then it is fetched twice, which does no harm

Failures = dict[int, ShardError]  # row -> why it is not there


class Member(NamedTuple):
    """One payload of a tar: where it lies, and whose it is."""

    start: int
    stop: int
    field: str
    row: int


@dataclass
class Traffic:
    """What was asked of a store so far."""

    requests: int = 0
    num_bytes: int = 0

    def add(self, requests: int, num_bytes: int) -> None:
        """Count requests; threads may lose a count to each other, which nobody decides by."""
        self.requests += requests
        self.num_bytes += num_bytes


@dataclass(frozen=True)
class Source:
    """Where a tar comes from, which cache it goes into, and who counts.

    Attributes:
        store: where it is.
        cache: makes room.
        traffic: what was asked for.
        whole: whether all rows of a chunk are fetched where one of them is needed.
        wait: whether the rows are needed now: others who are fetching them are waited for, and the cache may hold more
            than it should for them.
    """

    store: Store
    cache: Cache
    traffic: Traffic
    whole: bool = False
    wait: bool = True


def fetch(tar: CachedTar, source: Source, rows: NDArray[np.int64], fields: Sequence[str]) -> Failures:
    """See to it that rows are in the cache; the caller holds the tar.

    Args:
        tar: where they go.
        source: where they come from.
        rows: i64, of the shard.
        fields: those that are needed of them.

    Returns:
        Rows among those asked for that cannot be had, since they are not what the sidecar says, or not there.

    Raises:
        ShardError: the store cannot be reached, or the cache cannot be written.
    """
    lacking = rows[tar.lacks(rows, fields)]
    failed: Failures = {}
    for chunk in np.unique(tar.chunks[lacking]).tolist():
        of_chunk = np.flatnonzero(tar.chunks == chunk) if source.whole else lacking[tar.chunks[lacking] == chunk]
        failed |= _fetch_chunk(tar, source, chunk, of_chunk.tolist(), fields)
    return {row: failed[row] for row in rows.tolist() if row in failed} if failed else failed


def _fetch_chunk(tar: CachedTar, source: Source, chunk: int, rows: list[int], fields: Sequence[str]) -> Failures:
    patient_until, pause = time.monotonic() + PATIENCE_SECONDS, 0.0005
    while lacking_members(tar, rows, fields):
        claimed = tar.try_claim(chunk)
        if claimed or (source.wait and time.monotonic() > patient_until):
            try:
                return _fetch_members(tar, source, lacking_members(tar, rows, fields))
            finally:
                if claimed:
                    tar.give_up(chunk)
        if not source.wait:
            break
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
    return {}


def lacking_members(tar: CachedTar, rows: Sequence[int], fields: Sequence[str]) -> list[Member]:
    """Those of the members that are not in the cache, as they lie in the tar."""
    return [member for member in members_of(tar, rows, fields) if not tar.flags[tar.fields[member.field], member.row]]


def members_of(tar: CachedTar, rows: Iterable[int], fields: Sequence[str]) -> list[Member]:
    """Some fields of some rows, as they lie in the tar."""
    members = []
    for field in fields:
        extents = tar.index.extents[field]
        for row in rows:
            start = int(extents.offsets[row])
            members.append(Member(start, start + int(extents.sizes[row]), field, row))
    return sorted(members)


def into_runs(members: Sequence[Member]) -> list[list[Member]]:
    """Members that lie close together, to be read by one request."""
    runs: list[list[Member]] = []
    for member in members:
        last = runs[-1] if runs else []
        if last and member.start - last[-1].stop <= GAP_BYTES and member.stop - last[0].start <= RUN_BYTES:
            last.append(member)
        else:
            runs.append([member])
    return runs


def _fetch_members(tar: CachedTar, source: Source, members: list[Member]) -> Failures:
    """Fetch by runs; where one is not right, its members one by one, so that what is right is kept."""
    lost: list[Member] = []
    try:
        lost = _fetch_runs(tar, source, into_runs(members))
    except (DamagedShardError, MissingDataError) as error:
        if len(members) == 1:
            return {members[0].row: _of_member(tar, members[0], error)}
        lost = members
    failed: Failures = {}
    for member in lost:
        failed |= _fetch_again(tar, source, member)
    return failed


def _fetch_again(tar: CachedTar, source: Source, member: Member) -> Failures:
    """Ask for a single member until it is what the sidecar says, or was asked for often enough."""
    problem: ShardError | None = None
    for _ in range(ATTEMPTS):
        try:
            if not _fetch_runs(tar, source, [[member]]):
                return {}
        except (DamagedShardError, MissingDataError) as error:
            problem = error
            break
    return {member.row: _of_member(tar, member, problem)}


def _fetch_runs(tar: CachedTar, source: Source, runs: Sequence[list[Member]]) -> list[Member]:
    """Fetch runs and keep what is right of them; returns the members that are not."""
    starts, stops = [run[0].start for run in runs], [max(member.stop for member in run) for run in runs]
    num_bytes = sum(stops) - sum(starts)
    with source.cache.room(num_bytes, needed=source.wait) as granted:
        return _read_runs(tar, source, runs, starts, stops) if granted else []


def _read_runs(
    tar: CachedTar, source: Source, runs: Sequence[list[Member]], starts: Sequence[int], stops: Sequence[int]
) -> list[Member]:
    asked = [place for place, (start, stop) in enumerate(zip(starts, stops, strict=True)) if stop > start]
    name = tar.index.info.name
    parts = source.store.get_ranges(name, [starts[p] for p in asked], [stops[p] for p in asked]) if asked else []
    source.traffic.add(len(asked), sum(stops) - sum(starts))
    found = dict(zip(asked, parts, strict=True))
    lost: list[Member] = []
    for place, run in enumerate(runs):
        data = memoryview(found.get(place, b""))
        lost += _keep(tar, run, data, starts[place], source.cache)
    return lost


def _keep(tar: CachedTar, run: list[Member], data: memoryview, start: int, cache: Cache) -> list[Member]:
    right: list[Member] = []
    wrong: list[Member] = []
    for member in run:
        payload = data[member.start - start : member.stop - start]
        checksum = int(tar.index.extents[member.field].checksums[member.row])
        (right if xxhash.xxh3_64_intdigest(payload) == checksum else wrong).append(member)
    parts = [(data, start)] if not wrong else [(data[m.start - start : m.stop - start], m.start) for m in right]
    for part, offset in parts:
        try:
            tar.write(part, offset)
        except OSError:  # full, though there seemed to be room: make it, and try once more
            cache.give_way()
            try:
                tar.write(part, offset)
            except OSError as error:
                raise unwritable(tar.path.parent.parent, error) from None
    for member in right:
        tar.set_present(tar.fields[member.field], member.row)
    return wrong


def _of_member(tar: CachedTar, member: Member, error: ShardError | None) -> ShardError:
    if isinstance(error, MissingDataError):
        return error
    problem = "what its store gives has another checksum than its sidecar says: its bytes were changed"
    if isinstance(error, DamagedShardError):
        problem = error.problem
    return DamagedShardError(
        problem, shard=tar.index.info.name, key=tar.index.keys[member.row], field=member.field, offset=member.start
    )
