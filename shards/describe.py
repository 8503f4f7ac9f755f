"""What a data set holds, in lines for people: one for each field."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from shards.format.errors import ShardError
from shards.format.schema import Field
from shards.words import spell_bytes

if TYPE_CHECKING:
    from shards.dataset import ShardDataset


def describe_fields(dataset: ShardDataset) -> list[str]:
    """One line a field: name, kind, dtype and shape, group, bytes in all and a sample, and lengths.

    Sizes and lengths are those of the sidecars. Where one of them cannot be read, a last line says so.
    """
    width = max(len(field.name) for field in dataset.schema)
    lines, problem = [], ""
    for field in dataset.schema:
        parts = _kind(field)
        try:
            parts += _sizes(dataset, field)
        except (ShardError, OSError) as error:
            problem = str(error)
        lines.append(f"{field.name:<{width}} {field.kind:<6} {', '.join(parts)}".rstrip())
    return [*lines, *([f"sizes and lengths are not all known: {problem}"] if problem else [])]


def _kind(field: Field) -> list[str]:
    parts = []
    if field.is_npy:
        axes = ", ".join("n" if length is None else str(length) for length in field.shape or ())
        parts = [f"{field.dtype} [{axes}]", f"{field.layout} layout"]
        parts += [] if field.codec is None else [f"codec {field.codec}"]
    return parts + ([f"group {field.group}"] if field.group else [])


def _sizes(dataset: ShardDataset, field: Field) -> list[str]:
    if not len(dataset):
        return []
    if field.is_array:
        return [f"{spell_bytes(field.num_bytes * len(dataset))} in all", f"{field.num_bytes:,} bytes a sample"]
    sizes = dataset.sizes(field.name)
    parts = [f"{spell_bytes(int(sizes.sum()))} in all", f"{sizes.mean():,.0f} bytes a sample (at most {sizes.max():,})"]
    if field.has_lengths:
        lengths = dataset.lengths(field.name)
        what = "rows" if field.is_rows else "pieces"
        parts.append(f"{lengths.min():,} to {lengths.max():,} {what} (mean {np.mean(lengths):,.1f})")
    return parts
