"""Where arrays go that a codec has stored, when the batch is to hold them as they were."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.batch.destinations import FixedRows, Positions
from pipeline.batch.stored import StoredField
from pipeline.read.decode import decode_into
from shards.format.schema import Field

WAY = "memcpy"  # through the caches, from which it is decoded at once


class ConvertedRows:
    """Arrays of fixed shape, whole or only at the positions of a mask, decoded row by row in the thread that read them.

    What is read of a row lies in memory of this object only until it is decoded.
    """

    def __init__(self, field: Field, array: NDArray[Any], positions: Positions | None) -> None:
        """Prepare.

        Args:
            field: what is read; it has a codec.
            array: the field's array in the batch, `[B, P, ...]`, of its own dtype.
            positions: i64 `[B, P]`, which positions to read; None for all of them.
        """
        self.field, self._array, self._positions = field, array, positions
        num_bytes = field.num_bytes // field.num_positions * array.shape[1]
        num_pieces = 1 if positions is None else array.shape[1]
        self._stored = np.empty((1, num_pieces, num_bytes // num_pieces), np.uint8)
        self._lost: list[int] = []

    def fill(self, row: int, source: StoredField, source_row: int, check: bool) -> int:
        """Read what is drawn of a payload, and decode it."""
        positions = None if self._positions is None else self._positions[row : row + 1]
        stored = FixedRows(self.field, self._stored, positions, 0, 1, way=WAY)
        asked = stored.fill(0, source, source_row, check)
        if stored.finish():
            self._lost.append(row)
        else:
            decode_into(self.field, self._stored.reshape(-1), self._array[row])
        return asked

    def blank(self, row: int) -> None:
        """Zero a row."""
        self._array[row] = 0

    def finish(self) -> Sequence[int]:
        """Nothing is left to do; the rows whose mapped bytes were not there any more."""
        return self._lost
