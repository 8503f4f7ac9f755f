"""How long a video file says it is.

A decoder that runs out of bytes often just stops, without an error: a WebM cut at half its length plays half its
frames. The outermost element of the common containers states its own size, so a cut anywhere shows without decoding.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

_EBML_HEADER, _EBML_SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
_ISO_FIRST_BOXES = {b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot"}
_MAX_ISO_BOXES = 100_000


def declared_bytes(path: Path) -> int | None:
    """Return the least size in bytes that the file's container structure asks for.

    Args:
        path: a Matroska/WebM, MP4/MOV or AVI file; others are not understood.

    Returns:
        The size, or None where the container is another one or does not say.
    """
    with path.open("rb") as file:
        head = file.read(12)
        if head[:4] == _EBML_HEADER:
            return _matroska_bytes(file)
        if head[4:8] in _ISO_FIRST_BOXES:
            return _iso_bytes(file, os.fstat(file.fileno()).st_size)
        if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
            size = int.from_bytes(head[4:8], "little")
            return size + 8 if 0 < size < 2**31 else None
    return None


def _matroska_bytes(file: BinaryIO) -> int | None:
    file.seek(len(_EBML_HEADER))
    header_bytes = _read_vint(file)
    if header_bytes is None:
        return None
    file.seek(header_bytes, os.SEEK_CUR)
    if file.read(4) != _EBML_SEGMENT:
        return None
    segment_bytes = _read_vint(file)
    return None if segment_bytes is None else file.tell() + segment_bytes


def _read_vint(file: BinaryIO) -> int | None:
    """Read an EBML size: the leading zeros of the first byte tell its length; all ones means unknown."""
    first = file.read(1)
    if not first or first[0] == 0:
        return None
    num_more = 8 - first[0].bit_length()
    more = file.read(num_more)
    if len(more) < num_more:
        return None
    value_bits = 7 * (num_more + 1)
    value = int.from_bytes(first + more, "big") & ((1 << value_bits) - 1)
    return None if value == (1 << value_bits) - 1 else value


def _iso_bytes(file: BinaryIO, file_bytes: int) -> int | None:
    position = 0
    for _ in range(_MAX_ISO_BOXES):
        if position >= file_bytes:
            return position
        file.seek(position)
        header = file.read(16)
        size = int.from_bytes(header[:4], "big")
        if size == 1:
            size = int.from_bytes(header[8:16], "big")
        if size == 0:  # this box reaches to the end of the file
            return file_bytes
        if size < 8 or not header[4:8].isascii():
            return None if position == 0 else position
        position += size
    return None
