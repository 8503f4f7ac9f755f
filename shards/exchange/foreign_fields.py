"""What the members of stock tars become: fields of fixed shape, rows, packed pieces or bytes, in pages and in tubes.

| members of the samples | field |
|---|---|
| `x.npy` of one dtype and shape | the array `x`; u8 `[T, H, W, 3]` in the layout `frames`, or `tubes` where asked |
| `x.npy` of one dtype that differ in their first length | the rows `x` |
| `0.jpg`, `1.jpg`, ... or `x.0.jpg`, `x.1.jpg`, ... | the packed pieces `jpg`, or `x.jpg`, in order of number |
| all others | bytes under their own name |
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from shards.format.errors import ShardError
from shards.format.layout import clip_to_tubes, target_to_tubes
from shards.format.npy import NpyHeader, decode_array
from shards.format.schema import Field, Layout
from shards.writer import Value

_NUMBERED = re.compile(r"(?P<name>(?:[^.]+\.)*)(?P<number>[0-9]{1,9})\.(?P<kind>.*[^0-9.].*)")
NUMBERS = "biufc"
RGB = 3

Array = NDArray[np.generic]


@dataclass(frozen=True, kw_only=True)
class Tubes:
    """How clips are cut into tubes.

    Attributes:
        tubelet: frames of a tubelet.
        patch: pixels of a patch's side.
    """

    tubelet: int = 2
    patch: int = 16

    def __post_init__(self) -> None:
        if self.tubelet < 1 or self.patch < 1:
            raise ValueError(f"a tubelet has {self.tubelet} frames and a patch {self.patch} pixels; give at least 1")


@dataclass(frozen=True)
class ImportedField:
    """A field, and how its value comes from the members of a sample.

    Attributes:
        field: what is written.
        suffixes: one sample's members of it -> in their order.
        make: makes the value of their bytes.
    """

    field: Field
    suffixes: Callable[[Sequence[str]], list[str]]
    make: Callable[[list[bytes]], Value]


@dataclass
class Members:
    """What is seen of the members of one field to be, over all samples.

    Attributes:
        name: of the field, as long as it is not known to be an array.
        pieces: whether members are numbered.
        shapes: of arrays; None stands for a member that is none.
        dtypes: of arrays, little-endian.
    """

    name: str
    pieces: bool
    shapes: set[tuple[int, ...] | None] = field(default_factory=set)
    dtypes: set[str] = field(default_factory=set)

    def see(self, header: NpyHeader | None) -> None:
        """Take note of one member."""
        numeric = header is not None and np.dtype(header.dtype).kind in NUMBERS
        self.shapes.add(header.shape if header is not None and numeric else None)
        if header is not None and numeric:
            self.dtypes.add(np.dtype(header.dtype).newbyteorder("<").str)


def field_name(suffix: str) -> tuple[str, bool]:
    """The name under which a member is collected, and whether it is one of several that are numbered."""
    found = _NUMBERED.fullmatch(suffix)
    return (found["name"] + found["kind"], True) if found else (suffix, False)


def piece_number(suffix: str) -> int:
    """The number of a numbered member."""
    found = _NUMBERED.fullmatch(suffix)
    return int(found["number"]) if found else 0


def imported_fields(seen: Mapping[str, Members], tubes: Tubes | None) -> list[ImportedField]:
    """The fields of the samples, in the order in which their members were first seen.

    Args:
        seen: by name; what all samples have.
        tubes: how clips, and targets of as many tokens, are cut; None leaves them as they are.

    Raises:
        ShardError: tubes are asked for, and there is nothing that can be cut.
        ValueError: a name is no field's.
    """
    fields = []
    grids = {_cut(shape, tubes) for one in seen.values() if (shape := _clip_shape(one)) and tubes}
    if tubes and not grids:
        raise ShardError(
            "the layout tubes is asked for, and no member holds clips: arrays u8 [T, H, W, 3] of one shape, in .npy"
        )
    for name, one in seen.items():
        if one.pieces:
            suffixes = _numbered(name)
            fields.append(ImportedField(Field(name=name, layout="packed"), suffixes, list))
        else:
            fields.append(_single(name, one, tubes, grids))
    return fields


def _numbered(name: str) -> Callable[[Sequence[str]], list[str]]:
    def pick(suffixes: Sequence[str]) -> list[str]:
        return sorted((suffix for suffix in suffixes if field_name(suffix) == (name, True)), key=piece_number)

    return pick


def _single(name: str, seen: Members, tubes: Tubes | None, grids: set[tuple[int, int]]) -> ImportedField:
    def pick(suffixes: Sequence[str]) -> list[str]:
        return [name] if name in suffixes else []

    shape = _array_shape(seen)
    if shape is None:
        return ImportedField(Field(name=name), pick, lambda data: data[0])
    (dtype,) = seen.dtypes
    stem = name.removesuffix(".npy")

    def read(data: list[bytes]) -> Array:
        return np.asarray(decode_array(data[0]), dtype, order="C")

    lengths = tuple(length for length in shape if length is not None)
    if (clip := _clip_shape(seen)) and tubes:
        size = tubes
        places, times = _cut(clip, size)
        shape = (places, times, size.tubelet, size.patch, size.patch, RGB)
        into = Field(name=stem, dtype=dtype, shape=shape, layout="tubes")
        return ImportedField(into, pick, lambda data: clip_to_tubes(_u8(read(data)), size.tubelet, size.patch))
    fitting = [grid for grid in sorted(grids) if len(lengths) == 2 and lengths[0] == math.prod(grid)]
    if fitting and None not in shape and np.dtype(dtype).kind == "f":
        places, times = fitting[0]
        into = Field(name=stem, dtype=dtype, shape=(places, times, lengths[1]), layout="tubes")
        return ImportedField(into, pick, lambda data: target_to_tubes(read(data), times))
    layout: Layout = "frames" if len(shape) == 4 and shape[3] == RGB and dtype == "|u1" else "plain"
    return ImportedField(Field(name=stem, dtype=dtype, shape=shape, layout=layout), pick, read)


def _u8(array: Array) -> NDArray[np.uint8]:
    return array.astype(np.uint8, copy=False)


def _array_shape(seen: Members) -> tuple[int | None, ...] | None:
    """The shape of a field that can hold all of them; None where that is bytes alone."""
    shapes = [shape for shape in seen.shapes if shape is not None]
    if len(shapes) < len(seen.shapes) or len(seen.dtypes) != 1:
        return None
    if len(shapes) == 1 and 0 not in shapes[0]:
        return shapes[0]
    rests = {shape[1:] for shape in shapes}
    if len(rests) > 1 or () in shapes or any(0 in rest for rest in rests):
        return None
    return (None, *rests.pop())


def _clip_shape(seen: Members) -> tuple[int, int, int, int] | None:
    """The shape of clips; None where they are none."""
    shape = None if seen.pieces else _array_shape(seen)
    if shape is None or len(shape) != 4 or None in shape or shape[3] != RGB or seen.dtypes != {"|u1"}:
        return None
    frames, height, width, channels = (length or 0 for length in shape)
    return frames, height, width, channels


def _cut(shape: tuple[int, ...], tubes: Tubes) -> tuple[int, int]:
    """Positions and times of a clip that is cut.

    Raises:
        ShardError: a side is not a multiple.
    """
    frames, height, width = shape[:3]
    if frames % tubes.tubelet or height % tubes.patch or width % tubes.patch:
        raise ShardError(
            f"clips of {frames} frames of {height}x{width} cannot be cut into tubelets of {tubes.tubelet} frames and "
            f"patches of {tubes.patch} pixels: each side must be a multiple; give others with --tubelet and --patch"
        )
    return (height // tubes.patch) * (width // tubes.patch), frames // tubes.tubelet
