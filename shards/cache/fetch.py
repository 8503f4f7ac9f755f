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
from shards.cache.sparse import NAMED, PAYLOAD, CachedTar
from shards.format.errors import DamagedShardError, MissingDataError, ShardError
from shards.format.members import header_problem
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
    head: int  # where what is fetched for it begins: its headers, or its payload


Lost = dict[Member, str]  # what is wrong with it


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
        named: whether the headers in front of payloads are fetched and compared, too.
    """

    store: Store
    cache: Cache
    traffic: Traffic
    whole: bool = False
    wait: bool = True
    named: bool = False

    @property
    def compared(self) -> int:
        """What a member's byte in the cache has to say at least."""
        return NAMED if self.named else PAYLOAD


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
    lacking = rows[tar.lacks(rows, fields, source.compared)]
    failed: Failures = {}
    for chunk in np.unique(tar.chunks[lacking]).tolist():
        of_chunk = np.flatnonzero(tar.chunks == chunk) if source.whole else lacking[tar.chunks[lacking] == chunk]
        failed |= _fetch_chunk(tar, source, chunk, of_chunk.tolist(), fields)
    return {row: failed[row] for row in rows.tolist() if row in failed} if failed else failed


def _fetch_chunk(tar: CachedTar, source: Source, chunk: int, rows: list[int], fields: Sequence[str]) -> Failures:
    patient_until, pause = time.monotonic() + PATIENCE_SECONDS, 0.0005
    while lacking_members(tar, source, rows, fields):
        claimed = tar.try_claim(chunk)
        if claimed or (source.wait and time.monotonic() > patient_until):
            try:
                return _fetch_members(tar, source, lacking_members(tar, source, rows, fields))
            finally:
                if claimed:
                    tar.give_up(chunk)
        if not source.wait:
            break
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
    return {}


def lacking_members(tar: CachedTar, source: Source, rows: Sequence[int], fields: Sequence[str]) -> list[Member]:
    """Those of the members that are not in the cache, as they lie in the tar."""
    members = members_of(tar, rows, fields, named=source.named)
    return [member for member in members if tar.flags[tar.fields[member.field], member.row] < source.compared]


def members_of(tar: CachedTar, rows: Iterable[int], fields: Sequence[str], *, named: bool = False) -> list[Member]:
    """Some fields of some rows, as they lie in the tar; with their headers where they are `named`."""
    members = []
    for field in fields:
        extents = tar.index.extents[field]
        heads = tar.heads[field] if named else extents.offsets
        for row in rows:
            start, head = int(extents.offsets[row]), int(heads[row])
            members.append(Member(start, start + int(extents.sizes[row]), field, row, head))
    return sorted(members)


def into_runs(members: Sequence[Member]) -> list[list[Member]]:
    """Members that lie close together, to be read by one request."""
    runs: list[list[Member]] = []
    for member in members:
        last = runs[-1] if runs else []
        if last and member.head - last[-1].stop <= GAP_BYTES and member.stop - last[0].head <= RUN_BYTES:
            last.append(member)
        else:
            runs.append([member])
    return runs


def _fetch_members(tar: CachedTar, source: Source, members: list[Member]) -> Failures:
    """Fetch by runs; where one is not right, its members one by one, so that what is right is kept."""
    lost: Iterable[Member] = ()
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
    problem = ""
    for _ in range(ATTEMPTS):
        try:
            lost = _fetch_runs(tar, source, [[member]])
        except (DamagedShardError, MissingDataError) as error:
            return {member.row: _of_member(tar, member, error)}
        if not lost:
            return {}
        problem = lost.get(member, problem)
    return {member.row: _of_member(tar, member, DamagedShardError(problem, shard=tar.index.info.name))}


def _fetch_runs(tar: CachedTar, source: Source, runs: Sequence[list[Member]]) -> Lost:
    """Fetch runs and keep what is right of them; returns the members that are not."""
    starts, stops = [run[0].head for run in runs], [max(member.stop for member in run) for run in runs]
    num_bytes = sum(stops) - sum(starts)
    with source.cache.room(num_bytes, needed=source.wait) as granted:
        return _read_runs(tar, source, runs, starts, stops) if granted else {}


def _read_runs(
    tar: CachedTar, source: Source, runs: Sequence[list[Member]], starts: Sequence[int], stops: Sequence[int]
) -> Lost:
    asked = [place for place, (start, stop) in enumerate(zip(starts, stops, strict=True)) if stop > start]
    name = tar.index.info.name
    parts = source.store.get_ranges(name, [starts[p] for p in asked], [stops[p] for p in asked]) if asked else []
    source.traffic.add(len(asked), sum(stops) - sum(starts))
    found = dict(zip(asked, parts, strict=True))
    lost: Lost = {}
    for place, run in enumerate(runs):
        data = memoryview(found.get(place, b""))
        lost |= _keep(tar, source, run, data, starts[place])
    return lost


def _keep(tar: CachedTar, source: Source, run: list[Member], data: memoryview, start: int) -> Lost:
    wrong: Lost = {}
    for member in run:
        if (problem := _problem(tar, source, member, data[member.head - start : member.stop - start])) is not None:
            wrong[member] = problem
    right = [member for member in run if member not in wrong]
    parts = [(data, start)] if not wrong else [(data[m.start - start : m.stop - start], m.start) for m in right]
    for part, offset in parts:
        try:
            tar.write(part, offset)
        except OSError:  # full, though there seemed to be room: make it, and try once more
            source.cache.give_way()
            try:
                tar.write(part, offset)
            except OSError as error:
                raise unwritable(tar.path.parent.parent, error) from None
    for member in right:
        tar.set_present(tar.fields[member.field], member.row, source.compared)
    return wrong


def _problem(tar: CachedTar, source: Source, member: Member, data: memoryview) -> str | None:
    """What is wrong with what has come for a member."""
    checksum = int(tar.index.extents[member.field].checksums[member.row])
    if xxhash.xxh3_64_intdigest(data[member.start - member.head :]) != checksum:
        return "what its store gives has another checksum than its sidecar says: its bytes were changed"
    if not source.named:
        return None
    return header_problem(data, member.head, tar.index, tar.index.schema[member.field], member.row)


def _of_member(tar: CachedTar, member: Member, error: DamagedShardError | MissingDataError) -> ShardError:
    if isinstance(error, MissingDataError):
        return error
    name, key = tar.index.info.name, tar.index.keys[member.row]
    return DamagedShardError(error.problem, shard=name, key=key, field=member.field, offset=member.start)
