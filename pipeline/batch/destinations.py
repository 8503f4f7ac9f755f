"""Where payloads come from and where they go: one field of one open shard, one field of some rows of a batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from pipeline.read.decoders import Decoder
from pipeline.read.gather import beyond_last_piece, gather
from pipeline.read.labels import label_of
from pipeline.read.readers import OpenShard
from shards.format.errors import DamagedShardError
from shards.format.extents import Extents
from shards.format.schema import Field


@dataclass(frozen=True, slots=True)
class StoredField:
    """One field of one shard: the open tar, and where each row's payload lies in it.

    `check` compares the payload with its checksum. All methods raise DamagedShardError where the file or the payload
    is not what it was when it was written.
    """

    shard: OpenShard
    extents: Extents

    def address(self, row: int) -> int | None:
        """Where a payload is mapped as long as this object lives, or None if it must be read."""
        return self.shard.address(int(self.extents.offsets[row]), int(self.extents.sizes[row]))

    def view(self, row: int, check: bool) -> NDArray[np.uint8]:
        """A payload, u8 `[size]`, good until this thread asks for another."""
        payload = self.shard.view(int(self.extents.offsets[row]), int(self.extents.sizes[row]))
        return self._checked(payload, row) if check else payload

    def read_into(self, row: int, out: NDArray[np.uint8], check: bool) -> None:
        """Fill `out`, u8 `[size]`, with a payload."""
        self.shard.read_into(int(self.extents.offsets[row]), out)
        if check:
            self._checked(out, row)

    def _checked(self, payload: NDArray[np.uint8], row: int) -> NDArray[np.uint8]:
        if xxhash.xxh3_64_intdigest(payload.data) != int(self.extents.checksums[row]):
            problem = "the payload's checksum is wrong: its bytes were changed"
            raise DamagedShardError(problem, shard=self.shard.path.name)
        return payload


class Rows:
    """Rows of bytes, whole or only at the positions of a mask.

    Mapped payloads are copied all at once, at the end. What is to be checked is read whole, and what is given out is
    what was checked, not what the file holds a moment later.
    """

    def __init__(
        self, field: Field, rows: NDArray[np.uint8], positions: NDArray[np.int64] | None, start: int, stop: int
    ) -> None:
        """Fill rows `start` to `stop`.

        Args:
            field: what is read.
            rows: the field's array in the batch, u8 `[B, P, piece_bytes]`.
            positions: i64 `[B, P]`, which pieces of a payload to take; None for all of them.
            start: first row.
            stop: the row after the last.
        """
        self.field, self._rows, self._positions = field, rows, positions
        self._start, self._stop = start, stop
        self._addresses = np.zeros(stop - start, np.uint64)
        self._held: list[StoredField] = []  # so that no address outlives its mapping

    def fill(self, row: int, source: StoredField, source_row: int, check: bool) -> None:
        """Put one payload into its row, at once or with `finish`."""
        if not check and (address := source.address(source_row)) is not None:
            self._addresses[row - self._start] = address
            self._held.append(source)
        elif self._positions is None:
            source.read_into(source_row, self._rows[row].reshape(-1), check)
        else:
            pieces = source.view(source_row, check).reshape(self._num_pieces, -1)
            if self._positions[row].min() < 0 or self._positions[row].max() >= len(pieces):
                raise beyond_last_piece(len(pieces))
            pieces.take(self._positions[row], axis=0, out=self._rows[row], mode="clip")

    @property
    def _num_pieces(self) -> int:
        return self._rows.shape[1] if self._positions is None else self.field.num_positions

    def blank(self, row: int) -> None:
        """Zero a row, so that nothing of an earlier batch shows."""
        self._rows[row] = 0

    def finish(self) -> list[int]:
        """Copy what `fill` only took note of; returns the rows whose mapped bytes were not there any more."""
        if not self._held:
            return []
        chosen = None if self._positions is None else self._positions[self._start : self._stop]
        lost = gather(self._rows[self._start : self._stop], self._addresses, chosen, self._num_pieces)
        return [self._start + row for row in lost.nonzero()[0].tolist()] if lost.any() else []


@dataclass(frozen=True, slots=True)
class Ragged:
    """A list of ragged pieces, as they are or decoded, and the label inside them where they are the JSON member."""

    field: Field
    pieces: list[bytes] | None
    decoded: list[NDArray[Any] | None] | None
    decoder: Decoder | None
    labels: NDArray[np.int64] | None

    def fill(self, row: int, source: StoredField, source_row: int, check: bool) -> None:
        """Put one payload into its row, at once or with `finish`."""
        data = source.view(source_row, check).tobytes()
        if self.pieces is not None:
            self.pieces[row] = data
        if self.decoded is not None and self.decoder is not None:
            try:
                self.decoded[row] = self.decoder(data)
            except ValueError as error:
                raise DamagedShardError(f"does not decode: {error}", shard="") from None
        if self.labels is not None:
            try:
                self.labels[row] = label_of(data)
            except ValueError as error:
                raise DamagedShardError(f"the JSON member has no readable label: {error}", shard="") from None

    def blank(self, row: int) -> None:
        """Zero a row, so that nothing of an earlier batch shows."""
        if self.pieces is not None:
            self.pieces[row] = b""
        if self.decoded is not None:
            self.decoded[row] = None
        if self.labels is not None:
            self.labels[row] = -1

    def finish(self) -> list[int]:
        """Nothing is left to do, and nothing lost."""
        return []


Destination = Rows | Ragged
