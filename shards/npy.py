"""The `.npy` header: ours is padded to one page, any other is parsed without evaluating or unpickling anything."""

from __future__ import annotations

import ast
import re
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np

from shards.parse import count, entry, mapping

PAGE_BYTES = 4096
MAGIC = b"\x93NUMPY"
MAX_HEADER_BYTES = 10_000  # numpy's own limit
_NUMBER_OR_TEXT = re.compile(r"[<>|=]?[?b-zA-Z][0-9]{0,9}")


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
    if length > MAX_HEADER_BYTES:
        raise ValueError(f"the .npy header has {length} bytes, at most {MAX_HEADER_BYTES} are allowed")
    if start + length > len(data):
        raise ValueError(f"the .npy header of {length} bytes is cut short")
    try:
        record = mapping(ast.literal_eval(data[start : start + length].decode("latin1").strip()), "an .npy header")
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as error:
        raise ValueError(f"the .npy header does not parse: {error}") from None
    dtype, shape = _dtype(entry(record, "descr", "an .npy header")), entry(record, "shape", "an .npy header")
    if dtype.hasobject:
        raise ValueError("the .npy file holds pickled objects, which can run code when read; store numbers")
    if not isinstance(shape, tuple):
        raise ValueError("the shape in an .npy header has to be a tuple")
    lengths = tuple(count(length, "a length in an .npy header") for length in shape)
    return NpyHeader(dtype.str, lengths, bool(entry(record, "fortran_order", "an .npy header")), start + length)


def _dtype(description: object) -> np.dtype[Any]:
    """A number or text by its short name, or the list that describes a record."""
    if not isinstance(description, list) and not (
        isinstance(description, str) and _NUMBER_OR_TEXT.fullmatch(description)
    ):
        raise ValueError("the dtype in an .npy header is not one")
    try:
        return np.lib.format.descr_to_dtype(description)  # type: ignore[arg-type]
    except Exception as error:  # numpy's checks of nested records are not closed: whatever it says, it is no dtype
        raise ValueError(f"the dtype in an .npy header is not one: {error}") from None
