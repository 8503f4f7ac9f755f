"""Where payloads go: one field of some rows of a batch.

Each fills one row after another and says how many bytes it asked of storage for that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.batch.runs import AGAIN, NOTHING, runs
from pipeline.batch.stored import StoredField
from pipeline.read.gather import beyond_last_piece, gather
from pipeline.read.labels import label_of
from shards.format.errors import DamagedShardError
from shards.format.schema import Field

Positions = NDArray[np.int64]


class Destination(Protocol):
    """One field of some rows of a batch."""

    @property
    def field(self) -> Field:
        """As it is stored."""
        ...

    def fill(self, row: int, source: StoredField, source_row: int, check: bool) -> int:
        """Put one payload into its row, at once or with `finish`; returns the bytes asked of storage.

        Raises:
            DamagedShardError: the payload is not what it was when it was written, or not what it has to be.
        """
        ...

    def blank(self, row: int) -> None:
        """Zero a row, so that nothing of an earlier batch shows."""
        ...

    def finish(self) -> Sequence[int]:
        """Copy what `fill` only took note of; returns the rows whose mapped bytes were not there any more."""
        ...


class FixedRows:
    """Arrays of fixed shape, whole or only at the positions of a mask.

    Mapped payloads are copied all at once, at the end. What is to be checked is read whole, and what is given out is
    what was checked, not what the file holds a moment later.
    """

    def __init__(
        self,
        field: Field,
        rows: NDArray[np.uint8],
        positions: Positions | None,
        start: int,
        stop: int,
        *,
        way: str | None = None,
    ) -> None:
        """Fill rows `start` to `stop`.

        Args:
            field: what is read.
            rows: the field's array in the batch, u8 `[B, P, piece_bytes]`.
            positions: i64 `[B, P]`, which pieces of a payload to take; None for all of them.
            start: first row.
            stop: the row after the last.
            way: how mapped payloads are copied; see `gather`.
        """
        self.field, self._rows, self._positions, self._way = field, rows, positions, way
        self._start, self._stop = start, stop
        self._addresses = np.zeros(stop - start, np.uint64)
        self._held: list[StoredField] = []  # so that no address outlives its mapping
        self._drawn_bytes: int = rows.shape[1] * rows.shape[2]
        self._whole_bytes = field.num_bytes

    def take_note(
        self, rows: Sequence[int], sources: Mapping[int, StoredField], shards: Sequence[int], source_rows: Sequence[int]
    ) -> int | None:
        """Take note of many mapped payloads that are not to be checked.

        Args:
            rows: of the batch.
            sources: shard -> this field of it.
            shards: in which each payload lies.
            source_rows: which it is there.

        Returns:
            The bytes asked of storage for that; None, and nothing is noted, if any must be read.
        """
        addresses = {shard: source.addresses for shard, source in sources.items() if source.addresses is not None}
        if len(addresses) < len(sources):
            return None
        where = [addresses[shard][row] for shard, row in zip(shards, source_rows, strict=True)]
        self._addresses[np.array(rows, np.intp) - self._start] = where
        self._held.extend(sources.values())
        return self._drawn_bytes * len(rows)

    def fill(self, row: int, source: StoredField, source_row: int, check: bool) -> int:
        """Take note of a mapped payload, or read it."""
        if not check and source.addresses is not None:
            self._addresses[row - self._start] = source.addresses[source_row]
            self._held.append(source)
            return self._drawn_bytes
        if self._positions is None:
            source.read_into(source_row, self._rows[row].reshape(-1), check)
        else:
            pieces = source.view(source_row, check).reshape(self._num_pieces, -1)
            if self._positions[row].min() < 0 or self._positions[row].max() >= len(pieces):
                raise beyond_last_piece(len(pieces))
            pieces.take(self._positions[row], axis=0, out=self._rows[row], mode="clip")
        return self._whole_bytes

    @property
    def _num_pieces(self) -> int:
        return self._rows.shape[1] if self._positions is None else self.field.num_positions

    def blank(self, row: int) -> None:
        """Zero a row."""
        self._rows[row] = 0

    def finish(self) -> Sequence[int]:
        """Copy the mapped payloads."""
        if not self._held:
            return ()
        chosen = None if self._positions is None else self._positions[self._start : self._stop]
        lost = gather(self._rows[self._start : self._stop], self._addresses, chosen, self._num_pieces, way=self._way)
        return [self._start + row for row in lost.nonzero()[0].tolist()] if lost.any() else ()


class AtOnce:
    """Destinations that are filled with each payload: nothing is left to do at the end, and nothing lost."""

    def finish(self) -> Sequence[int]:
        """Nothing."""
        return ()


@dataclass(frozen=True, slots=True)
class VaryingRows(AtOnce):
    """Arrays of rows: all of them with zeros behind, or those that a draw names.

    Attributes:
        field: what is read.
        rows: the field's array in the batch, u8 `[B, L, row_bytes]`.
        lengths: i64 `[B]`, rows of each sample, where they are read whole.
        positions: i64 `[B, L]`, which rows to read; None for all of them.
    """

    field: Field
    rows: NDArray[np.uint8]
    lengths: NDArray[np.int64] | None
    positions: Positions | None

    def fill(self, row: int, source: StoredField, source_row: int, check: bool) -> int:
        """Read the rows, or all of the payload where it is checked."""
        out, size, row_bytes = self.rows[row], source.size(source_row), self.field.row_bytes
        length = size // row_bytes
        if self.positions is None:
            source.read_into(source_row, out[:length].reshape(-1), check)
            out[length:] = 0
            return size
        payload = source.view(source_row, check).reshape(length, row_bytes) if check else None
        asked = size if check else 0
        for start, stop, first in runs(self.positions[row].tolist(), length):
            if first == NOTHING:
                out[start:stop] = 0
            elif first == AGAIN:
                out[start] = out[start - 1]
            elif payload is not None:
                out[start:stop] = payload[first : first + stop - start]
            else:
                source.read_part(source_row, first * row_bytes, out[start:stop].reshape(-1))
                asked += (stop - start) * row_bytes
        return asked

    def blank(self, row: int) -> None:
        """Zero a row and its length."""
        self.rows[row] = 0
        if self.lengths is not None:
            self.lengths[row] = 0


@dataclass(frozen=True, slots=True)
class PlainBytes(AtOnce):
    """Payloads as they are, one behind the other, and the label inside them where they are the JSON member.

    Attributes:
        field: what is read.
        data: u8, the payloads of all rows; None if only the label counts.
        offsets: i64 `[B + 1]`, where each begins and ends.
        labels: i64 `[B]`, or None.
    """

    field: Field
    data: NDArray[np.uint8] | None
    offsets: NDArray[np.int64] | None
    labels: NDArray[np.int64] | None

    def fill(self, row: int, source: StoredField, source_row: int, check: bool) -> int:
        """Read the payload."""
        if self.data is None or self.offsets is None:
            payload = source.view(source_row, check)
        else:
            payload = self.data[self.offsets[row] : self.offsets[row + 1]]
            if len(payload) != source.size(source_row):
                raise DamagedShardError("its sidecar could not be read when the batch was planned", shard="")
            source.read_into(source_row, payload, check)
        if self.labels is not None:
            try:
                self.labels[row] = label_of(payload.tobytes())
            except ValueError as error:
                raise DamagedShardError(f"the JSON member has no readable label: {error}", shard="") from None
        return source.size(source_row)

    def blank(self, row: int) -> None:
        """Zero a row, whose bytes remain as many."""
        if self.data is not None and self.offsets is not None:
            self.data[self.offsets[row] : self.offsets[row + 1]] = 0
        if self.labels is not None:
            self.labels[row] = -1
