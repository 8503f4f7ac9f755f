"""What each field of a sample becomes in a batch: its arrays in the slab, and what fills them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.batch.batch import BatchPlan
from pipeline.batch.decoded import DecodedBytes, DecodedPieces
from pipeline.batch.destinations import Destination, FixedRows, PlainBytes, VaryingRows
from pipeline.batch.slab import Arrays
from pipeline.order.schedule import Samples
from pipeline.read.decoders import Decoder
from pipeline.reads import Reads
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
    """An array of fixed shape; `drawn` names the positions to read of it, `num_drawn` how many."""

    field: Field
    drawn: str | None
    num_drawn: int

    def arrays(self, index: Samples) -> Arrays:
        """`[B, ...]`."""
        assert self.field.dtype is not None
        shape = self.field.fixed_shape
        if self.drawn is not None:
            shape = (self.num_drawn, *shape[1:])
        return {self.field.name: (self.field.dtype, (len(index), *shape))}

    def begin(self, plan: BatchPlan) -> None:
        """Nothing is known beforehand."""

    def destination(self, plan: BatchPlan, start: int, stop: int) -> Destination:
        """Rows of bytes, cut into as many pieces as are drawn."""
        array = plan.arrays[self.field.name]
        positions = None if self.drawn is None else plan.arrays[self.drawn]
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


def make_parts(dataset: ShardDataset, reads: Reads) -> tuple[Part, ...]:
    """One part for each field that is read; the JSON member is one, whether its bytes, its label or both are wanted.

    Raises:
        ValueError: the data set has no such field, or something is asked of it that it cannot give.
    """
    fields = {name: dataset.schema["json" if name == "label" else name] for name in reads.fields}
    drawn = {name: draw for draw in reads.draws for name in draw.shapes}
    _refuse_unfit(fields, reads)
    parts: dict[str, Part] = {}
    for field in fields.values():
        name, decoder = field.name, reads.decoders.get(field.name)
        draw_name = reads.gather.get(name)
        num_drawn = 0
        if draw_name is not None:
            if draw_name not in drawn:
                got = sorted(drawn) or "no mask"
                raise ValueError(f"gather: {name} needs a mask or another draw that draws {draw_name!r}, got {got}")
            shape = drawn[draw_name].shapes[draw_name]
            if len(shape) != 1:
                raise ValueError(f"gather: {draw_name} is drawn with shape {shape}, needed is a list of positions")
            (num_drawn,) = shape
            num_positions = drawn[draw_name].num_positions
            expected = field.num_positions if field.is_array else None
            if num_positions != expected:
                raise ValueError(f"field {name} has {_spell(expected)} positions, the mask has {_spell(num_positions)}")
        if field.is_array:
            parts[name] = FixedPart(field, draw_name, num_drawn)
        elif field.is_rows or (field.is_packed and decoder is not None):
            single = name in reads.single
            parts[name] = LengthPart(field, dataset, decoder, draw_name, num_drawn, name in reads.alike, single)
        elif decoder is not None:
            parts[name] = DecodedBytesPart(field, decoder)
        else:
            kept, label = name in reads.fields, name == "json" and "label" in reads.fields
            parts[name] = PlainBytesPart(field, dataset, kept, label)
    _refuse_unlike(parts, reads)
    _refuse_twice(parts, reads)
    return tuple(parts.values())


def _spell(num_positions: int | None) -> str:
    return "as many as a sample has" if num_positions is None else str(num_positions)


def _refuse_unfit(fields: dict[str, Field], reads: Reads) -> None:
    for name in reads.single:
        drawn = [draw.shapes.get(reads.gather.get(name, "")) for draw in reads.draws]
        if name not in fields or not fields[name].has_lengths or (1,) not in drawn:
            raise ValueError(f"single: {name} must be rows or packed pieces of which one is drawn")
    for name in reads.decoders:
        if name not in fields or name == "label" or fields[name].is_npy:
            raise ValueError(f"decoders: {name} must be among the fields, and packed pieces or bytes")
        if name == "json" and "label" in fields:
            raise ValueError("decoders: json is decoded or gives the label, not both: let the decoder give it")
    for name in reads.gather:
        field = fields.get(name)
        if field is None or not (field.layout == "tubes" or field.has_lengths):
            what = "not" if field is None else f"{field.spell_kind()} in the {field.layout} layout"
            raise ValueError(
                f"gather: {name} must be among the fields, and in the tubes layout, rows or packed pieces; here it is "
                f"{what}"
            )
        if field.is_packed and name not in reads.decoders:
            raise ValueError(f"gather: {name} is packed pieces, which become rows of a batch only with a decoder")


def _refuse_unlike(parts: Mapping[str, Part], reads: Reads) -> None:
    """Compare the lengths of fields that are said to have the same; reads sidecars."""
    for name, other in reads.alike.items():
        one, two = parts.get(name), parts.get(other)
        if not isinstance(one, LengthPart) or not isinstance(two, LengthPart) or {name, other} & set(reads.gather):
            raise ValueError(f"alike: {name} and {other} must both be rows or decoded pieces that are read whole")
        dataset = one.dataset
        unlike = np.flatnonzero(dataset.lengths(name) != dataset.lengths(other))
        if len(unlike):
            number = int(unlike[0])
            found = f"{dataset.lengths(name)[number]} and {dataset.lengths(other)[number]}"
            raise ShardError(f"sample {dataset.key(number)}: {name} and {other} should be of one length, are {found}")


def _refuse_twice(parts: dict[str, Part], reads: Reads) -> None:
    names = [name for part in parts.values() for name in part.arrays(np.empty(0, np.int64))]
    names += ["index", "valid", *(name for draw in reads.draws for name in draw.shapes)]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{', '.join(twice)} would be in a batch twice: fields, draws and decoders need other names")


def draw_arrays(reads: Reads, num_rows: int) -> Arrays:
    """Name, dtype and shape of what is drawn for a batch."""
    return {name: ("<i8", (num_rows, *shape)) for draw in reads.draws for name, shape in draw.shapes.items()}
