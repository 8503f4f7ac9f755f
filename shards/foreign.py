"""The samples of a tar made elsewhere: found by a strict scan, described by fields, listed in a sidecar.

A sample is a run of members whose names agree up to the first dot, as in stock WebDataset. A `.npy` member whose dtype
and shape are the same in every sample becomes an array field; every other member is ragged bytes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from shards.format.errors import ShardError, UnsafeMemberError
from shards.format.members import split_member
from shards.format.npy import MAX_HEADER_BYTES, NpyHeader, parse_header
from shards.format.schema import Field, Schema
from shards.format.tar import Member, open_tar, scan


@dataclass(frozen=True)
class Found:
    """A member, and its npy header if it is an array of a kind that can be read in place."""

    member: Member
    header: NpyHeader | None


@dataclass(frozen=True)
class ScannedShard:
    """A tar, the keys of its samples in order, and what each sample has by suffix."""

    path: Path
    keys: list[str]
    rows: list[dict[str, Found]]


def scan_shard(path: Path) -> ScannedShard:
    """Find the samples of a tar; payloads are not read.

    Raises:
        DamagedShardError: it is damaged.
        UnsafeMemberError: a link, a path outside of the archive, a pickle.
        ShardError: its members do not form samples.
    """
    keys: list[str] = []
    rows: list[dict[str, Found]] = []
    with open_tar(path) as file:
        for member in scan(file, path.name):
            key, suffix = split_member(member, path.name)
            if not keys or keys[-1] != key:
                keys.append(key)
                rows.append({})
            if suffix in rows[-1]:
                raise ShardError(f"shard {path.name}, key {key}: member {suffix!r} is there twice")
            rows[-1][suffix] = Found(member, _npy_header(file, member, path.name, key))
    if len(set(keys)) < len(keys):
        twice = Counter(keys).most_common(1)[0][0]
        raise ShardError(f"shard {path.name}: the members of sample {twice!r} do not stand together")
    return ScannedShard(path, keys, rows)


def _npy_header(file: BinaryIO, member: Member, shard: str, key: str) -> NpyHeader | None:
    if not member.name.endswith(".npy"):
        return None
    file.seek(member.offset)
    try:
        header = parse_header(file.read(min(member.size, 2 * MAX_HEADER_BYTES)))
        num_bytes = _stored_bytes(header)
    except ValueError as error:
        if "pickle" in str(error):
            raise UnsafeMemberError(f"shard {shard}, key {key}: member {member.name!r}: {error}") from None
        return None
    in_place = not header.fortran_order and header.num_bytes + num_bytes == member.size
    return header if in_place else None


def _stored_bytes(header: NpyHeader) -> int:
    """Bytes of the numbers behind a header.

    Raises:
        ValueError: no field can hold them.
    """
    if header.shape[:1] == (0,):  # rows of which a sample has none
        Field(name="npy", dtype=header.dtype, shape=(None, *header.shape[1:]))
        return 0
    return Field(name="npy", dtype=header.dtype, shape=header.shape).num_bytes


def common_schema(scanned: Sequence[ScannedShard], group: str = "") -> Schema:
    """The fields that all samples have.

    Raises:
        ShardError: there are no samples, they differ in their members, or a member's name is no field's.
    """
    first = next((row for shard in scanned for row in shard.rows), None)
    if first is None:
        raise ShardError(f"shard {scanned[0].path.name} has no samples, and the others of its series have none either")
    headers = {suffix: found.header for suffix, found in first.items()}
    for shard in scanned:
        for key, row in zip(shard.keys, shard.rows, strict=True):
            if set(row) != set(first):
                raise ShardError(
                    f"shard {shard.path.name}, key {key}: has members {sorted(row)}, the first sample has "
                    f"{sorted(first)}; every sample needs the same members"
                )
            for suffix, found in row.items():
                known = headers[suffix]
                if known is None or found.header is None or 0 in known.shape or _kind(found.header) != _kind(known):
                    headers[suffix] = None
    try:
        return Schema(tuple(_field(suffix, header, group) for suffix, header in headers.items()))
    except ValueError as error:
        raise ShardError(f"shard {scanned[0].path.name}: {error}") from None


def _kind(header: NpyHeader) -> tuple[str, tuple[int, ...]]:
    return header.dtype, header.shape


def _field(suffix: str, header: NpyHeader | None, group: str) -> Field:
    if header is None:
        return Field(name=suffix, group=group)
    return Field(name=suffix.removesuffix(".npy"), dtype=header.dtype, shape=header.shape, group=group)


def fits(shard: ScannedShard, schema: Schema) -> bool:
    """Whether every sample of a tar has exactly these fields."""
    wanted = {field.suffix: field for field in schema}
    return all(
        set(row) == set(wanted) and all(_is_of(found, wanted[suffix]) for suffix, found in row.items())
        for row in shard.rows
    )


def _is_of(found: Found, field: Field) -> bool:
    if not field.is_npy:
        return True
    field = field.as_stored
    if found.header is None or found.header.dtype != field.dtype:
        return False
    shape = found.header.shape
    return shape[1:] == field.row_shape and len(shape) > 0 if field.is_rows else shape == field.shape
