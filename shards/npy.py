"""The `.npy` header: ours is padded to one page, any other is parsed without evaluating or unpickling anything."""

from __future__ import annotations

import ast
import struct
from dataclasses import dataclass

import numpy as np

PAGE_BYTES = 4096
MAGIC = b"\x93NUMPY"


@dataclass(frozen=True)
class NpyHeader:
    """What stands before the payload of an `.npy` member."""

    dtype: str
    shape: tuple[int, ...]
    fortran_order: bool
    num_bytes: int


def encode_header(dtype: str, shape: tuple[int, ...]) -> bytes:
    """A valid version 1.0 header of exactly `PAGE_BYTES` bytes, padded with spaces."""
    text = repr({"descr": dtype, "fortran_order": False, "shape": shape}).encode("ascii")
    prefix = MAGIC + b"\x01\x00" + struct.pack("<H", PAGE_BYTES - 10)
    padding = PAGE_BYTES - len(prefix) - len(text) - 1
    if padding < 0:
        raise ValueError(f"shape {shape} is too long for a header of {PAGE_BYTES} bytes")
    return prefix + text + b" " * padding + b"\n"


def parse_header(data: bytes) -> NpyHeader:
    """Read the header at the start of `data`.

    Raises:
        ValueError: not an npy file, a header cut short, or a dtype that would need unpickling.
    """
    if data[:6] != MAGIC or len(data) < 12:
        raise ValueError("not an .npy file: the magic bytes are missing")
    major = data[6]
    if major not in (1, 2, 3):
        raise ValueError(f".npy version {major} is not known; 1, 2 and 3 are")
    start = 10 if major == 1 else 12
    length: int = struct.unpack("<H" if major == 1 else "<I", data[8:start])[0]
    if start + length > len(data):
        raise ValueError(f"the .npy header of {length} bytes is cut short")
    try:
        record = ast.literal_eval(data[start : start + length].decode("latin1").strip())
        dtype, shape, fortran = np.dtype(record["descr"]), tuple(record["shape"]), bool(record["fortran_order"])
    except (SyntaxError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"the .npy header does not parse: {error}") from None
    if dtype.hasobject:
        raise ValueError("the .npy file holds pickled objects, which can run code when read; store numbers")
    return NpyHeader(dtype.str, shape, fortran, start + length)
