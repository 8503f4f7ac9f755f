"""A tar made elsewhere, scanned and hashed in one pass; and the sidecar that follows once its fields are known."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import BinaryIO

import xxhash

from shards.foreign import Found, ScannedShard, scan_shard
from shards.format.errors import DamagedShardError, ShardError
from shards.format.index import ShardIndex, ShardInfo
from shards.format.packed import COUNT_BYTES, END_BYTES, count_pieces, read_borders, table_bytes
from shards.format.parse import mapping, parse_json
from shards.format.schema import Field, Schema
from shards.format.tar import Member, open_tar
from shards.progress import Progress, untold

CHUNK_BYTES = 8 << 20
MAX_JSON_BYTES = 16 << 20


@dataclass(frozen=True)
class Hashed:
    """What was found of one member.

    Attributes:
        checksum: xxh3-64 of all of it.
        payload_checksum: xxh3-64 of what follows its npy header; that of all of it where it has none.
        pieces: how many packed pieces it holds, if it can be read as such.
    """

    checksum: int
    payload_checksum: int
    pieces: int | None = None


@dataclass(frozen=True)
class HashedShard:
    """A tar that was read to its end.

    Attributes:
        scanned: its samples.
        info: its size and digest.
        members: what was found of each sample's members, by suffix.
        views: the view hashes that its JSON members name; None for a member that names none.
    """

    scanned: ScannedShard
    info: ShardInfo
    members: list[dict[str, Hashed]]
    views: frozenset[str | None]


def hash_tar(path: Path, *, stop: Event | None = None, progress: Progress = untold) -> HashedShard:
    """Read a tar to its end.

    Raises:
        DamagedShardError: it is damaged, or became shorter meanwhile.
        UnsafeMemberError: as of `scan_shard`.
        ShardError: as of `scan_shard`.
    """
    scanned = scan_shard(path)
    places = [(row, suffix) for row, members in enumerate(scanned.rows) for suffix in members]
    places.sort(key=lambda place: scanned.rows[place[0]][place[1]].member.offset)
    members: list[dict[str, Hashed]] = [{} for _ in scanned.rows]
    views: set[str | None] = set()
    digest = xxhash.xxh3_128()
    with open_tar(path) as file:
        reader = _Reader(file, path.name, digest, stop or Event(), progress)
        for row, suffix in places:
            found = scanned.rows[row][suffix]
            reader.read_to(found.member.offset)
            members[row][suffix] = reader.member(found)
            if suffix == "json":
                views.add(_view_of(file, found.member))
                file.seek(reader.position)
        num_bytes = reader.read_to_end()
    info = ShardInfo(path.name, len(scanned.keys), num_bytes, digest.hexdigest())
    return HashedShard(scanned, info, members, frozenset(views))


class _Reader:
    """Reads a tar once from its beginning, into digests."""

    def __init__(self, file: BinaryIO, shard: str, digest: xxhash.xxh3_128, stop: Event, progress: Progress) -> None:
        self.position = 0
        self._file, self._shard, self._digest, self._stop, self._progress = file, shard, digest, stop, progress
        self._untold = 0

    def read_to(self, position: int, *digests: xxhash.xxh3_64) -> None:
        """Read up to a position."""
        while self.position < position:
            data = self._read(min(position - self.position, CHUNK_BYTES))
            if not data:
                raise DamagedShardError("the file became shorter while it was read", shard=self._shard)
            for digest in digests:
                digest.update(data)

    def member(self, found: Found) -> Hashed:
        """Read a member."""
        member, whole, payload = found.member, xxhash.xxh3_64(), xxhash.xxh3_64()
        start = member.offset + (found.header.num_bytes if found.header else 0)
        self.read_to(start, whole)
        self.read_to(member.offset + member.size, whole, payload)
        pieces = None if found.header else count_packed(self._file, member)
        self._file.seek(self.position)
        return Hashed(whole.intdigest(), payload.intdigest(), pieces)

    def read_to_end(self) -> int:
        """Read the rest, and return the size of the file."""
        while self._read(CHUNK_BYTES):
            pass
        self._progress(self._untold)
        return self.position

    def _read(self, size: int) -> bytes:
        if self._stop.is_set():
            raise ShardError(f"shard {self._shard}: stopped")
        data = self._file.read(size)
        self._digest.update(data)
        self.position += len(data)
        self._untold += len(data)
        if self._untold >= CHUNK_BYTES:
            self._progress(self._untold)
            self._untold = 0
        return data


def count_packed(file: BinaryIO, member: Member) -> int | None:
    """How many packed pieces a member holds, by the table at its head; None if that does not describe it."""
    file.seek(member.offset)
    try:
        pieces = count_pieces(file.read(min(COUNT_BYTES, member.size)))
        if pieces > (member.size - COUNT_BYTES) // END_BYTES:
            return None
        file.seek(member.offset)
        read_borders(file.read(table_bytes(pieces)), member.size, pieces)
    except ValueError:
        return None
    return pieces


def _view_of(file: BinaryIO, member: Member) -> str | None:
    """The view hash that a JSON member of our own builder holds."""
    if member.size > MAX_JSON_BYTES:
        return None
    file.seek(member.offset)
    try:
        found = mapping(parse_json(file.read(member.size)), "it").get("view_hash")
    except ValueError:
        return None
    return found if isinstance(found, str) else None


def make_index(shard: HashedShard, schema: Schema) -> ShardIndex:
    """The sidecar of a tar whose samples have these fields.

    Raises:
        DamagedShardError: the table of packed pieces does not describe them.
    """
    table: dict[str, list[tuple[int, ...]]] = {field.name: [] for field in schema}
    for key, row, members in zip(shard.scanned.keys, shard.scanned.rows, shard.members, strict=True):
        for field in schema:
            table[field.name].append(_extent(shard, key, field, row[field.suffix], members[field.suffix]))
    return ShardIndex.build(shard.info, schema, shard.scanned.keys, table)


def _extent(shard: HashedShard, key: str, field: Field, found: Found, hashed: Hashed) -> tuple[int, ...]:
    member = found.member
    if field.is_npy and found.header:
        skip = found.header.num_bytes
        return (member.offset + skip, member.size - skip, hashed.payload_checksum)
    if not field.is_packed:
        return (member.offset, member.size, hashed.checksum)
    if hashed.pieces is None:
        raise DamagedShardError(
            f"its {member.size} bytes are not those of packed pieces: there is no table that describes them",
            shard=shard.info.name,
            key=key,
            field=field.name,
        )
    return (member.offset, member.size, hashed.checksum, hashed.pieces)
