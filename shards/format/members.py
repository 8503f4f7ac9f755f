"""What a tar holds against what its sidecar says of it: names, places, and the headers of arrays."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from shards.format.errors import DamagedShardError, ShardError, UnsafeMemberError
from shards.format.index import ShardIndex
from shards.format.npy import MAX_HEADER_BYTES, parse_header
from shards.format.packed import read_borders, table_bytes
from shards.format.parse import PICKLE_SUFFIXES
from shards.format.schema import Field, check_key
from shards.format.tar import Member, next_member, open_tar, scan


def split_member(member: Member, shard: str) -> tuple[str, str]:
    """Key and suffix of `dir/KEY.suffix`; a folder becomes a part of the key, joined by `--`.

    Raises:
        ShardError: the member belongs to no sample.
        UnsafeMemberError: it is a pickle.
    """
    folder, _, name = member.name.rpartition("/")
    stem, _, suffix = name.partition(".")
    key = "--".join(part for part in (*folder.split("/"), stem) if part)
    if not suffix:
        raise ShardError(f"shard {shard}: member {member.name!r} has no suffix, so it belongs to no field")
    if suffix.rpartition(".")[2].lower() in PICKLE_SUFFIXES:
        raise UnsafeMemberError(f"shard {shard}: member {member.name!r} is a pickle, which can run code when read")
    try:
        return check_key(key.replace("\\", "-")), suffix
    except ValueError as error:
        raise ShardError(f"shard {shard}: member {member.name!r}: {error}") from None


def check_members(path: Path, index: ShardIndex) -> None:
    """Compare the members of a tar with its sidecar; payloads are not read.

    Raises:
        ShardError: the first thing in which they differ.
    """
    for problem in member_problems(path, index):
        raise problem


def member_problems(path: Path, index: ShardIndex) -> Iterator[ShardError]:
    """Yield where the members of a tar and its sidecar differ: in names, in places, in the headers of arrays."""
    expected = {
        (key, field.suffix): _Place(field, *numbers)
        for field in index.schema
        for key, *numbers in zip(index.keys, *_columns(index, field), strict=True)
    }
    if len(expected) < len(index) * len(index.schema.fields):
        yield DamagedShardError("a key is there twice", shard=path.name)
    headers: dict[str, bytes] = {}
    try:
        with open_tar(path) as file:
            for member in scan(file, path.name):
                key, suffix = split_member(member, path.name)
                place = expected.pop((key, suffix), None)
                if place is None:
                    text = f"the tar holds {member.name!r}, the sidecar does not list it, or lists it once"
                    yield DamagedShardError(text, shard=path.name, offset=member.offset)
                    continue
                try:
                    _check_member(file, member, place, headers)
                except ValueError as error:
                    name = place.field.name
                    yield DamagedShardError(str(error), shard=path.name, key=key, field=name, offset=member.offset)
    except ShardError as error:
        yield error
        return
    for (key, suffix), place in expected.items():
        text = f"the sidecar lists {key}.{suffix}, the tar does not hold it"
        yield DamagedShardError(text, shard=path.name, key=key, field=place.field.name, offset=place.offset)


def header_problem(data: memoryview, head: int, index: ShardIndex, field: Field, row: int) -> str | None:
    """What is wrong with the headers in front of one payload: its name, its place, or the header of an array.

    Args:
        data: of the tar from `head` on, to the end of the payload.
        head: where the headers begin, which is where the member before ends.
        index: the sidecar.
        field: of the payload.
        row: of the payload.
    """
    extents = index.extents[field.name]
    length = int(index.lengths(field.name)[row]) if field.has_lengths else 0
    place = _Place(field, int(extents.offsets[row]) - head, int(extents.sizes[row]), length)
    file = BytesIO(data[: place.offset + table_bytes(length) if field.is_packed else place.offset])
    try:
        member = next_member(file, 0, index.info.num_bytes - head, index.info.name)
        expected = f"{index.keys[row]}.{field.suffix}"
        if member is None or split_member(member, index.info.name) != (index.keys[row], field.suffix):
            held = "no member" if member is None else repr(member.name)
            return f"the tar holds {held} where the sidecar lists {expected}"
        _check_member(file, member, place, {})
    except DamagedShardError as error:
        return error.problem
    except (ShardError, ValueError) as error:
        return str(error)
    return None


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the sidecar says that the payload of a field lies."""

    field: Field
    offset: int
    size: int
    length: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array that is stored of this sample."""
        return (self.length, *self.field.row_shape) if self.field.is_rows else self.field.as_stored.fixed_shape


def _columns(index: ShardIndex, field: Field) -> tuple[list[int], list[int], list[int]]:
    extents = index.extents[field.name]
    lengths = index.lengths(field.name).tolist() if field.has_lengths else [0] * len(index)
    return extents.offsets.tolist(), extents.sizes.tolist(), lengths


def _check_member(file: BinaryIO, member: Member, place: _Place, headers: dict[str, bytes]) -> None:
    """Compare one member; `headers` remembers an npy header of each array field that was found right.

    Raises:
        ValueError: it is not what the sidecar says.
    """
    field, lead = place.field, place.offset - member.offset
    if lead + place.size != member.size or not 0 <= lead <= 2 * MAX_HEADER_BYTES or (lead and not field.is_npy):
        raise ValueError(
            f"its payload is not at bytes {place.offset} to {place.offset + place.size}, where the sidecar says it is"
        )
    if field.is_packed:
        file.seek(place.offset)
        read_borders(file.read(table_bytes(place.length)), place.size, place.length)
    if not field.is_npy:
        return
    file.seek(member.offset)
    header = file.read(lead)
    if headers.get(field.name) == header and field.is_array:
        return
    found = parse_header(header)
    dtype = field.as_stored.dtype
    if (found.dtype, found.shape, found.fortran_order, found.num_bytes) != (dtype, place.shape, False, lead):
        raise ValueError(f"its .npy header says {found.dtype} {found.shape}, the sidecar {dtype} {place.shape}")
    headers[field.name] = header
