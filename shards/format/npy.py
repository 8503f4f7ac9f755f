"""The `.npy` header: ours is padded to one page, any other is parsed without evaluating or unpickling anything."""

from __future__ import annotations

import math
import re
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards.format.parse import count, spell

PAGE_BYTES = 4096
MAGIC = b"\x93NUMPY"
MAX_HEADER_BYTES = 10_000  # numpy's own limit
_NUMBER_OR_TEXT = re.compile(r"[<>|=]?[?b-zA-Z][0-9]{0,9}")
_OBJECT = re.compile(r"""['"][<>|=]?O[0-9]*['"]""")
# What every writer of .npy makes of its dictionary. It is not parsed as Python, whose parser a hostile text can wreck.
_BLANKS = " \t\n"
_SPACE = rf"[{_BLANKS}]*"
_LENGTH = r"(?:0+|[1-9][0-9]*)L?"
_ENTRY = re.compile(
    rf"""{_SPACE}(?:
        (?:'descr'|"descr"){_SPACE}:{_SPACE}(?:(?P<descr>'[^'"]*'|"[^'"]*")|(?P<record>\[.*\]))
        |(?:'fortran_order'|"fortran_order"){_SPACE}:{_SPACE}(?P<fortran>True|False)
        |(?:'shape'|"shape"){_SPACE}:{_SPACE}\({_SPACE}(?P<shape>
            (?:{_LENGTH}{_SPACE},|{_LENGTH}(?:{_SPACE},{_SPACE}{_LENGTH})+(?:{_SPACE},)?)?
        ){_SPACE}\)
    ){_SPACE}(?:,{_SPACE}|(?=}}))""",
    re.VERBOSE | re.DOTALL,
)


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
    found = _entries(data[start : start + length].decode("latin1").strip(_BLANKS))
    if "record" in found and not _OBJECT.search(found["record"]):
        raise ValueError("the .npy header describes records; only plain numbers are read in place")
    description = found.get("descr", "'O'")[1:-1]
    if not _NUMBER_OR_TEXT.fullmatch(description):
        raise ValueError(f"the dtype {spell(description)} in the .npy header is not one")
    try:
        dtype = np.dtype(description)
    except TypeError:
        raise ValueError(f"the dtype {spell(description)} in the .npy header is not one") from None
    if dtype.hasobject:
        raise ValueError("the .npy file holds pickled objects, which can run code when read; store numbers")
    shape = tuple(int(length) for length in found["shape"].replace("L", "").split(",") if length.strip())
    lengths = tuple(count(length, "a length in the .npy header") for length in shape)
    return NpyHeader(dtype.str, lengths, found["fortran"] == "True", start + length)


def decode_array(data: bytes) -> NDArray[Any]:
    """The array in an `.npy` file, read-only and without a copy; what `np.load` gives, whatever the header says.

    Raises:
        ValueError: not an npy file, or not whole, or objects that would need unpickling.
    """
    header = parse_header(data)
    size = math.prod(header.shape) * np.dtype(header.dtype).itemsize
    if len(data) - header.num_bytes != size:
        raise ValueError(f"it has {len(data) - header.num_bytes} bytes of numbers, its header announces {size}")
    flat = np.ndarray(math.prod(header.shape), header.dtype, data, header.num_bytes)
    return flat.reshape(header.shape, order="F" if header.fortran_order else "C")


def _entries(text: str) -> dict[str, str]:
    """The three entries of a header's dictionary, as they are spelled."""
    found: dict[str, str] = {}
    position = 1
    while entry := _ENTRY.match(text, position):
        found |= {name: value for name, value in entry.groupdict().items() if value is not None}
        position = entry.end()
    complete = {"fortran", "shape"} < found.keys() and len(found) == 3
    if text[:1] != "{" or text[position:] != "}" or not complete:
        raise ValueError(f"the .npy header does not parse: {spell(text)}")
    return found
