"""Decodes stored arrays in the reader threads, for batches that stay on the CPU: in C where that was compiled, in numpy
otherwise, with the same bits. `pipeline.coded` does the same on a device."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards.codecs import codec_of
from shards.format.schema import Field

LIBRARY = Path(__file__).with_name("_decode.so")


def _load(path: str) -> ctypes.CDLL | None:
    try:
        library = ctypes.CDLL(path)
        pixels, tokens = library.reelshard_decode_yuv420, library.reelshard_decode_int8
    except (OSError, AttributeError):  # not there, of another machine, or of another version
        return None
    pointer, size = ctypes.c_void_p, ctypes.c_size_t
    pixels.argtypes = [pointer, pointer, size, size, size, ctypes.c_int]
    tokens.argtypes = [pointer, pointer, size, size, ctypes.c_int, ctypes.c_int]
    pixels.restype = tokens.restype = None
    return library


_library = _load(str(LIBRARY))
COMPILED = _library is not None
WAYS = ("wide", "plain", "numpy") if COMPILED else ("numpy",)  # the fastest first; the last two are on every CPU


def decode_into(field: Field, stored: NDArray[np.uint8], out: NDArray[Any], *, way: str = WAYS[0]) -> None:
    """Decode positions of one sample; the GIL is released meanwhile.

    Args:
        field: which has a codec.
        stored: u8, contiguous: whole positions, as many as `out` has.
        out: `[P, ...]` of the field's dtype, contiguous, P of its positions.
        way: one of `WAYS`, to compare them.
    """
    assert field.codec is not None
    assert stored.flags.c_contiguous
    assert out.flags.c_contiguous
    if way == "numpy":
        assert field.dtype is not None
        with np.errstate(all="ignore"):  # bytes that nobody has compared may be anything
            out[...] = codec_of(field.codec).decode(stored, field.dtype, out.shape)
        return
    assert _library is not None
    plain = way == "plain"
    if field.codec == "yuv420":
        height, width = out.shape[-3:-1]
        frames = out.size // (height * width * 3)
        _library.reelshard_decode_yuv420(out.ctypes.data, stored.ctypes.data, frames, height, width, plain)
    else:
        width = out.shape[-1]
        halves = out.dtype == np.float16
        _library.reelshard_decode_int8(out.ctypes.data, stored.ctypes.data, out.size // width, width, halves, plain)
