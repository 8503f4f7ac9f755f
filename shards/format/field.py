"""One member of every sample: what it holds, how that is stored, and how the member's name follows from it."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from shards.codecs import Codec, codec_of
from shards.format.parse import check_field_name, check_name, count, mapping, sequence, spell, text

Layout = Literal["plain", "frames", "tubes", "packed"]
Kind = Literal["array", "rows", "packed", "bytes"]

MAX_AXES = 32
MAX_ARRAY_BYTES = 1 << 40
_DTYPE = re.compile(r"[<|][biufc][0-9]{1,2}")


@dataclass(frozen=True, kw_only=True)
class Field:
    """One member of every sample, of one of four kinds: "array", "rows", "packed" or "bytes".

    Attributes:
        name: field name. An array `clip` is the member `KEY.clip.npy`; bytes `json` are the member `KEY.json`.
        dtype: numpy dtype string with byte order, such as "|u1" or "<f2"; None for packed pieces and bytes.
        shape: shape of the array, for rows None (each sample has its own length) and the shape of a row, such as
            `(None, 256, 18, 18)`; None for packed pieces and bytes.
        layout: what the axes mean. "frames" is `[T, H, W, C]`; "tubes" has one spatial position over all time as its
            first axis; "plain" says nothing. "packed" are bytes that hold many pieces behind a table.
        group: the tar series that holds the field; "" is the main one.
        codec: how an array is stored in fewer bytes, one of `shards.codecs.CODECS`; None where it is stored as it is.
            dtype, shape and layout are those of the array, whatever is stored of it; see `as_stored`.
    """

    name: str
    dtype: str | None = None
    shape: tuple[int | None, ...] | None = None
    layout: Layout = "plain"
    group: str = ""
    codec: str | None = None

    def __post_init__(self) -> None:
        check_field_name(self.name)
        self._check_array()
        if self.codec is not None:
            self._check_codec(codec_of(self.codec))

    def _check_codec(self, codec: Codec) -> None:
        if not self.is_array or self.dtype is None:
            raise ValueError(f"field {self.name} is {self.spell_kind()}: only arrays of fixed shape have a codec")
        try:
            codec.stored_shape(self.dtype, self.fixed_shape)
        except ValueError as error:
            raise ValueError(f"field {self.name}: {error}") from None

    def _check_array(self) -> None:
        if self.group:
            check_name(self.group, "the group's name")
        if self.layout not in get_args(Layout):
            raise ValueError(
                f"field {self.name}: layout {spell(self.layout)} is not one of {', '.join(get_args(Layout))}"
            )
        if (self.dtype is None) != (self.shape is None):
            raise ValueError(f"field {self.name}: give dtype and shape for an array, or neither for ragged bytes")
        if self.dtype is None or self.shape is None:
            if self.layout not in ("plain", "packed"):
                raise ValueError(f"field {self.name}: ragged bytes have no layout, got {spell(self.layout)}")
            return
        if not _is_little_endian_number(self.dtype):
            raise ValueError(
                f"field {self.name}: dtype {spell(self.dtype)} is not a little-endian number like '|u1' or '<f2'"
            )
        if any(not _is_length(length) for length in self._stored_axes) or len(self.shape) > MAX_AXES:
            raise ValueError(
                f"field {self.name}: shape {spell(self.shape)} must be at most {MAX_AXES} positive whole numbers; the "
                "first may be None for rows"
            )
        if self._axes_bytes > MAX_ARRAY_BYTES:
            raise ValueError(
                f"field {self.name}: an array of shape {spell(self.shape)} has {self._axes_bytes} bytes, too many"
            )
        allowed = ("plain", "frames") if self.is_rows else ("plain", "frames", "tubes") if self.shape else ("plain",)
        if self.layout not in allowed:
            raise ValueError(
                f"field {self.name}: an array of shape {spell(self.shape)} has no layout {spell(self.layout)}, only "
                f"{' or '.join(allowed)}"
            )

    @cached_property
    def kind(self) -> Kind:
        """Which of the four kinds the field is."""
        if self.dtype is None:
            return "packed" if self.layout == "packed" else "bytes"
        return "rows" if self.shape and self.shape[0] is None else "array"

    @property
    def is_array(self) -> bool:
        """Whether every sample holds an array of the same dtype and shape."""
        return self.kind == "array"

    @property
    def is_rows(self) -> bool:
        """Whether every sample holds an array of the same dtype and row shape, with a length of its own."""
        return self.kind == "rows"

    @property
    def is_packed(self) -> bool:
        """Whether every sample holds a number of pieces of bytes, in one member behind a table."""
        return self.kind == "packed"

    @property
    def is_npy(self) -> bool:
        """Whether the member is an `.npy` file: an array or rows."""
        return self.dtype is not None

    @property
    def has_lengths(self) -> bool:
        """Whether samples differ in a length that the sidecar tells: rows, or pieces."""
        return self.kind in ("rows", "packed")

    @property
    def _stored_axes(self) -> tuple[int | None, ...]:
        shape = self.shape or ()
        return shape[1:] if self.is_rows else shape

    @property
    def _axes_bytes(self) -> int:
        return math.prod(length or 0 for length in self._stored_axes) * np.dtype(self.dtype).itemsize

    @cached_property
    def fixed_shape(self) -> tuple[int, ...]:
        """Shape of the array that every sample holds.

        Raises:
            ValueError: it differs from sample to sample.
        """
        if not self.is_array:
            raise ValueError(f"field {self.name} is {self.spell_kind()}: its size differs from sample to sample")
        return tuple(length or 0 for length in self._stored_axes)

    @cached_property
    def as_stored(self) -> Field:
        """The field that the payloads are of: the same where there is no codec, else u8 of another shape."""
        if self.codec is None or self.dtype is None:
            return self
        shape = codec_of(self.codec).stored_shape(self.dtype, self.fixed_shape)
        return replace(
            self, dtype="|u1", shape=shape, layout="tubes" if self.layout == "tubes" else "plain", codec=None
        )

    def encode(self, array: NDArray[Any]) -> NDArray[Any]:
        """What is stored of an array of this field; the array itself where there is no codec.

        Raises:
            ValueError: the codec cannot store it.
        """
        return array if self.codec is None else codec_of(self.codec).encode(array)

    def decode(self, stored: NDArray[Any]) -> NDArray[Any]:
        """The array that `encode` was given, as near as the codec comes to it, read-only."""
        if self.codec is None or self.dtype is None:
            return stored
        array = codec_of(self.codec).decode(stored, self.dtype, self.fixed_shape)
        array.flags.writeable = False
        return array

    @cached_property
    def num_bytes(self) -> int:
        """Bytes that are stored of one array, without the npy header.

        Raises:
            ValueError: they differ from sample to sample.
        """
        if self.codec is not None:
            return self.as_stored.num_bytes
        return math.prod(self.fixed_shape) * np.dtype(self.dtype).itemsize

    @cached_property
    def row_shape(self) -> tuple[int, ...]:
        """Shape of one row of a rows field.

        Raises:
            ValueError: it is none.
        """
        if not self.is_rows:
            raise ValueError(f"field {self.name} has no rows: it is {self.spell_kind()}")
        return tuple(length or 0 for length in self._stored_axes)

    @cached_property
    def row_bytes(self) -> int:
        """Bytes of one row of a rows field, at least 1.

        Raises:
            ValueError: it is none.
        """
        return math.prod(self.row_shape) * np.dtype(self.dtype).itemsize

    @property
    def num_positions(self) -> int:
        """Length of the first axis, which is the spatial position in the tubes layout.

        Raises:
            ValueError: the field is ragged or a single number.
        """
        if not self.is_array or not self.fixed_shape:
            raise ValueError(f"field {self.name} has no positions: it is ragged or a single number")
        return self.fixed_shape[0]

    def takes(self, array: NDArray[Any]) -> bool:
        """Whether an array can be the value of the field: its dtype and shape fit."""
        shape = (None, *array.shape[1:]) if self.is_rows and array.ndim else array.shape
        return array.dtype.str == self.dtype and shape == self.shape

    def spell_kind(self) -> str:
        """The kind in words, for messages."""
        words = {"array": "an array of fixed shape", "rows": "rows", "packed": "packed pieces", "bytes": "bytes"}
        return words[self.kind]

    @property
    def suffix(self) -> str:
        """What follows `KEY.` in the member's name."""
        return f"{self.name}.npy" if self.is_npy and self.name != "npy" else self.name

    def to_json(self) -> dict[str, Any]:
        """The field as it stands in the manifest and in sidecars."""
        shape = None if self.shape is None else list(self.shape)
        record = {"name": self.name, "dtype": self.dtype, "shape": shape, "layout": self.layout, "group": self.group}
        return record if self.codec is None else record | {"codec": self.codec}

    @classmethod
    def from_json(cls, record: object) -> Field:
        """The inverse of `to_json`.

        Raises:
            ValueError: a key is missing or unknown, or a value is not allowed.
        """
        values = mapping(record, "a field")
        if set(values) - {"codec"} != {"name", "dtype", "shape", "layout", "group"}:
            raise ValueError("a field needs name, dtype, shape, layout and group, may have a codec, and nothing else")
        shape = values["shape"]
        return cls(
            name=text(values["name"], "a field's name"),
            dtype=None if values["dtype"] is None else text(values["dtype"], "a field's dtype"),
            shape=None if shape is None else _shape_from_json(sequence(shape, "a shape")),
            layout=text(values["layout"], "a field's layout"),  # type: ignore[arg-type]  # the constructor checks it
            group=text(values["group"], "a field's group"),
            codec=text(values["codec"], "a field's codec") if "codec" in values else None,
        )


def _shape_from_json(lengths: list[Any]) -> tuple[int | None, ...]:
    rows = lengths[:1] == [None]
    return (*([None] if rows else []), *(count(length, "a length in a shape") for length in lengths[rows:]))


def _is_length(value: object) -> bool:
    return isinstance(value, int) and value >= 1


def _is_little_endian_number(dtype: str) -> bool:
    try:
        return _DTYPE.fullmatch(dtype) is not None and np.dtype(dtype).str == dtype
    except TypeError:
        return False
