"""Several pieces of bytes in one ragged field, such as the JPEG frames of a video: `u32 n`, `u64 ends[n]`, the pieces.

One member for all frames avoids a tar header each. All numbers are little-endian.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def pack_pieces(pieces: Sequence[bytes]) -> bytes:
    """Join pieces into one payload."""
    ends = np.cumsum([len(piece) for piece in pieces], dtype="<u8") if pieces else np.empty(0, "<u8")
    return b"".join([np.array(len(pieces), "<u4").tobytes(), ends.tobytes(), *pieces])


def unpack_pieces(data: bytes) -> list[memoryview]:
    """The inverse of `pack_pieces`; the pieces are views of `data`.

    Raises:
        ValueError: the ends do not describe `data`.
    """
    count = int(np.frombuffer(data, "<u4", 1)[0]) if len(data) >= 4 else -1
    start = 4 + 8 * count
    if count < 0 or start > len(data):
        raise ValueError(f"{len(data)} bytes do not hold the table of pieces they announce")
    ends = np.frombuffer(data, "<u8", count, 4).tolist()
    borders = [0, *ends]
    if borders != sorted(borders) or borders[-1] != len(data) - start:
        raise ValueError(f"the table of {count} pieces does not describe the {len(data) - start} bytes behind it")
    view = memoryview(data)[start:]
    return [view[begin:end] for begin, end in zip(borders, ends, strict=False)]
