"""Many pieces of bytes in one member, such as the JPEG frames of a video: `u32 n`, `u64 ends[n]`, the pieces.

One member for all frames avoids a tar header each; the table at its head lets one piece, or a run of them, be read
alone. All numbers are little-endian; `ends` count from the first piece's first byte.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

COUNT_BYTES = 4
END_BYTES = 8
MAX_PIECES = (1 << 32) - 1


def table_bytes(num_pieces: int) -> int:
    """Bytes of the table before `num_pieces` pieces."""
    return COUNT_BYTES + END_BYTES * num_pieces


def pack_pieces(pieces: Sequence[bytes]) -> bytes:
    """Join pieces into one payload.

    Raises:
        ValueError: there are more than a table counts.
    """
    if len(pieces) > MAX_PIECES:
        raise ValueError(f"{len(pieces)} pieces do not fit into one member, at most {MAX_PIECES} do")
    ends = np.cumsum([len(piece) for piece in pieces], dtype="<u8") if pieces else np.empty(0, "<u8")
    return b"".join([np.array(len(pieces), "<u4").tobytes(), ends.tobytes(), *pieces])


def read_borders(table: bytes | memoryview | NDArray[np.uint8], num_bytes: int, num_pieces: int) -> NDArray[np.int64]:
    """Where the pieces lie, by the table before them, checked whole.

    Args:
        table: the payload, or its first `table_bytes(num_pieces)` bytes.
        num_bytes: of the whole payload.
        num_pieces: as the sidecar says.

    Returns:
        i64 `[num_pieces + 1]`: piece `i` is the bytes `borders[i]` to `borders[i + 1]` of the payload.

    Raises:
        ValueError: the table counts other pieces, or its ends fall, or do not end where the payload does.
    """
    start = table_bytes(num_pieces)
    if num_pieces < 0 or start > min(num_bytes, len(table)):
        raise ValueError(f"{min(num_bytes, len(table))} bytes do not hold the table of pieces they announce")
    count = int(np.frombuffer(table, "<u4", 1)[0])
    if count != num_pieces:
        raise ValueError(f"its table counts {count} pieces, the sidecar {num_pieces}")
    ends = np.frombuffer(table, "<u8", num_pieces, COUNT_BYTES)
    if int(ends[-1] if num_pieces else 0) != num_bytes - start or (ends[1:] < ends[:-1]).any():
        raise ValueError(f"the table of {num_pieces} pieces does not describe the {num_bytes - start} bytes behind it")
    borders = np.empty(num_pieces + 1, np.int64)
    borders[0], borders[1:] = start, ends.astype(np.int64) + start
    return borders


def count_pieces(data: bytes | memoryview) -> int:
    """The number of pieces that a payload announces; whether it holds them is seen by `read_borders`.

    Raises:
        ValueError: it is too short to announce any.
    """
    if len(data) < COUNT_BYTES:
        raise ValueError(f"{len(data)} bytes do not hold the table of pieces they announce")
    return int(np.frombuffer(data, "<u4", 1)[0])


def unpack_pieces(data: bytes) -> list[memoryview]:
    """The inverse of `pack_pieces`; the pieces are views of `data`.

    Raises:
        ValueError: the ends do not describe `data`.
    """
    borders = read_borders(data, len(data), count_pieces(data)).tolist()
    view = memoryview(data)
    return [view[start:stop] for start, stop in pairwise(borders)]
