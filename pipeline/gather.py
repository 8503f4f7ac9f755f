"""The one copy of a masked or whole row: out of a mapped file, into the batch.

`gather.c` does it 1.2 to 1.5 times as fast as numpy (docs/performance.md). Where it was not compiled at installation,
`COMPILED` is false and the loader copies with numpy, to the same bytes.
"""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

LIBRARY = Path(__file__).with_name("_gather.so")
NO_LIBRARY = "pipeline/gather.c was not compiled for this machine; install again where there is a C compiler"


def _load() -> ctypes.CDLL | None:
    try:
        library = ctypes.CDLL(str(LIBRARY))
    except OSError:  # not there, or of another machine
        return None
    pointer, size = ctypes.c_void_p, ctypes.c_size_t
    library.reelshard_gather.argtypes = [pointer, pointer, pointer, size, size, size, size]
    library.reelshard_gather.restype = ctypes.c_int
    return library


_library = _load()
COMPILED = _library is not None


def gather(
    out: NDArray[np.uint8], sources: NDArray[np.uint64], positions: NDArray[np.int64] | None, num_pieces: int
) -> None:
    """Fill the rows of `out` from memory at given addresses; the GIL is released meanwhile.

    Args:
        out: u8 `[B, P, piece_bytes]`, contiguous.
        sources: u64 `[B]`, address of each row's payload `[num_pieces, piece_bytes]`, which must stay readable; 0
            leaves a row of `out` as it is.
        positions: i64 `[B, P]`, contiguous: which pieces to take; None takes all in order, and P is `num_pieces`.
        num_pieces: pieces of a payload.

    Raises:
        ValueError: a row names a piece that does not exist; rows after it are not filled.
    """
    assert _library is not None
    assert out.flags.c_contiguous
    num_rows, num_chosen, piece_bytes = out.shape
    assert len(sources) == num_rows
    chosen = None
    if positions is not None:
        assert positions.flags.c_contiguous
        assert positions.shape == (num_rows, num_chosen)
        chosen = positions.ctypes.data
    bad = _library.reelshard_gather(
        out.ctypes.data, sources.ctypes.data, chosen, num_rows, num_chosen, num_pieces, piece_bytes
    )
    if bad:
        raise beyond_last_piece(num_pieces)


def beyond_last_piece(num_pieces: int) -> ValueError:
    """What is raised when a mask names a position that a field does not have."""
    return ValueError(f"the mask names a position outside 0 to {num_pieces - 1}, all that the field has")
