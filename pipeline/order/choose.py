"""Random sets of positions, a function of (seed, epoch, sample) alone: in C where it was compiled, else in numpy."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.order.bits import derive_key, mix

LIBRARY = Path(__file__).with_name("_choose.so")
MOST_HELD = 16384  # positions, a tenth of a millisecond: to get the interpreter's lock back may take longer
Positions = NDArray[np.int64]


def _load(path: str, kind: type[ctypes.CDLL] = ctypes.CDLL) -> ctypes.CDLL | None:
    try:
        library = kind(path)
        function = library.reelshard_choose
    except (OSError, AttributeError):  # not there, of another machine, or of another version
        return None
    pointer, size = ctypes.c_void_p, ctypes.c_size_t
    function.argtypes = [ctypes.c_uint64, pointer, size, size, size, pointer, pointer, pointer]
    function.restype = None
    return library


_library = _load(str(LIBRARY))
_holding = _load(str(LIBRARY), ctypes.PyDLL)  # the interpreter's lock


def choose(count: int, chosen: int, seed: int, epoch: int, samples: Positions) -> tuple[Positions, Positions]:
    """For each sample a uniformly random set of `chosen` of `count` positions, and the others.

    The positions with the smallest random keys are chosen; the low bits of a key are the position, so no two are equal.

    Args:
        count: how many there are.
        chosen: from 1 to `count`.
        seed: any integer.
        epoch: from 0 on.
        samples: i64 `[B]`.

    Returns:
        i64 `[B, chosen]` and i64 `[B, count - chosen]`, both in ascending order.
    """
    if _library is None or _holding is None:
        return choose_by_numpy(count, chosen, seed, epoch, samples)
    samples = np.ascontiguousarray(samples, np.int64)
    ours, others = np.empty((len(samples), chosen), np.int64), np.empty((len(samples), count - chosen), np.int64)
    scratch = np.empty(3 * (count + 1), np.uint64)
    places = (array.ctypes.data for array in (ours, others, scratch))
    key = int(derive_key(seed, epoch, count))
    library = _holding if len(samples) * count <= MOST_HELD else _library
    library.reelshard_choose(key, samples.ctypes.data, len(samples), count, chosen, *places)
    return ours, others


def choose_by_numpy(count: int, chosen: int, seed: int, epoch: int, samples: Positions) -> tuple[Positions, Positions]:
    """The same without C."""
    bits = np.uint64((count - 1).bit_length())
    positions = np.arange(count, dtype=np.uint64)
    streams = mix(samples.astype(np.uint64) ^ derive_key(seed, epoch, count))
    keys = mix(streams[:, None] + positions)
    keys &= ~((np.uint64(1) << bits) - np.uint64(1))
    keys |= positions
    threshold = np.partition(keys, chosen - 1, axis=1)[:, chosen - 1 : chosen]
    return split(keys <= threshold)


def split(chosen: NDArray[np.bool_]) -> tuple[Positions, Positions]:
    """Bool `[B, count]`, as many true in every row, as the ascending positions of both values: true, false."""
    rows = np.arange(len(chosen))[:, None] * chosen.shape[1]
    first, second = (np.flatnonzero(values).reshape(len(values), -1) - rows for values in (chosen, ~chosen))
    return first, second
