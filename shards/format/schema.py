"""What every sample of a data set consists of, and how member names follow from it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from shards.format.parse import MAX_NAME_BYTES, check_name, count, mapping, sequence, spell, text

Layout = Literal["plain", "frames", "tubes"]

MAX_MEMBER_NAME_BYTES = 100
MAX_AXES = 32
MAX_ARRAY_BYTES = 1 << 40
PICKLE_SUFFIXES = frozenset({"pkl", "pickle", "pyd", "pt", "pth", "joblib"})
_DTYPE = re.compile(r"[<|][biufc][0-9]{1,2}")


@dataclass(frozen=True, kw_only=True)
class Field:
    """One member of every sample: an array of fixed dtype and shape, or ragged bytes.

    Attributes:
        name: field name. An array `clip` is the member `KEY.clip.npy`; ragged bytes `json` are the member `KEY.json`.
        dtype: numpy dtype string with byte order, such as "|u1" or "<f2"; None for ragged bytes.
        shape: shape of the array; None for ragged bytes.
        layout: what the axes mean. "frames" is `[T, H, W, C]`; "tubes" has one spatial position over all time as its
            first axis; "plain" says nothing.
        group: the tar series that holds the field; "" is the main one.
    """

    name: str
    dtype: str | None = None
    shape: tuple[int, ...] | None = None
    layout: Layout = "plain"
    group: str = ""

    def __post_init__(self) -> None:
        _check_suffix(self.name)
        if self.group:
            check_name(self.group, "the group's name")
        if self.layout not in get_args(Layout):
            raise ValueError(
                f"field {self.name}: layout {spell(self.layout)} is not one of {', '.join(get_args(Layout))}"
            )
        if (self.dtype is None) != (self.shape is None):
            raise ValueError(f"field {self.name}: give dtype and shape for an array, or neither for ragged bytes")
        if self.dtype is None or self.shape is None:
            if self.layout != "plain":
                raise ValueError(f"field {self.name}: ragged bytes have no layout, got {spell(self.layout)}")
            return
        if not _is_little_endian_number(self.dtype):
            raise ValueError(
                f"field {self.name}: dtype {spell(self.dtype)} is not a little-endian number like '|u1' or '<f2'"
            )
        if any(not isinstance(length, int) or length < 1 for length in self.shape) or len(self.shape) > MAX_AXES:
            raise ValueError(
                f"field {self.name}: shape {spell(self.shape)} must be at most {MAX_AXES} positive whole numbers"
            )
        if self.num_bytes > MAX_ARRAY_BYTES:
            raise ValueError(
                f"field {self.name}: an array of shape {spell(self.shape)} has {self.num_bytes} bytes, too many"
            )
        if self.layout != "plain" and not self.shape:
            raise ValueError(f"field {self.name}: a single number has no layout, got {spell(self.layout)}")

    @property
    def is_array(self) -> bool:
        """Whether every sample holds an array of the same dtype and shape."""
        return self.dtype is not None

    @property
    def num_bytes(self) -> int:
        """Bytes of one array, without the npy header.

        Raises:
            ValueError: the field is ragged.
        """
        if self.dtype is None or self.shape is None:
            raise ValueError(f"field {self.name} is ragged: its size differs from sample to sample")
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize

    @property
    def num_positions(self) -> int:
        """Length of the first axis, which is the spatial position in the tubes layout.

        Raises:
            ValueError: the field is ragged or a single number.
        """
        if not self.shape:
            raise ValueError(f"field {self.name} has no positions: it is ragged or a single number")
        return self.shape[0]

    @property
    def suffix(self) -> str:
        """What follows `KEY.` in the member's name."""
        return f"{self.name}.npy" if self.is_array and self.name != "npy" else self.name

    def to_json(self) -> dict[str, Any]:
        """The field as it stands in the manifest and in sidecars."""
        shape = None if self.shape is None else list(self.shape)
        return {"name": self.name, "dtype": self.dtype, "shape": shape, "layout": self.layout, "group": self.group}

    @classmethod
    def from_json(cls, record: object) -> Field:
        """The inverse of `to_json`.

        Raises:
            ValueError: a key is missing or unknown, or a value is not allowed.
        """
        values = mapping(record, "a field")
        if set(values) != {"name", "dtype", "shape", "layout", "group"}:
            raise ValueError("a field needs name, dtype, shape, layout and group, and nothing else")
        shape = values["shape"]
        return cls(
            name=text(values["name"], "a field's name"),
            dtype=None if values["dtype"] is None else text(values["dtype"], "a field's dtype"),
            shape=None if shape is None else tuple(count(n, "a length in a shape") for n in sequence(shape, "a shape")),
            layout=text(values["layout"], "a field's layout"),  # type: ignore[arg-type]  # the constructor checks it
            group=text(values["group"], "a field's group"),
        )


@dataclass(frozen=True)
class Schema:
    """The fields of every sample, in the order in which they stand in the tar."""

    fields: tuple[Field, ...]

    def __post_init__(self) -> None:
        if not self.fields:
            raise ValueError("a schema needs at least one field")
        suffixes = [field.suffix for field in self.fields]
        if len(set(suffixes)) < len(suffixes) or len({field.name for field in self.fields}) < len(suffixes):
            raise ValueError(f"field names must be unique, got {', '.join(field.name for field in self.fields)}")

    def __iter__(self) -> Iterator[Field]:
        return iter(self.fields)

    def __contains__(self, name: object) -> bool:
        return any(field.name == name for field in self.fields)

    def __getitem__(self, name: str) -> Field:
        for field in self.fields:
            if field.name == name:
                return field
        raise ValueError(f"no field {name!r}; there are {', '.join(self.names)}")

    @property
    def names(self) -> tuple[str, ...]:
        """Field names in order."""
        return tuple(field.name for field in self.fields)

    @property
    def groups(self) -> tuple[str, ...]:
        """Names of the tar series, the main one ("") first where it has fields."""
        names = dict.fromkeys(field.group for field in self.fields)
        return tuple(sorted(names, key=bool))

    def of_group(self, group: str) -> Schema:
        """The fields of one tar series."""
        return Schema(tuple(field for field in self.fields if field.group == group))


def _is_little_endian_number(dtype: str) -> bool:
    try:
        return _DTYPE.fullmatch(dtype) is not None and np.dtype(dtype).str == dtype
    except TypeError:
        return False


def check_key(key: str) -> str:
    """Return the key, or raise.

    Raises:
        ValueError: a key must be non-empty text without dots, slashes, backslashes and control characters, so that
            every reader splits `KEY.field` the same way and no member leaves its folder.
    """
    if not key or not key.isprintable() or any(character in key for character in "./\\"):
        raise ValueError(
            f"key {key!r} is not allowed: it must be non-empty, without dots, slashes or control characters"
        )
    return key


def _check_suffix(name: str) -> None:
    parts = name.split(".")
    if (
        not all(parts)
        or not name.isprintable()
        or any(character in name for character in "/\\ ")
        or len(name.encode()) > MAX_NAME_BYTES
    ):
        raise ValueError(
            f"field name {spell(name)} is not allowed: use words joined by dots, such as 'clip' or 'caption.txt'"
        )
    if parts[-1].lower() in PICKLE_SUFFIXES:
        raise ValueError(
            f"field name {name!r} is not allowed: pickled data can run code when read; store arrays or JSON"
        )
