"""Where pieces of bytes go that are decoded: the decoder writes them straight into the batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import thread_time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.batch.destinations import AtOnce, Positions
from pipeline.batch.runs import AGAIN, NOTHING, runs
from pipeline.batch.stored import StoredField
from pipeline.read.decoders import Decoder
from shards.format.errors import DamagedShardError
from shards.format.packed import read_borders, table_bytes
from shards.format.schema import Field


@dataclass(slots=True)
class Decoding:
    """What was decoded by one thread.

    Attributes:
        num_pieces: frames, say.
        seconds: of processor time, which other threads do not lengthen.
    """

    num_pieces: int = 0
    seconds: float = 0.0

    def run(self, decoder: Decoder, data: NDArray[np.uint8], out: Mapping[str, NDArray[Any]], key: int) -> None:
        """Decode a piece."""
        began = thread_time()
        decoder(data.data, out, key)
        self.num_pieces += 1
        self.seconds += thread_time() - began


@dataclass(frozen=True, slots=True)
class DecodedPieces(AtOnce):
    """Packed pieces, decoded: all of them with zeros behind, or those that a draw names.

    Attributes:
        field: what is read.
        decoder: of each piece.
        outputs: its outputs in the batch, each `[B, L, ...]`.
        keys: of each row, for the decoder.
        lengths: i64 `[B]`, pieces of each sample, where they are read whole.
        positions: i64 `[B, L]`, which pieces to read; None for all of them.
        decoding: what was done so far.
    """

    field: Field
    decoder: Decoder
    outputs: Mapping[str, NDArray[Any]]
    keys: Sequence[int]
    lengths: NDArray[np.int64] | None
    positions: Positions | None
    decoding: Decoding = dataclasses.field(default_factory=Decoding)

    def fill(self, row: int, source: StoredField, source_row: int, check: bool) -> int:
        """Read the table and the pieces, or all of the payload where it is checked, and decode."""
        assert source.extents.pieces is not None
        size, count = source.size(source_row), int(source.extents.pieces[source_row])
        chosen = list(range(count)) if self.positions is None else self.positions[row].tolist()
        whole = source.view(source_row, check) if check or self.positions is None else None
        try:
            table = source.view_part(source_row, 0, table_bytes(count)) if whole is None else whole
            borders = read_borders(table, size, count).tolist()
        except ValueError as error:
            raise DamagedShardError(str(error), shard="") from None
        asked = table_bytes(count) if whole is None else size
        for output in self.outputs.values():
            output[row] = 0
        for start, stop, first in runs(chosen, count):
            if first == AGAIN:
                for output in self.outputs.values():
                    output[row, start] = output[row, start - 1]
            elif first != NOTHING:
                begin, end = borders[first], borders[first + stop - start]
                if whole is None:
                    data, asked = source.view_part(source_row, begin, end), asked + end - begin
                else:
                    data = whole[begin:end]
                ends = [border - begin for border in borders[first : first + stop - start + 1]]
                for place, piece in enumerate(range(first, first + stop - start)):
                    self._decode(row, start + place, piece, data[ends[place] : ends[place + 1]])
        return asked

    def _decode(self, row: int, place: int, piece: int, data: NDArray[np.uint8]) -> None:
        out = {name: output[row, place, ...] for name, output in self.outputs.items()}
        try:
            self.decoding.run(self.decoder, data, out, self.keys[row])
        except ValueError as error:
            raise DamagedShardError(f"piece {piece} does not decode: {error}", shard="") from None

    def blank(self, row: int) -> None:
        """Zero a row and its length."""
        for output in self.outputs.values():
            output[row] = 0
        if self.lengths is not None:
            self.lengths[row] = 0


@dataclass(frozen=True, slots=True)
class DecodedBytes(AtOnce):
    """Bytes that are decoded as one piece; `outputs` are `[B, ...]`."""

    field: Field
    decoder: Decoder
    outputs: Mapping[str, NDArray[Any]]
    keys: Sequence[int]
    decoding: Decoding = dataclasses.field(default_factory=Decoding)

    def fill(self, row: int, source: StoredField, source_row: int, check: bool) -> int:
        """Read the payload and decode it."""
        self.blank(row)
        out = {name: output[row, ...] for name, output in self.outputs.items()}
        try:
            self.decoding.run(self.decoder, source.view(source_row, check), out, self.keys[row])
        except ValueError as error:
            raise DamagedShardError(f"does not decode: {error}", shard="") from None
        return source.size(source_row)

    def blank(self, row: int) -> None:
        """Zero a row."""
        for output in self.outputs.values():
            output[row] = 0
