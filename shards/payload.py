"""One payload in a tar: read whole and checked, or a run of its rows or pieces alone."""

from __future__ import annotations

import os
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import xxhash
from numpy.typing import NDArray

from shards.format.errors import DamagedShardError
from shards.format.extents import Extents
from shards.format.packed import read_borders, table_bytes
from shards.format.schema import Field
from shards.format.tar import open_tar

StoredValue = NDArray[Any] | bytes | list[bytes]


@dataclass(frozen=True)
class Payload:
    """Where the value of one field of one sample lies, as the sidecar says.

    Attributes:
        tar: the shard.
        field: what is stored.
        key: of the sample, for messages.
        offset: first byte.
        size: bytes in all.
        checksum: xxh3-64 of them.
        length: rows or pieces; 0 where the field has neither.
    """

    tar: Path
    field: Field
    key: str
    offset: int
    size: int
    checksum: int
    length: int

    @classmethod
    def of(cls, tar: Path, field: Field, extents: Extents, row: int, key: str) -> Payload:
        """The payload of one row of a sidecar's columns."""
        length = 0
        size = int(extents.sizes[row])
        if extents.pieces is not None:
            length = int(extents.pieces[row])
        elif field.is_rows:
            length = size // field.row_bytes
        return cls(tar, field, key, int(extents.offsets[row]), size, int(extents.checksums[row]), length)

    def read(self) -> StoredValue:
        """The whole value; see `ShardDataset.read`."""
        stored = self.read_stored()
        return self.field.decode(stored) if isinstance(stored, np.ndarray) else stored

    def read_stored(self) -> StoredValue:
        """The whole value, where the field has a codec as that has stored it."""
        with open_tar(self.tar) as file:
            data = self._read_at(file, 0, self.size)
        if xxhash.xxh3_64_intdigest(data) != self.checksum:
            raise self._damaged("the payload's checksum is wrong: its bytes were changed")
        if self.field.is_packed:
            borders = self._borders(data)
            return [data[begin:end] for begin, end in pairwise(borders)]
        return self._rows(data) if self.field.is_npy else data

    def read_run(self, start: int, stop: int) -> StoredValue:
        """Rows or pieces `start` to `stop`; see `ShardDataset.read_run`."""
        if not self.field.has_lengths:
            raise ValueError(
                f"field {self.field.name} is {self.field.spell_kind()}: only rows and packed pieces are read in runs"
            )
        if not 0 <= start <= stop <= self.length:
            raise IndexError(
                f"key {self.key}, field {self.field.name}: it has {self.length} rows or pieces, got {start} to {stop}"
            )
        with open_tar(self.tar) as file:
            if self.field.is_rows:
                size = self.field.row_bytes
                return self._rows(self._read_at(file, start * size, (stop - start) * size))
            borders = self._borders(self._read_at(file, 0, table_bytes(self.length)))[start : stop + 1]
            data = self._read_at(file, borders[0], borders[-1] - borders[0])
        return [data[begin - borders[0] : end - borders[0]] for begin, end in pairwise(borders)]

    def _rows(self, data: bytes) -> NDArray[Any]:
        stored = self.field.as_stored
        shape = (-1, *stored.row_shape) if stored.is_rows else stored.fixed_shape
        return np.frombuffer(data, stored.dtype).reshape(shape)

    def _borders(self, table: bytes) -> list[int]:
        try:
            borders: list[int] = read_borders(table, self.size, self.length).tolist()
        except ValueError as error:
            raise self._damaged(str(error)) from None
        return borders

    def _read_at(self, file: BinaryIO, start: int, size: int) -> bytes:
        """Bytes `start` to `start + size` of the payload; nothing is taken hold of for what the file does not have."""
        total = os.fstat(file.fileno()).st_size
        data = b""
        if self.offset + start + size <= total:
            file.seek(self.offset + start)
            data = file.read(size)
        if len(data) < size:
            there = max(0, min(self.size, total - self.offset))
            raise self._damaged(f"the file ends after {there} of {self.size} payload bytes; it was cut off")
        return data

    def _damaged(self, problem: str) -> DamagedShardError:
        return DamagedShardError(problem, shard=self.tar.name, key=self.key, field=self.field.name, offset=self.offset)


def as_bytes(value: StoredValue) -> bytes:
    """A value that has to be bytes.

    Raises:
        ValueError: it is an array or a list of pieces.
    """
    if not isinstance(value, bytes):
        raise ValueError(f"it has to be bytes, got {'pieces' if isinstance(value, list) else 'an array'}")
    return value
