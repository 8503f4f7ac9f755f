"""Tar, the part of it that data sets need: aligned USTAR headers out, a strict scan in."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import BinaryIO

from shards.format.errors import DamagedShardError, MissingDataError, UnsafeMemberError
from shards.format.files import open_regular
from shards.format.npy import PAGE_BYTES
from shards.format.schema import MAX_MEMBER_NAME_BYTES

BLOCK_BYTES = 512
RECORD_BYTES = 20 * BLOCK_BYTES
END_OF_ARCHIVE = bytes(2 * BLOCK_BYTES)
MAX_MEMBER_BYTES = 8**11 - 1
MAX_EXTENDED_HEADER_BYTES = 1 << 20
MAX_SIZE_DIGITS = 18
COMPRESSIONS = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\0": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x04\x22\x4d\x18": "lz4",
}


@dataclass(frozen=True)
class Member:
    """A regular file in a tar: its name, and where its data lies."""

    name: str
    offset: int
    size: int


def padding(size: int, multiple: int = BLOCK_BYTES) -> int:
    """Bytes from `size` to the next multiple."""
    return -size % multiple


def header(name: str, size: int, typeflag: bytes = b"0") -> bytes:
    """One USTAR header block with everything that could differ between runs set to zero.

    Raises:
        ValueError: the name or the size does not fit.
    """
    encoded = name.encode()
    if len(encoded) > MAX_MEMBER_NAME_BYTES:
        raise ValueError(f"member name {name!r} has {len(encoded)} bytes, at most {MAX_MEMBER_NAME_BYTES} are allowed")
    if size > MAX_MEMBER_BYTES:
        raise ValueError(f"member {name} has {size} bytes, at most {MAX_MEMBER_BYTES} fit into a tar header")
    fields = [
        encoded.ljust(100, b"\0"),
        b"0000644\0" + b"0000000\0" + b"0000000\0",  # mode, uid, gid
        b"%011o\0" % size + b"%011o\0" % 0,  # size, mtime
        b" " * 8 + typeflag + bytes(100),  # checksum (as spaces), type, link name
        b"ustar\x0000" + bytes(32 + 32) + b"0000000\0" + b"0000000\0" + bytes(155 + 12),
    ]
    block = b"".join(fields)
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def aligned_header(name: str, size: int, position: int) -> bytes:
    """Headers for a member written at `position` such that its data starts at a multiple of `PAGE_BYTES`.

    A pax `comment` record, which every tar reader skips, fills the gap.
    """
    if (position + BLOCK_BYTES) % PAGE_BYTES == 0:
        return header(name, size)
    gap = padding(position + 2 * BLOCK_BYTES, PAGE_BYTES) or PAGE_BYTES
    prefix = b"%d comment=" % gap
    comment = prefix + b" " * (gap - len(prefix) - 1) + b"\n"
    return header("PaxHeaders/pad", gap, b"x") + comment + header(name, size)


def scan(file: BinaryIO, shard: str) -> Iterator[Member]:
    """Yield the regular members of a tar, refusing everything that is not exactly right.

    Args:
        file: the tar, opened for reading and seekable.
        shard: its name, for messages.

    Raises:
        DamagedShardError: a header checksum, an end block, a length or a trailing byte is wrong, with its offset; or
            the tar is compressed.
        UnsafeMemberError: a link, a device, a sparse file, an absolute path or one with `..`.
    """
    total = os.fstat(file.fileno()).st_size
    _refuse_compressed(file, shard)
    position = 0
    while (member := next_member(file, position, total, shard)) is not None:
        yield member
        position = member.offset + member.size + padding(member.size)


def next_member(file: BinaryIO, position: int, total: int, shard: str) -> Member | None:
    """The first regular member whose headers are at `position` or behind it; None at the archive's end.

    Args:
        file: the tar, opened for reading and seekable.
        position: where headers begin.
        total: bytes of the tar.
        shard: its name, for messages.

    Raises:
        DamagedShardError, UnsafeMemberError: as `scan`.
    """
    overrides: dict[str, str] = {}
    while True:
        block = _read_exactly(file, position, BLOCK_BYTES, shard)
        if not any(block):
            _check_end(file, position, total, shard)
            return None
        _check_checksum(block, position, shard)
        size = _octal(block[124:136], position, shard)
        if "size" in overrides:
            size = int(overrides["size"])
        data = position + BLOCK_BYTES
        if data + size + padding(size) > total:
            raise DamagedShardError(
                f"the file ends at byte {total}, inside a member that needs {data + size + padding(size)}",
                shard=shard,
                offset=position,
            )
        typeflag = block[156:157]
        if typeflag in b"xgL":
            overrides |= _extended(file, typeflag, data, size, shard)
        else:
            name = overrides.get("path") or _name(block)
            overrides = {}
            if typeflag in (b"0", b"\0"):
                return Member(_checked_name(name, shard), data, size)
            if typeflag != b"5":
                raise UnsafeMemberError(
                    f"shard {shard}, offset {position}: member {name!r} is a link or a special file "
                    f"(tar type {typeflag.decode('latin1')!r}); only regular files are allowed"
                )
        position = data + size + padding(size)


def _refuse_compressed(file: BinaryIO, shard: str) -> None:
    file.seek(0)
    head = file.read(BLOCK_BYTES)
    for magic, name in COMPRESSIONS.items():
        if head.startswith(magic) and head[257:262] != b"ustar":
            raise DamagedShardError(
                f"the tar is compressed ({name}); samples are read in place, so unpack it to a plain .tar first",
                shard=shard,
            )


def _read_exactly(file: BinaryIO, position: int, size: int, shard: str) -> bytes:
    file.seek(position)
    data = file.read(size)
    if len(data) < size:
        raise DamagedShardError(
            f"the file ends where {size} bytes should follow; it was cut off", shard=shard, offset=position
        )
    return data


def _check_checksum(block: bytes, position: int, shard: str) -> None:
    stored = _octal(block[148:156], position, shard)
    if stored != sum(block[:148]) + sum(block[156:]) + 8 * ord(" "):
        raise DamagedShardError("the tar header's checksum is wrong", shard=shard, offset=position)


def _octal(text: bytes, position: int, shard: str) -> int:
    if text[0] & 0x80:  # GNU base-256, for sizes beyond 8 GiB
        return int.from_bytes(bytes([text[0] & 0x7F]) + text[1:], "big")
    digits = text.strip(b" \0")
    if digits and (not digits.isdigit() or b"8" in digits or b"9" in digits):
        raise DamagedShardError("a number in the tar header is not octal", shard=shard, offset=position)
    return int(digits or b"0", 8)


def _name(block: bytes) -> str:
    name = block[:100].rstrip(b"\0")
    prefix = block[345:500].rstrip(b"\0") if block[257:262] == b"ustar" and block[263:265] == b"00" else b""
    return (prefix + b"/" + name if prefix else name).decode("utf-8", "surrogateescape")


def _checked_name(name: str, shard: str) -> str:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not name.isprintable():
        raise UnsafeMemberError(f"shard {shard}: member {name!r} points outside of the archive or is not a plain name")
    return str(path)


def _extended(file: BinaryIO, typeflag: bytes, position: int, size: int, shard: str) -> dict[str, str]:
    """The path and size that a pax or GNU long-name record gives the next member."""
    if size > MAX_EXTENDED_HEADER_BYTES:
        raise DamagedShardError(f"an extended header of {size} bytes is absurd", shard=shard, offset=position)
    data = _read_exactly(file, position, size, shard)
    if typeflag == b"L":
        return {"path": data.rstrip(b"\0").decode("utf-8", "surrogateescape")}
    records: dict[str, str] = {}
    start = 0
    while start < len(data) and data[start : start + 1] != b"\0":
        digits, _, _ = data[start : start + 20].partition(b" ")
        length = int(digits) if digits.isdigit() else 0
        record = data[start + len(digits) + 1 : start + length - 1]
        if length < len(digits) + 3 or data[start + length - 1 : start + length] != b"\n" or b"=" not in record:
            raise DamagedShardError("a pax record does not parse", shard=shard, offset=position + start)
        name, _, value = record.partition(b"=")
        records[name.decode("utf-8", "surrogateescape")] = value.decode("utf-8", "surrogateescape")
        start += length
    if any(name.startswith("GNU.sparse.") for name in records):
        raise UnsafeMemberError(
            f"shard {shard}, offset {position}: a member is stored as a sparse file, without its zeros, so its bytes "
            "do not lie in the tar as they are; make the tar again without `--sparse`"
        )
    size_text = records.get("size", "0")
    if not (size_text.isascii() and size_text.isdigit() and len(size_text) <= MAX_SIZE_DIGITS):
        raise DamagedShardError("a pax size is not a number", shard=shard, offset=position)
    return {name: value for name, value in records.items() if name in ("path", "size")}


def _check_end(file: BinaryIO, position: int, total: int, shard: str) -> None:
    second = _read_exactly(file, position + BLOCK_BYTES, BLOCK_BYTES, shard)
    if any(second):
        raise DamagedShardError("a lone zero block: the archive's end is damaged", shard=shard, offset=position)
    end = position + 2 * BLOCK_BYTES
    file.seek(end)
    if total - end >= RECORD_BYTES or any(file.read(RECORD_BYTES)):
        raise DamagedShardError(f"{total - end} bytes follow the archive's end", shard=shard, offset=end)


def open_tar(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a tar for reading.

    Raises:
        MissingDataError: there is no such file.
        ShardError: it is no file.
    """
    try:
        return open_regular(path)
    except FileNotFoundError:
        raise MissingDataError(f"shard {os.fspath(path)} is missing; restore it, or build it again") from None
