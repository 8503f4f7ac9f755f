"""The one copy of a masked or whole row, out of a mapped file into the batch, and of bytes that are to be checked.

`gather.c` does it 1.2 to 1.9 times as fast as numpy (docs/performance.md), in the widest registers that the CPU at hand
has, and survives a file that is cut or
overwritten meanwhile, which no copy from Python can: a page that is not there any more is SIGBUS. So where it was not
compiled at installation, `COMPILED` is false and files are read, not mapped.
"""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

LIBRARY = Path(__file__).with_name("_gather.so")
NO_LIBRARY = "pipeline/read/gather.c was not compiled for this machine; install again where there is a C compiler"
NO_SIGBUS = -1


def _load(path: str) -> ctypes.CDLL | None:
    try:
        library = ctypes.CDLL(path)
        rows, whole, way = library.reelshard_copy_rows, library.reelshard_copy_bytes, library.reelshard_way
    except (OSError, AttributeError):  # not there, of another machine, or of another version
        return None
    pointer, size = ctypes.c_void_p, ctypes.c_size_t
    rows.argtypes = [pointer, pointer, pointer, pointer, size, size, size, size, ctypes.c_int]
    whole.argtypes = [pointer, pointer, size]
    way.argtypes = [ctypes.c_int]
    rows.restype = whole.restype = ctypes.c_int
    way.restype = ctypes.c_char_p
    return library


_library = _load(str(LIBRARY))
COMPILED = _library is not None


def _ways() -> dict[str, int]:
    names: list[bytes] = []
    while _library is not None and (name := _library.reelshard_way(len(names))) is not None:
        names.append(name)
    return {name.decode(): number for number, name in enumerate(names) if name}


WAYS = _ways()  # ways to copy that this CPU has, by name, the fastest first; none where nothing was compiled


def gather(
    out: NDArray[np.uint8],
    sources: NDArray[np.uint64],
    positions: NDArray[np.int64] | None,
    num_pieces: int,
    *,
    way: str | None = None,
) -> NDArray[np.bool_]:
    """Fill the rows of `out` from memory at given addresses; the GIL is released meanwhile.

    Args:
        out: u8 `[B, P, piece_bytes]`, contiguous.
        sources: u64 `[B]`, address of each row's payload `[num_pieces, piece_bytes]`, in a mapping that stays; 0 leaves
            a row of `out` as it is.
        positions: i64 `[B, P]`, contiguous: which pieces to take; None takes all in order, and P is `num_pieces`.
        num_pieces: pieces of a payload.
        way: one of `WAYS`, to compare them; None takes the fastest. Where the alignment of `out` forbids it, the next.

    Returns:
        bool `[B]`: rows that were lost, since a page of the mapped file is not there any more (it was cut or
        overwritten, or its storage failed). What such a row of `out` holds is not defined.

    Raises:
        ValueError: a row names a piece that does not exist; rows after it are not filled.
        RuntimeError: too many handlers of SIGBUS were installed by others.
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
    lost = np.zeros(num_rows, np.bool_)
    sizes = num_rows, num_chosen, num_pieces, piece_bytes
    number = 0 if way is None else WAYS[way]
    status = _library.reelshard_copy_rows(
        out.ctypes.data, sources.ctypes.data, chosen, lost.ctypes.data, *sizes, number
    )
    if status == NO_SIGBUS:
        raise _too_many_handlers()
    if status:
        raise beyond_last_piece(num_pieces)
    return lost


def copy_bytes(out: NDArray[np.uint8], source: int) -> bool:
    """Fill `out`, u8 contiguous, from an address in a mapping that stays; the GIL is released meanwhile.

    Returns:
        Whether all of it was there; if not, what `out` holds is not defined.

    Raises:
        RuntimeError: too many handlers of SIGBUS were installed by others.
    """
    assert _library is not None
    assert out.flags.c_contiguous
    status: int = _library.reelshard_copy_bytes(out.ctypes.data, source, len(out))
    if status == NO_SIGBUS:
        raise _too_many_handlers()
    return status == 0


def _too_many_handlers() -> RuntimeError:
    return RuntimeError(
        "more than 16 different handlers of SIGBUS were installed in this process, so that a mapped file that is cut "
        "would end it: use reader pread"
    )


def beyond_last_piece(num_pieces: int) -> ValueError:
    """What is raised when a mask names a position that a field does not have."""
    return ValueError(f"the mask names a position outside 0 to {num_pieces - 1}, all that the field has")
