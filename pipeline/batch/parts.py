"""What each field of a sample becomes in a batch: its arrays in the slab, and what fills them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.batch.batch import BatchPlan
from pipeline.batch.converted import ConvertedRows
from pipeline.batch.decoded import DecodedBytes, DecodedPieces
from pipeline.batch.destinations import Destination, FixedRows, PlainBytes, VaryingRows
from pipeline.batch.slab import Arrays
from pipeline.order.schedule import Samples
from pipeline.read.decoders import Decoder
from shards.dataset import ShardDataset
from shards.format.errors import ShardError
from shards.format.schema import Field


class Part(Protocol):
    """One field that is read."""

    @property
    def field(self) -> Field:
        """As it is stored."""
        ...

    def arrays(self, index: Samples) -> Arrays:
        """Dtype and shape of its arrays in a batch of these samples (-1 for padding)."""
        ...

    def begin(self, plan: BatchPlan) -> None:
        """Write what is known beforehand: lengths, offsets."""
        ...

    def destination(self, plan: BatchPlan, start: int, stop: int) -> Destination:
        """What fills rows `start` to `stop`."""
        ...


@dataclass(frozen=True)
class FixedPart:
    """An array of fixed shape.

    Attributes:
        field: as it is stored.
        drawn: name of the positions to read of it; None for all.
        num_drawn: how many that are.
        left_coded: whether the batch holds what a codec has stored, and not what that was.
    """

    field: Field
    drawn: str | None
    num_drawn: int
    left_coded: bool = False

    @property
    def held(self) -> Field:
        """What a batch holds."""
        return self.field.as_stored if self.left_coded else self.field

    def arrays(self, index: Samples) -> Arrays:
        """`[B, ...]`."""
        held = self.held
        assert held.dtype is not None
        shape = held.fixed_shape
        if self.drawn is not None:
            shape = (self.num_drawn, *shape[1:])
        return {held.name: (held.dtype, (len(index), *shape))}

    def begin(self, plan: BatchPlan) -> None:
        """Nothing is known beforehand."""

    def destination(self, plan: BatchPlan, start: int, stop: int) -> Destination:
        """Rows of bytes, cut into as many pieces as are drawn."""
        array = plan.arrays[self.field.name]
        positions = None if self.drawn is None else plan.arrays[self.drawn]
        if self.held.codec is not None:
            return ConvertedRows(self.field, array, positions)
        num_pieces = 1 if positions is None else positions.shape[1]
        rows = array.view(np.uint8).reshape(len(array), num_pieces, -1)
        return FixedRows(self.field, rows, positions, start, stop)


@dataclass(frozen=True)
class LengthPart:
    """A rows field, or a packed field with a decoder: whole and padded, or as much as is drawn.

    Attributes:
        field: as it is stored.
        dataset: which knows all lengths.
        decoder: of packed pieces.
        drawn: name of the rows or pieces to read; None for all.
        num_drawn: how many that are.
        alike: whether another field of the batch says its lengths.
        single: whether one is drawn, and stands in the batch without an axis of its own.
    """

    field: Field
    dataset: ShardDataset
    decoder: Decoder | None
    drawn: str | None
    num_drawn: int
    alike: bool = False
    single: bool = False

    def _lengths(self, index: Samples) -> NDArray[np.int64]:
        lengths = np.zeros(len(index), np.int64)
        if (real := index >= 0).any():  # nothing is read for padding alone
            lengths[real] = self.dataset.lengths(self.field.name)[index[real]]
        return lengths

    def arrays(self, index: Samples) -> Arrays:
        """`[B, L, ...]` with L the longest of these samples, and lengths `[B]`; of what is drawn `[B, K, ...]`."""
        longest = self.num_drawn if self.drawn is not None else int(self._lengths(index).max(initial=0))
        if self.decoder is not None:
            outputs = dict(self.decoder.outputs)
        else:
            assert self.field.dtype is not None
            outputs = {self.field.name: (self.field.dtype, self.field.row_shape)}
        first = (len(index),) if self.single else (len(index), longest)
        arrays = {name: (dtype, (*first, *shape)) for name, (dtype, shape) in outputs.items()}
        return arrays | {self._length_name: ("<i8", (len(index),))} if self._says_lengths else arrays

    @property
    def _length_name(self) -> str:
        return f"{self.field.name}_length"

    @property
    def _says_lengths(self) -> bool:
        return self.drawn is None and not self.alike

    def begin(self, plan: BatchPlan) -> None:
        """The lengths."""
        if self._says_lengths:
            plan.arrays[self._length_name][:] = self._lengths(plan.arrays["index"])

    def destination(self, plan: BatchPlan, start: int, stop: int) -> Destination:
        """Rows as bytes, or the decoder's outputs."""
        del start, stop
        lengths = plan.arrays[self._length_name] if self._says_lengths else None
        positions = None if self.drawn is None else plan.arrays[self.drawn]
        if self.decoder is not None:
            outputs = {name: self._pieces(plan, name) for name in self.decoder.outputs}
            return DecodedPieces(self.field, self.decoder, outputs, plan.keys, lengths, positions)
        array = self._pieces(plan, self.field.name)
        rows = array.view(np.uint8).reshape(*array.shape[:2], self.field.row_bytes)
        return VaryingRows(self.field, rows, lengths, positions)

    def _pieces(self, plan: BatchPlan, name: str) -> NDArray[Any]:
        """An array of the batch, `[B, L, ...]`."""
        array = plan.arrays[name]
        return array[:, None] if self.single else array


@dataclass(frozen=True)
class DecodedBytesPart:
    """Bytes with a decoder: one piece a sample."""

    field: Field
    decoder: Decoder

    def arrays(self, index: Samples) -> Arrays:
        """The decoder's outputs, `[B, ...]`."""
        return {name: (dtype, (len(index), *shape)) for name, (dtype, shape) in self.decoder.outputs.items()}

    def begin(self, plan: BatchPlan) -> None:
        """Nothing is known beforehand."""

    def destination(self, plan: BatchPlan, start: int, stop: int) -> Destination:
        """The decoder's outputs."""
        del start, stop
        outputs = {name: plan.arrays[name] for name in self.decoder.outputs}
        return DecodedBytes(self.field, self.decoder, outputs, plan.keys)


@dataclass(frozen=True)
class PlainBytesPart:
    """Payloads as they are: bytes and offsets, and the label in them, or only that."""

    field: Field
    dataset: ShardDataset
    kept: bool
    label: bool

    def arrays(self, index: Samples) -> Arrays:
        """`[num_bytes]` and offsets `[B + 1]`; labels `[B]`."""
        arrays: Arrays = {"label": ("<i8", (len(index),))} if self.label else {}
        if self.kept:
            arrays[self.field.name] = ("|u1", (int(self._sizes(index).sum()),))
            arrays[f"{self.field.name}_offsets"] = ("<i8", (len(index) + 1,))
        return arrays

    def begin(self, plan: BatchPlan) -> None:
        """The offsets."""
        if self.kept:
            offsets = plan.arrays[f"{self.field.name}_offsets"]
            offsets[0] = 0
            np.cumsum(self._sizes(plan.arrays["index"]), out=offsets[1:])

    def _sizes(self, index: Samples) -> NDArray[np.int64]:
        """Bytes of each sample; 0 for padding, and where a sidecar cannot be read, which is said when it is used."""
        sizes = np.zeros(len(index), np.int64)
        shards, rows = self.dataset.locate(index[index >= 0])
        for place, shard, row in zip(np.flatnonzero(index >= 0), shards.tolist(), rows.tolist(), strict=True):
            try:
                sizes[place] = self.dataset.extents(shard, self.field.name).sizes[row]
            except (ShardError, OSError):
                continue
        return sizes

    def destination(self, plan: BatchPlan, start: int, stop: int) -> Destination:
        """The bytes, the labels, or both."""
        del start, stop
        data = plan.arrays[self.field.name] if self.kept else None
        offsets = plan.arrays[f"{self.field.name}_offsets"] if self.kept else None
        return PlainBytes(self.field, data, offsets, plan.arrays["label"] if self.label else None)
