"""Which part reads each field of a data set, and what cannot be asked of it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from pipeline.batch.parts import DecodedBytesPart, FixedPart, LengthPart, Part, PlainBytesPart
from pipeline.batch.slab import Arrays
from pipeline.reads import Reads
from shards.dataset import ShardDataset
from shards.format.errors import ShardError
from shards.format.schema import Field


def make_parts(dataset: ShardDataset, reads: Reads, *, leave_coded: bool = False) -> tuple[Part, ...]:
    """One part for each field that is read; the JSON member is one, whether its bytes, its label or both are wanted.

    With `leave_coded`, batches hold what codecs have stored, for whoever decodes it.

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
            parts[name] = FixedPart(field, draw_name, num_drawn, leave_coded)
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
