"""Where the payloads of one field lie in a tar: the columns of a sidecar."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards.format.packed import COUNT_BYTES, END_BYTES, MAX_PIECES
from shards.format.parse import binary, entry
from shards.format.schema import Field

LITTLE_U64 = np.dtype("<u8")
COLUMNS = ("offsets", "sizes", "checksums")
PACKED_COLUMNS = (*COLUMNS, "pieces")


@dataclass(frozen=True)
class Extents:
    """Where one field lies in the tar, per sample: u64 arrays `[num_samples]`.

    Attributes:
        offsets: first byte of the payload (after the npy header of an array).
        sizes: bytes of the payload.
        checksums: xxh3-64 of the payload.
        pieces: number of pieces of a packed field; None for any other.
    """

    offsets: NDArray[np.uint64]
    sizes: NDArray[np.uint64]
    checksums: NDArray[np.uint64]
    pieces: NDArray[np.uint64] | None = None

    @classmethod
    def build(cls, field: Field, rows: Sequence[Sequence[int]]) -> Extents:
        """Make the columns of a field from (offset, size, checksum) of each sample, and its pieces if it is packed."""
        table = np.array(rows, LITTLE_U64).reshape(len(rows), len(columns_of(field)))
        return cls(*(np.ascontiguousarray(column) for column in table.T))

    def to_record(self, field: Field) -> dict[str, Any]:
        """The field with its columns as it stands in a sidecar."""
        return field.to_json() | {name: getattr(self, name).tobytes() for name in columns_of(field)}

    def lengths(self, field: Field) -> NDArray[np.int64]:
        """Rows or pieces of each sample, i64 `[num_samples]`.

        Raises:
            ValueError: the field has neither.
        """
        if self.pieces is not None:
            return self.pieces.astype(np.int64)
        return (self.sizes // np.uint64(field.row_bytes)).astype(np.int64)

    def check(self, field: Field, num_samples: int, num_bytes: int) -> None:
        """Refuse payloads that are not of the field's size, and those that do not lie inside the tar.

        Args:
            field: whose columns they are.
            num_samples: of the shard.
            num_bytes: of the tar.

        Raises:
            ValueError: something does not fit.
        """
        for name in columns_of(field):
            if len(getattr(self, name)) != num_samples:
                raise ValueError(f"field {field.name} does not have {num_samples} {name}")
        if field.is_array and (self.sizes != field.num_bytes).any():  # readers copy by the schema's size
            raise ValueError(f"field {field.name} has payloads that are not of its {field.num_bytes} bytes")
        if field.is_rows and (self.sizes % np.uint64(field.row_bytes)).any():
            raise ValueError(f"field {field.name} has payloads that are not whole rows of {field.row_bytes} bytes")
        limit = np.uint64(num_bytes)
        if (self.sizes > limit).any() or (self.offsets > limit - self.sizes).any():
            raise ValueError(f"field {field.name} has payloads beyond the {num_bytes} bytes of the tar")
        if self.pieces is not None:
            too_small = self.sizes < COUNT_BYTES
            most = (self.sizes - np.where(too_small, self.sizes, np.uint64(COUNT_BYTES))) // np.uint64(END_BYTES)
            if too_small.any() or (self.pieces > np.minimum(most, np.uint64(MAX_PIECES))).any():
                raise ValueError(f"field {field.name} has more pieces than its payloads can hold")


def columns_of(field: Field) -> tuple[str, ...]:
    """Names of the columns that a sidecar has of a field."""
    return PACKED_COLUMNS if field.is_packed else COLUMNS


def split_record(record: dict[str, Any]) -> tuple[Field, Extents]:
    """The inverse of `Extents.to_record`; that the columns fit is seen by `Extents.check`.

    Raises:
        ValueError: a value is missing, unknown or of another type.
    """
    field = Field.from_json({key: value for key, value in record.items() if key not in PACKED_COLUMNS})
    names = columns_of(field)
    if extra := sorted(set(record) & set(PACKED_COLUMNS) - set(names)):
        raise ValueError(f"field {field.name} is {field.spell_kind()}, which have no column {extra[0]!r}")
    columns = (binary(entry(record, name, "a field"), f"the {name} of a field") for name in names)
    return field, Extents(*(np.frombuffer(column, LITTLE_U64) for column in columns))
